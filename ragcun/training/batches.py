"""Batches of training pairs: their order, a pure function of seed and epoch, and the vectors or tokens in them."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from ragcun.data.pairs import PairDataset
from ragcun.models.base import Features, Role, TextBase
from ragcun.models.cache import EmbeddingCache
from ragcun.models.encoder import PairBatch

Rows = NDArray[np.int64]
START_SAMPLE = 20_000
LIVE_START_SAMPLE = 2_000
CACHED_PROBE, LIVE_PROBE = 256, 128


def epoch_batches(pairs: int, batch_size: int, seed: int, epoch: int | None) -> list[Rows]:
    """Split all pairs into ``ceil(pairs / batch_size)`` batches whose sizes differ by at most one.

    None is dropped, and no batch is much smaller than the others, so in-batch losses keep their meaning; rather than a
    batch of one pair there is a batch of one pair more than `batch_size`. The order is random from `seed` and `epoch`;
    with `epoch` None it is the order of the pairs.
    """
    order = np.arange(pairs)
    if epoch is not None:
        order = np.random.default_rng([seed, epoch]).permutation(pairs)
    return np.array_split(order, max(1, min(-(-pairs // batch_size), pairs // 2)))


class PairSource(Protocol):
    """Where a batch's inputs come from."""

    dataset: PairDataset

    def batch(self, rows: Rows) -> PairBatch:
        """Return the inputs of these pairs."""

    def sample(self, seed: int) -> Float[Tensor, "n base_dim"]:
        """Return what the head sees of a sample of the dataset's texts, queries and documents."""

    def probe(self, seed: int) -> Rows:
        """Return the pairs by which a run is watched, the same at every call."""


class CachedPairs:
    """Pairs whose texts a frozen base encoded once; a batch is gathered from memory-mapped vectors."""

    def __init__(self, dataset: PairDataset, cache: EmbeddingCache, device: torch.device) -> None:
        self.dataset = dataset
        self.device = device
        self.base = cache.base
        self.query_rows = cache.rows(dataset.queries, "query")
        self.document_rows = cache.rows(dataset.documents, "document")
        self.vectors = cache.vectors

    def batch(self, rows: Rows) -> PairBatch:
        """Gather the vectors of these pairs."""
        data = self.dataset
        negative_ids, mask = _negatives(data, rows, self.device)
        return PairBatch(
            query=self._gather(self.query_rows[data.query_ids[rows]]),
            positive=self._gather(self.document_rows[data.positive_ids[rows]]),
            negative=None if mask is None else self._gather(self.document_rows[negative_ids]),
            negative_mask=mask,
            relevant=_relevant(data, rows, self.device),
        )

    def probe(self, seed: int) -> Rows:
        """Return 256 pairs, or all there are."""
        return _some(self.dataset, CACHED_PROBE, seed)

    def sample(self, seed: int) -> Float[Tensor, "n base_dim"]:
        """Return what the head sees of up to 20,000 texts."""
        rows = np.concatenate([self.query_rows, self.document_rows])
        chosen = np.random.default_rng(seed).permutation(rows)[:START_SAMPLE]
        return self.base(self._gather(np.sort(chosen)))

    def _gather(self, rows: Rows) -> Float[Tensor, "n base_dim"]:
        return torch.from_numpy(self.vectors[rows]).to(self.device)


class LivePairs:
    """Pairs whose texts go through a base that is being trained; a batch holds tokens."""

    def __init__(self, dataset: PairDataset, base: TextBase, device: torch.device) -> None:
        self.dataset = dataset
        self.base = base
        self.device = device

    def batch(self, rows: Rows) -> PairBatch:
        """Tokenise the texts of these pairs."""
        data = self.dataset
        negative_ids, mask = _negatives(data, rows, self.device)
        positives = [data.documents[i] for i in data.positive_ids[rows]]
        return PairBatch(
            query=self._tokens([data.queries[i] for i in data.query_ids[rows]], "query"),
            positive=self._tokens(positives, "document"),
            negative=None if mask is None else self._tokens([data.documents[i] for i in negative_ids], "document"),
            negative_mask=mask,
            relevant=_relevant(data, rows, self.device),
        )

    def probe(self, seed: int) -> Rows:
        """Return 128 pairs, or all there are: each look encodes them anew."""
        return _some(self.dataset, LIVE_PROBE, seed)

    def sample(self, seed: int) -> Float[Tensor, "n base_dim"]:
        """Return what the head sees, before training, of up to 1,000 queries and 1,000 documents."""
        random = np.random.default_rng(seed)
        half = LIVE_START_SAMPLE // 2
        queries = [self.dataset.queries[i] for i in random.permutation(len(self.dataset.queries))[:half]]
        documents = [self.dataset.documents[i] for i in random.permutation(len(self.dataset.documents))[:half]]
        vectors = np.concatenate([self.base.encode(queries, "query"), self.base.encode(documents, "document")])
        return self.base(torch.from_numpy(vectors).to(self.device))

    def _tokens(self, texts: list[str], role: Role) -> Features:
        features = self.base.features(texts, role)
        return {name: value.to(self.device) if isinstance(value, Tensor) else value for name, value in features.items()}


def _some(data: PairDataset, count: int, seed: int) -> Rows:
    return np.sort(np.random.default_rng(seed).permutation(len(data))[:count])


def _negatives(data: PairDataset, rows: Rows, device: torch.device) -> tuple[Rows, Bool[Tensor, " batch"] | None]:
    """Return the negatives' ids and which are real; where a pair has none, its positive fills the row."""
    ids = data.negative_ids[rows]
    present = ids >= 0
    filled = np.where(present, ids, data.positive_ids[rows])
    return filled, torch.from_numpy(present).to(device) if present.any() else None


def _relevant(data: PairDataset, rows: Rows, device: torch.device) -> Bool[Tensor, "batch batch"] | None:
    relevant = data.relevant(rows)
    return None if relevant is None else torch.from_numpy(relevant).to(device)


def share(rows: Rows, rank: int, world: int) -> Rows:
    """Return this process's part of a global batch."""
    return np.array_split(rows, world)[rank]


def make_source(dataset: PairDataset, base: TextBase, cache: EmbeddingCache | None, device: Any) -> PairSource:
    """Return cached pairs where there is a cache (the base is frozen), else live ones."""
    return LivePairs(dataset, base, device) if cache is None else CachedPairs(dataset, cache, device)
