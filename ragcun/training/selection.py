"""Selection: the best epoch by NDCG@10 or the objective on held-out data, and the final model, never worse."""

from __future__ import annotations

import copy
import logging
import math
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ragcun.config import Distance, TrainConfig
from ragcun.data.beir import Collection, load_collection, pairs_from_collection, query_folds
from ragcun.data.pairs import PairDataset
from ragcun.embeddings.base import Base, Rows, VectorSource
from ragcun.errors import InputError, as_input_error
from ragcun.losses.objective import Objective
from ragcun.models.cached_encoder import CachedEncoder
from ragcun.models.encoder import RetrievalEncoder
from ragcun.models.projection import ProjectionEncoder, interpolate_with_base
from ragcun.models.systems import AsymmetricProjectionModel
from ragcun.retrieval.metrics import paired_tests
from ragcun.retrieval.systems import DenseRetriever, Evaluation, evaluate_retriever
from ragcun.training.batches import PairSource, epoch_batches, require_contrast
from ragcun.training.processes import Processes
from ragcun.training.setup import TrainingData, build_teacher

logger = logging.getLogger(__name__)

NDCG = "NDCG@10"
DEV = f"dev {NDCG}"
MOST_EVALUATIONS = 15
"""Evaluations on held-out data in a run of many epochs."""
LEVEL = 0.05
LEAST_QUERIES = 20
"""Held-out queries below which no comparison tells a worse model from a better one."""
FOLDS = 5
"""Parts of the training queries, each held out once, by which models are compared without other held-out queries."""
MIXED_VECTORS = 2000
Evaluated = tuple[float | None, dict[str, Any]]
"""A score, higher is better, None without held-out data; and what is logged of it."""


@dataclass(frozen=True)
class Selection:
    """How the best epoch is selected: by default the last; `base_score` is the untouched base's on the same data."""

    criterion: str = "last epoch"
    score: Callable[[RetrievalEncoder], Evaluated] = lambda encoder: (None, {})
    base_score: float | None = None

    def evaluate(self, encoder: RetrievalEncoder, epoch: int) -> Evaluated:
        """Evaluate an encoder after an epoch."""
        with as_input_error(f"no evaluation after epoch {epoch}", "; lower --learning_rate"):
            score, row = self.score(encoder)
        if score is not None:
            logger.info("epoch %d: %s %.4f", epoch, self.criterion, abs(score))
        return score, row


def make_selection(data: TrainingData, source: PairSource, objective: Objective, batch_size: int) -> Selection:
    """Return selection by NDCG@10 on a dev collection, the objective on validation pairs, or the last epoch.

    Vectors come from where the `source` of training pairs has them.
    """
    base, features = source.base, source.vectors
    if data.dev is not None:
        dev = data.dev
        untouched = _Untouched(base.untouched) if features is None else CachedEncoder(features.untouched)

        def ndcg(encoder: RetrievalEncoder) -> Evaluated:
            score = _judge(encoder if features is None else CachedEncoder(features, encoder), dev).mean[NDCG]
            return score, {"dev": {NDCG: score}}

        return Selection(DEV, ndcg, _judge(untouched, dev, base.distance).mean[NDCG])
    if data.val is not None:
        held_out = PairSource(data.val, base, source.device, features)
        batches = epoch_batches(len(data.val), batch_size, 0, None)
        return Selection("validation objective", lambda encoder: mean_loss(encoder, held_out, batches, objective))
    return Selection()


def _judge(encoder: Any, collection: Collection, distance: Distance = "euclidean") -> Evaluation:
    return evaluate_retriever(DenseRetriever("judged", encoder, distance), collection, cutoffs=(10,))


def is_evaluated(epoch: int, epochs: int) -> bool:
    """Whether the model is evaluated after this epoch of a run: after every one, or about `MOST_EVALUATIONS` times.

    >>> [epoch for epoch in range(1, 41) if is_evaluated(epoch, 40)]
    [3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 33, 36, 39, 40]
    """
    return epoch % -(-epochs // MOST_EVALUATIONS) == 0 or epoch == epochs


@torch.no_grad()
def mean_loss(
    encoder: RetrievalEncoder, source: PairSource, batches: Iterable[Rows], objective: Objective
) -> Evaluated:
    """Evaluate by minus the objective, all its terms, in evaluation mode, averaged over pairs."""
    encoder.eval()
    pairs, sums = 0, dict[str, float]()
    for rows in batches:
        output = objective(encoder(source.batch(rows)), alone=True)
        pairs += len(rows)
        for name, value in {"total": output.total, **output.terms}.items():
            sums[name] = sums.get(name, 0.0) + float(value) * len(rows)
    means = {name: value / pairs for name, value in sums.items()}
    total = means.pop("total")
    return -total, {"val_total": total, "val_terms": means}


def is_better(score: float | None, best: float | None) -> bool:
    """Whether a score replaces the best one; without scores the newer always does."""
    if score is None or best is None:
        return True
    return math.isfinite(score) and score > best


def mixed_with_base(encoder: RetrievalEncoder, share: float, source: PairSource, seed: int) -> RetrievalEncoder:
    """Return the encoder whose embeddings hold the base's vectors too, by their share of the distances; 0 is itself."""
    if not share:
        return encoder
    if not isinstance(encoder, ProjectionEncoder):
        raise InputError(f"--mix_with_base: a {encoder.system} encoder has no head to mix with the base")
    own = copy.copy(source)
    own.base = encoder.base  # which, where it is trained, may be that of other weights
    queries, documents = own.sides(MIXED_VECTORS, seed)
    with as_input_error("--mix_with_base"):
        mixed = interpolate_with_base(encoder, share, {"query": queries, "document": documents})
    return mixed


def with_weights(encoder: RetrievalEncoder, weights: Mapping[str, Tensor]) -> RetrievalEncoder:
    """Return an encoder of the same shape with other trained weights: on the same base, or a copy of a trained one."""
    base = encoder.base if encoder.base.frozen else copy.deepcopy(encoder.base)
    other = type(encoder).from_config(base, encoder.to_config())
    own = {name: weights[name] for name in other.trained_state() if name in weights}
    other.load_state_dict({**other.state_dict(), **own})
    return other.to(next(encoder.parameters()).device).eval()


@dataclass(frozen=True)
class FinalSelection:
    """Which of trained model, start and base is kept, and why; `per_query` has NDCG@10 by model and query."""

    kept: str
    scores: dict[str, float]
    p_values: dict[str, float]
    queries: int
    source: str
    per_query: dict[str, dict[str, float]] = field(repr=False)

    def __str__(self) -> str:
        scores = ", ".join(f"{name} {score:.4f}" for name, score in self.scores.items())
        few = f", since fewer than {LEAST_QUERIES} queries cannot tell" if self.queries < LEAST_QUERIES else ""
        return f"never worse: {self.kept} kept{few} (NDCG@10 on {self.queries} queries of {self.source}: {scores})"


def final_model(
    config: TrainConfig,
    trained: RetrievalEncoder,
    initial: Mapping[str, Tensor],
    held_out: Collection | Sequence[FinalSelection],
    source: PairSource,
) -> tuple[RetrievalEncoder, FinalSelection | None]:
    """Return the trained encoder, or with `held_out` what `select_final_model` keeps; mixed with the base if asked."""
    mix = partial(mixed_with_base, share=config.mix_with_base, source=source, seed=config.seed)
    if not held_out:
        return mix(trained), None
    start = mix(with_weights(trained, initial))
    return select_final_model(mix(trained), start, held_out, source.vectors, config.seed)


def select_final_model(
    trained: RetrievalEncoder,
    initial: RetrievalEncoder,
    held_out: Collection | Sequence[FinalSelection],
    features: VectorSource | None,
    seed: int,
) -> tuple[RetrievalEncoder, FinalSelection]:
    """Return the trained encoder, the initial one or the base, and the comparison that selected it.

    The initial encoder replaces the trained one where its mean NDCG@10 is higher and the paired randomisation test
    gives p < .05; then likewise the base without a lexical channel (as a head that is the identity, where dimensions
    were kept). So without evidence against it the trained encoder stays; of fewer than `LEAST_QUERIES` queries, which
    give none, the initial one. The base is that of the initial encoder; one that is trained has no `features`.

    Instead of held-out queries, the comparisons of cross-validation may be given: each query was held out once.
    """
    encoders = {"trained": trained, "start": initial}
    if isinstance(trained, ProjectionEncoder) and trained.dimension == trained.base.dimension:
        base, scaled = initial.base.untouched, trained.normalize_output
        identity = AsymmetricProjectionModel(base, head="linear", normalize_output=scaled)
        encoders["base"] = identity.to(next(trained.parameters()).device).eval()
    shown: dict[str, Any] = dict(encoders)
    if features is not None:
        sources = {"trained": features, "start": features, "base": features.untouched}
        shown = {name: CachedEncoder(sources[name], encoder) for name, encoder in encoders.items()}
    if isinstance(held_out, Collection):
        source = held_out.name
        judged = {name: _judge(each, held_out).per_query[NDCG] for name, each in shown.items()}
    else:
        source = f"{held_out[0].source} in {len(held_out)} folds"
        judged = {name: dict(ChainMap(*(fold.per_query[name] for fold in held_out))) for name in encoders}
    comparison = _compare(judged, source, seed)
    return encoders[comparison.kept], comparison


def _compare(judged: dict[str, dict[str, float]], source: str, seed: int) -> FinalSelection:
    scores = {name: float(np.mean([*per_query.values()])) for name, per_query in judged.items()}
    queries, p_values = len(judged["trained"]), dict[str, float]()
    few = queries < LEAST_QUERIES
    kept = "start" if few else "trained"
    for other in [] if few else [*judged][1:]:
        p = paired_tests(judged[kept], judged[other], seed=seed).p_randomisation
        p_values[f"{kept} against {other}"] = p
        if scores[other] > scores[kept] and p < LEVEL:
            kept = other
    return FinalSelection(kept, scores, p_values, queries, source, judged)


def query_folds_of(config: TrainConfig, data: TrainingData, processes: Processes) -> Iterator[TrainingData]:
    """Yield the training data of each fold of `config.train_data`, with the queries that it leaves out as `check`.

    Raises:
        InputError: a fold cannot be trained on.
    """
    for kept, held in query_folds(load_collection(str(config.train_data), "train"), FOLDS, config.seed):
        pairs = pairs_from_collection(kept)
        pairs = pairs if data.hold_out is None else data.hold_out.without_hidden(pairs)
        pairs = PairDataset.from_rows(pairs.rows(), pairs.source, data.train.documents)
        require_contrast(config, pairs)
        fold = replace(data, train=pairs, check=held)
        if isinstance(data.teacher, dict):
            build_teacher(config, fold, processes)  # of which the fold may have too few scores
        yield fold


@dataclass
class _Untouched:
    base: Base

    def encode_query(self, texts: list[str]) -> Any:
        return self.base.untouched_array(self.base.encode(texts, "query"))

    def encode_document(self, texts: list[str]) -> Any:
        return self.base.untouched_array(self.base.encode(texts, "document"))
