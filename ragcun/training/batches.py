"""Batches of training pairs: their order, a pure function of seed and epoch, and the vectors or tokens in them."""

from __future__ import annotations

import abc
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from ragcun.batch import Features, PairBatch, Role
from ragcun.data.pairs import PairDataset
from ragcun.embeddings.base import Base, VectorSource
from ragcun.training.negatives import Pools
from ragcun.training.processes import to_device

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

    def parts(self, rows: Rows, places: range, count: int) -> list[PairBatch]:
        """Return those parts of a batch at `places`, of `count` into which its pairs and its pool are split in order.

        The masks of a part have a row for each of its queries and a column for each document of the whole batch.
        """

    def sample(self, seed: int) -> Float[Tensor, "n base_dim"]:
        """Return what the head sees of a sample of the dataset's texts, queries and documents."""

    def sides(self, seed: int, most: int | None = None) -> tuple[Vectors, Vectors]:
        """Return the base's pooled vectors of all queries and all documents, or of a sample of `most` of each."""

    def probe(self, seed: int) -> Rows:
        """Return the pairs by which a run is watched, the same at every call."""


class _Pairs(abc.ABC):
    """What sources of batches share: which texts a batch shows, and its masks."""

    def __init__(self, dataset: PairDataset, device: torch.device) -> None:
        self.dataset = dataset
        self.pools: Pools | None = None
        self.device = device

    @abc.abstractmethod
    def _inputs(self, texts: Rows, role: Role) -> Float[Tensor, "n base_dim"] | Features:
        """Return what the base is given of some queries or documents of the dataset."""

    def batch(self, rows: Rows) -> PairBatch:
        """Return the inputs of these pairs."""
        return self.parts(rows, range(1), 1)[0]

    def parts(self, rows: Rows, places: range, count: int) -> list[PairBatch]:
        """Return those parts of a batch at `places`, of `count` into which its pairs and its pool are split in order.

        The masks of a part have a row for each of its queries and a column for each document of the whole batch.
        """
        drawn = np.empty(0, dtype=np.int64) if self.pools is None else self.pools.draw(self.dataset, rows)
        return [self._part(rows, drawn, place, count) for place in places]

    def _part(self, rows: Rows, drawn: Rows, place: int, count: int) -> PairBatch:
        data, own, pool = self.dataset, share(rows, place, count), share(drawn, place, count)
        queries, positives = data.query_ids[own], data.positive_ids[own]
        negatives, present = data.negative_ids[own], bool((data.negative_ids[rows] >= 0).any())
        real = negatives >= 0
        distinct = data.relevant(rows[:1]) is None
        return PairBatch(
            query=self._inputs(queries, "query"),
            positive=self._inputs(positives, "document"),
            negative=self._inputs(np.where(real, negatives, positives), "document") if present else None,
            negative_mask=self._mask(real) if present else None,
            relevant=None if distinct else self._mask(data.known(queries, data.positive_ids[rows])),
            pool=self._inputs(pool, "document") if len(pool) else None,
            pool_relevant=self._mask(data.known(queries, drawn)) if len(drawn) else None,
        )

    def _mask(self, mask: NDArray[np.bool_]) -> Bool[Tensor, "rows ..."]:
        return to_device(torch.from_numpy(mask), self.device)


class CachedPairs(_Pairs):
    """Pairs whose texts a frozen base encoded once; a batch is gathered from memory-mapped vectors."""

    def __init__(self, dataset: PairDataset, cache: VectorSource, device: torch.device) -> None:
        super().__init__(dataset, device)
        self.base = cache.base
        self.query_rows = cache.rows(dataset.queries, "query")
        self.document_rows = cache.rows(dataset.documents, "document")
        self.vectors = cache.vectors

    def _inputs(self, texts: Rows, role: Role) -> Float[Tensor, "n base_dim"]:
        """Gather vectors."""
        return self._gather((self.query_rows if role == "query" else self.document_rows)[texts])

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
        return to_device(torch.from_numpy(self.vectors[rows]), self.device)


class LivePairs(_Pairs):
    """Pairs whose texts go through a base that is being trained; a batch holds tokens."""

    def __init__(self, dataset: PairDataset, base: Base, device: torch.device) -> None:
        super().__init__(dataset, device)
        self.base = base

    def _inputs(self, texts: Rows, role: Role) -> Features:
        """Tokenise texts."""
        named = self.dataset.queries if role == "query" else self.dataset.documents
        features = self.base.features([named[i] for i in texts], role)
        sent = {name: to_device(value, self.device) for name, value in features.items() if isinstance(value, Tensor)}
        return {**features, **sent}

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


def _some(data: PairDataset, count: int, seed: int) -> Rows:
    return np.sort(np.random.default_rng(seed).permutation(len(data))[:count])


def share(rows: Rows, rank: int, world: int) -> Rows:
    """Return part `rank` of `world` in order of a batch, whose sizes differ by at most one."""
    return np.array_split(rows, world)[rank]


def make_source(dataset: PairDataset, base: Base, cache: VectorSource | None, device: Any) -> PairSource:
    """Return cached pairs where there is a cache (the base is frozen), else live ones."""
    return LivePairs(dataset, base, device) if cache is None else CachedPairs(dataset, cache, device)
