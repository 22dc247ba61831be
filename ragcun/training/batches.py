"""Batches of training pairs: their order, a pure function of seed and epoch, and the vectors or tokens in them."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from ragcun.data.pairs import PairDataset
from ragcun.models.abstract import Base, VectorSource
from ragcun.models.base import Features, Role
from ragcun.models.pairbatch import PairBatch
from ragcun.training.mining import Pools

Rows = NDArray[np.int64]
Vectors = NDArray[np.float32]
START_SAMPLE = 20_000
LIVE_START_SAMPLE = 2_000
CACHED_PROBE, LIVE_PROBE = 256, 128


def epoch_pairs(dataset: PairDataset, per_query: int, seed: int, epoch: int) -> Rows:
    """Return the pairs that an epoch shows: up to `per_query` of each query, drawn anew in each epoch; 0 means all."""
    if per_query == 0:
        return np.arange(len(dataset))
    order = np.random.default_rng([seed, epoch, 1]).permutation(len(dataset))
    order = order[np.argsort(dataset.query_ids[order], kind="stable")]
    queries = dataset.query_ids[order]
    first = np.searchsorted(queries, queries)
    return np.sort(order[np.arange(len(order)) - first < per_query])


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
    pools: Pools | None

    def batch(self, rows: Rows) -> PairBatch:
        """Return the inputs of these pairs."""

    def sample(self, seed: int) -> Float[Tensor, "n base_dim"]:
        """Return what the head sees of a sample of the dataset's texts, queries and documents."""

    def sides(self, seed: int, most: int | None = None) -> tuple[Vectors, Vectors]:
        """Return the base's pooled vectors of all queries and all documents, or of a sample of `most` of each."""

    def probe(self, seed: int) -> Rows:
        """Return the pairs by which a run is watched, the same at every call."""


class CachedPairs:
    """Pairs whose texts a frozen base encoded once; a batch is gathered from memory-mapped vectors."""

    def __init__(self, dataset: PairDataset, cache: VectorSource, device: torch.device) -> None:
        self.dataset = dataset
        self.pools: Pools | None = None
        self.device = device
        self.base = cache.base
        self.query_rows = cache.rows(dataset.queries, "query")
        self.document_rows = cache.rows(dataset.documents, "document")
        self.vectors = cache.vectors

    def batch(self, rows: Rows) -> PairBatch:
        """Gather the vectors of these pairs."""
        data = self.dataset
        negative_ids, mask = _negatives(data, rows, self.device)
        pool, known = _pool(self.pools, data, rows, self.device)
        return PairBatch(
            query=self._gather(self.query_rows[data.query_ids[rows]]),
            positive=self._gather(self.document_rows[data.positive_ids[rows]]),
            negative=None if mask is None else self._gather(self.document_rows[negative_ids]),
            negative_mask=mask,
            relevant=_relevant(data, rows, self.device),
            pool=None if known is None else self._gather(self.document_rows[pool]),
            pool_relevant=known,
        )

    def sides(self, seed: int, most: int | None = None) -> tuple[Vectors, Vectors]:
        """Return the cached vectors."""
        queries, documents = self.query_rows, self.document_rows
        if most is not None:
            random = np.random.default_rng(seed)
            queries, documents = (np.sort(random.permutation(side)[:most]) for side in (queries, documents))
        return self.vectors[queries], self.vectors[documents]

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

    def __init__(self, dataset: PairDataset, base: Base, device: torch.device) -> None:
        self.dataset = dataset
        self.pools: Pools | None = None
        self.base = base
        self.device = device

    def batch(self, rows: Rows) -> PairBatch:
        """Tokenise the texts of these pairs."""
        data = self.dataset
        negative_ids, mask = _negatives(data, rows, self.device)
        pool, known = _pool(self.pools, data, rows, self.device)
        positives = [data.documents[i] for i in data.positive_ids[rows]]
        return PairBatch(
            query=self._tokens([data.queries[i] for i in data.query_ids[rows]], "query"),
            positive=self._tokens(positives, "document"),
            negative=None if mask is None else self._tokens([data.documents[i] for i in negative_ids], "document"),
            negative_mask=mask,
            relevant=_relevant(data, rows, self.device),
            pool=None if known is None else self._tokens([data.documents[i] for i in pool], "document"),
            pool_relevant=known,
        )

    def sides(self, seed: int, most: int | None = None) -> tuple[Vectors, Vectors]:
        """Encode the texts; of a sample no more than 1,000 of each."""
        sides = self.dataset.queries, self.dataset.documents
        if most is not None:
            random, most = np.random.default_rng(seed), min(most, LIVE_START_SAMPLE // 2)
            queries, documents = ([side[i] for i in np.sort(random.permutation(len(side))[:most])] for side in sides)
            sides = queries, documents
        return self.base.encode(sides[0], "query"), self.base.encode(sides[1], "document")

    def probe(self, seed: int) -> Rows:
        """Return 128 pairs, or all there are: each look encodes them anew."""
        return _some(self.dataset, LIVE_PROBE, seed)

    def sample(self, seed: int) -> Float[Tensor, "n base_dim"]:
        """Return what the head sees, before training, of up to 1,000 queries and 1,000 documents."""
        vectors = np.concatenate(self.sides(seed, LIVE_START_SAMPLE // 2))
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


def _pool(
    pools: Pools | None, data: PairDataset, rows: Rows, device: torch.device
) -> tuple[Rows, Bool[Tensor, "batch pool"] | None]:
    """Return the documents of the batch's pool, and which are known positives of which query; None without a pool."""
    drawn = np.empty(0, dtype=np.int64) if pools is None else pools.draw(data, rows)
    if not len(drawn):
        return drawn, None
    return drawn, torch.from_numpy(data.known(data.query_ids[rows], drawn)).to(device)


def _relevant(data: PairDataset, rows: Rows, device: torch.device) -> Bool[Tensor, "batch batch"] | None:
    relevant = data.relevant(rows)
    return None if relevant is None else torch.from_numpy(relevant).to(device)


def share(rows: Rows, rank: int, world: int) -> Rows:
    """Return this process's part of a global batch."""
    return np.array_split(rows, world)[rank]


def make_source(dataset: PairDataset, base: Base, cache: VectorSource | None, device: Any) -> PairSource:
    """Return cached pairs where there is a cache (the base is frozen), else live ones."""
    return LivePairs(dataset, base, device) if cache is None else CachedPairs(dataset, cache, device)
