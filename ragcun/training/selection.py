"""Choosing the best epoch: by NDCG@10 on a dev collection, by the objective on validation pairs, or the last."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from ragcun.data.beir import Collection
from ragcun.errors import InputError
from ragcun.losses.distributed import alone
from ragcun.losses.objective import Objective
from ragcun.models.abstract import Base, VectorSource
from ragcun.models.cache import CachedEncoder
from ragcun.models.encoder import RetrievalEncoder
from ragcun.retrieval.evaluate import DenseRetriever, evaluate_retriever
from ragcun.training.batches import PairSource, Rows, epoch_batches, make_source
from ragcun.training.build import TrainingData
from ragcun.training.numbers import require_finite

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
