"""Choosing the best epoch: by NDCG@10 on a dev collection, by the objective on validation pairs, or the last."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from ragcun.config import TrainConfig
from ragcun.data.beir import Collection
from ragcun.embeddings.base import Base, VectorSource
from ragcun.errors import InputError
from ragcun.losses.gather import alone
from ragcun.losses.objective import Objective
from ragcun.models.encoder import CachedEncoder, RetrievalEncoder
from ragcun.models.projection import ProjectionEncoder
from ragcun.models.systems import AsymmetricProjectionModel
from ragcun.models.whitening import Calibration
from ragcun.retrieval.evaluate import DenseRetriever, evaluate_retriever
from ragcun.retrieval.significance import paired_tests
from ragcun.training.batches import PairSource, Rows, epoch_batches, make_source
from ragcun.training.guards import require_finite
from ragcun.training.initialization import mixed
from ragcun.training.setup import TrainingData

logger = logging.getLogger(__name__)

NDCG = "NDCG@10"
MOST_LOOKS = 15
"""Looks at the held-out data in a run of many epochs."""


@dataclass
class Verdict:
    """What one look at the model found.

    Attributes:
        score: higher is better; None where there is nothing to choose by.
        row: the figures, for the metrics file.
    """

    score: float | None = None
    row: dict[str, Any] = field(default_factory=dict)


class DevSelection:
    """Selection by NDCG@10 on a dev collection, Euclidean, with the untouched base measured beside it."""

    criterion = "dev NDCG@10"

    def __init__(self, collection: Collection, base: Base, cache: VectorSource | None) -> None:
        self.collection = collection
        self.cache = cache
        untouched = CachedEncoder(cache) if cache is not None else _Untouched(base)
        self.base_score = self._ndcg(DenseRetriever("untouched base", untouched, base.distance))

    def __call__(self, encoder: RetrievalEncoder) -> Verdict:
        """Measure the encoder."""
        encoding = encoder if self.cache is None else CachedEncoder(self.cache, encoder)
        score = self._ndcg(DenseRetriever("model", encoding, "euclidean"))
        return Verdict(score, {"dev": {NDCG: score}})

    def _ndcg(self, retriever: DenseRetriever) -> float:
        return evaluate_retriever(retriever, self.collection, cutoffs=(10,)).mean[NDCG]


class ObjectiveSelection:
    """Selection by the training objective, all its terms, on validation pairs in evaluation mode."""

    criterion = "validation objective"
    base_score = None

    def __init__(self, source: PairSource, batches: list[Rows], objective: Objective) -> None:
        self.source = source
        self.batches = batches
        self.objective = objective

    def __call__(self, encoder: RetrievalEncoder) -> Verdict:
        """Measure the encoder."""
        total, terms = mean_loss(encoder, self.source, self.batches, self.objective)
        return Verdict(-total, {"val_total": total, "val_terms": terms})


class LastSelection:
    """No selection: the last epoch is kept."""

    criterion = "last epoch"
    base_score = None

    def __call__(self, encoder: RetrievalEncoder) -> Verdict:
        """Measure nothing."""
        return Verdict()


Selection = DevSelection | ObjectiveSelection | LastSelection


def make_selection(
    data: TrainingData,
    base: Base,
    cache: VectorSource | None,
    objective: Objective,
    batch_size: int,
    device: torch.device,
) -> Selection:
    """Return how the best epoch is chosen with the data at hand."""
    if data.dev is not None:
        return DevSelection(data.dev, base, cache)
    if data.val is not None:
        source = make_source(data.val, base, cache, device)
        return ObjectiveSelection(source, epoch_batches(len(data.val), batch_size, 0, None), objective)
    return LastSelection()


def judge(
    selection: Selection, encoder: RetrievalEncoder, shown: Callable[[], RetrievalEncoder], epoch: int
) -> Verdict:
    """Measure an encoder after an epoch in the form in which it is shown (`shown` makes it of `encoder`).

    Raises:
        InputError: its weights are not finite, or what it embeds cannot be measured.
    """
    require_finite(encoder, f"epoch {epoch}")
    try:
        verdict = selection(shown())
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"the model cannot be measured after epoch {epoch}: {error}; lower --learning_rate") from error
    if verdict.score is not None:
        logger.info("epoch %d: %s %.4f", epoch, selection.criterion, abs(verdict.score))
    return verdict


def is_judged(epoch: int, epochs: int) -> bool:
    """Whether the model is measured after this epoch of a run: after every one, or about `MOST_LOOKS` times.

    >>> [epoch for epoch in range(1, 41) if is_judged(epoch, 40)]
    [3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 33, 36, 39, 40]
    """
    return epoch % -(-epochs // MOST_LOOKS) == 0 or epoch == epochs


@torch.no_grad()
def mean_loss(
    encoder: RetrievalEncoder, source: PairSource, batches: Iterable[Rows], objective: Objective
) -> tuple[float, dict[str, float]]:
    """Return total and terms of the objective in evaluation mode, averaged over pairs."""
    encoder.eval()
    pairs, sums = 0, dict[str, float]()
    for rows in batches:
        with alone():
            output = objective(encoder(source.batch(rows)))
        pairs += len(rows)
        for name, value in {"total": output.total, **output.terms}.items():
            sums[name] = sums.get(name, 0.0) + float(value) * len(rows)
    means = {name: value / pairs for name, value in sums.items()}
    return means.pop("total"), means


def is_better(score: float | None, best: float | None) -> bool:
    """Whether a score replaces the best one; without scores the newer always does."""
    if score is None or best is None:
        return True
    return math.isfinite(score) and score > best


@dataclass
class _Untouched:
    """The base as published, encoding texts anew."""

    base: Base

    def encode_query(self, texts: list[str]) -> Any:
        return self.base.untouched_array(self.base.encode(texts, "query"))

    def encode_document(self, texts: list[str]) -> Any:
        return self.base.untouched_array(self.base.encode(texts, "document"))


LEVEL = 0.05


@dataclass(frozen=True)
class Comparison:
    """Which of trained model, start and base is kept, and why.

    Attributes:
        kept: ``trained``, ``start`` or ``base``.
        scores: mean NDCG@10 of each on the held-out queries.
        p_values: of the difference that each step compared, by the two names.
        queries: how many held-out queries there are.
        source: what they are.
    """

    kept: str
    scores: dict[str, float]
    p_values: dict[str, float]
    queries: int
    source: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)

    def __str__(self) -> str:
        scores = ", ".join(f"{name} {score:.4f}" for name, score in self.scores.items())
        return f"never worse: {self.kept} kept (NDCG@10 on {self.queries} queries of {self.source}: {scores})"


def with_weights(encoder: RetrievalEncoder, weights: Mapping[str, Tensor]) -> RetrievalEncoder:
    """Return an encoder of the same shape and base with other weights beside the base."""
    other = type(encoder).from_config(encoder.base, encoder.to_config())
    own = {name: value for name, value in weights.items() if not name.startswith("base.")}
    other.load_state_dict({**other.state_dict(), **own})
    return other.to(next(encoder.parameters()).device).eval()


def never_worse(
    trained: RetrievalEncoder, start: RetrievalEncoder, collection: Collection, cache: VectorSource, seed: int
) -> tuple[RetrievalEncoder, Comparison]:
    """Return the trained encoder, its start or the base, and the comparison that says which.

    The start takes the trained encoder's place where its mean NDCG@10 is higher and the paired randomisation test gives
    p < .05; then likewise the base (as a head that is the identity, where dimensions agree). So without evidence
    against it the trained encoder stays.
    """
    encoders = {"trained": trained, "start": start}
    if isinstance(trained, ProjectionEncoder) and trained.dimension == trained.base.dimension:
        identity = AsymmetricProjectionModel(trained.base, head="linear", normalize_output=trained.normalize_output)
        encoders["base"] = identity.to(next(trained.parameters()).device).eval()
    found = {
        name: evaluate_retriever(DenseRetriever(name, CachedEncoder(cache, encoder)), collection, cutoffs=(10,))
        for name, encoder in encoders.items()
    }
    kept, p_values = "trained", {}
    for other in [name for name in encoders if name != "trained"]:
        ours, theirs = found[kept], found[other]
        p = paired_tests(ours.per_query[NDCG], theirs.per_query[NDCG], seed=seed).p_randomisation
        p_values[f"{kept} against {other}"] = p
        if theirs.mean[NDCG] > ours.mean[NDCG] and p < LEVEL:
            kept = other
    scores = {name: evaluation.mean[NDCG] for name, evaluation in found.items()}
    comparison = Comparison(kept, scores, p_values, len(collection.qrels), collection.name)
    logger.info("%s", comparison)
    return encoders[kept], comparison


def settle(
    encoder: RetrievalEncoder,
    config: TrainConfig,
    source: PairSource,
    start: Mapping[str, Tensor],
    calibration: Calibration | None,
    check: Collection | None,
    cache: VectorSource | None,
) -> tuple[RetrievalEncoder, Comparison | None]:
    """Return what a run's best weights come to, and the comparison that chose it where one was asked for.

    Without labels the shift of queries is the calibrated one, since the training queries are not like real ones; only
    a linear head can take it after training, others keep what they learned. Then the base is mixed in where asked, and
    trained encoder, start and base are compared on `check`.
    """
    if config.label_free and calibration is not None and config.head == "linear":
        encoder.shift_queries(torch.from_numpy(calibration.query_shift))
    final = mixed(encoder, config, source)
    if check is None or cache is None:
        return final, None
    return never_worse(final, mixed(with_weights(encoder, start), config, source), check, cache, config.seed)
