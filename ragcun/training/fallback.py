"""Never worse: the trained model gives way to its start, or to the base, where held-out queries show it to be worse."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ragcun.data.beir import Collection
from ragcun.models.abstract import VectorSource
from ragcun.models.asymmetric import AsymmetricProjectionModel
from ragcun.models.cache import CachedEncoder
from ragcun.models.calibration import Calibration
from ragcun.models.encoder import RetrievalEncoder
from ragcun.models.projection import ProjectionEncoder
from ragcun.retrieval.evaluate import DenseRetriever, evaluate_retriever
from ragcun.retrieval.significance import paired_tests
from ragcun.training.batches import PairSource
from ragcun.training.config import TrainConfig
from ragcun.training.selection import NDCG
from ragcun.training.start import mixed

logger = logging.getLogger(__name__)

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
