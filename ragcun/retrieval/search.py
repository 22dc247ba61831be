"""Exact top-k search through a corpus that may be larger than memory.

An engine (faiss on a CPU, torch on a GPU) selects candidates in float32, block by block, and each candidate is scored
in float64 by the same operations whatever the block around it. Scores therefore depend neither on the engine nor on
how the corpus is cut into blocks. Where the last candidate is as good as the k-th best to within float32 rounding (many
equal documents), all documents of the block are scored, so that ties rank by `order` throughout.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ragcun.distance import DISTANCES, Distance

Engine = Literal["auto", "faiss", "torch"]
FindCandidates = Callable[[NDArray[np.float32]], NDArray[np.int64]]
NO_ROW = np.iinfo(np.int64).max
MARGIN = 32
"""Candidates beyond k, so that float32 rounding does not decide which documents are scored."""
CHUNK = 1 << 15
"""Numbers scored at a time in float64: 256 KiB, which a processor's cache holds."""


class Matrix(Protocol):
    """What a search reads block by block: an array, a memory map, or rows computed on access."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the elements."""

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        """Return consecutive rows."""


@dataclass(frozen=True)
class SearchResult:
    """The `k` best documents of each query, best first.

    Attributes:
        scores: (queries, k) float32; higher is better.
        indices: (queries, k) int64; row of the document in the corpus.
    """

    scores: NDArray[np.float32]
    indices: NDArray[np.int64]

    @classmethod
    def empty(cls, queries: int, k: int) -> SearchResult:
        """Return the result before any document was seen: scores of −∞."""
        return cls(np.full((queries, k), -np.inf, dtype=np.float32), np.full((queries, k), NO_ROW, dtype=np.int64))

    def rows(self, rows: slice) -> SearchResult:
        """Return the results of some queries, as views."""
        return SearchResult(self.scores[rows], self.indices[rows])

    def update(self, more: SearchResult, order: NDArray[np.int64] | None) -> None:
        """Take in further documents: the best stay by (score descending, rank in `order`, or row, among equals)."""
        scores = np.concatenate([self.scores, more.scores], axis=1)
        indices = np.concatenate([self.indices, more.indices], axis=1)
        ranks = np.argsort(-scores, axis=1, kind="stable")
        by_score = np.take_along_axis(scores, ranks, axis=1)
        tied = ((by_score[:, 1:] == by_score[:, :-1]) & (by_score[:, 1:] > -np.inf)).any(axis=1)
        places = indices[tied]
        if order is not None:
            places = np.where(places == NO_ROW, NO_ROW, order[np.minimum(places, len(order) - 1)])
        ranks[tied] = np.lexsort((places, -scores[tied]))
        ranks = ranks[:, : self.scores.shape[1]]
        self.scores[:] = np.take_along_axis(scores, ranks, axis=1)
        self.indices[:] = np.take_along_axis(indices, ranks, axis=1)


def top_k(
    queries: NDArray[Any],
    documents: Matrix,
    k: int,
    distance: Distance = "euclidean",
    memory_budget_bytes: int = 1 << 30,
    device: str | None = None,
    engine: Engine = "auto",
    order: NDArray[np.int64] | None = None,
) -> SearchResult:
    """Find the `k` best documents of every query, exactly.

    Scores, higher is better: ``euclidean`` −‖q − x‖ (the plain distance, not its square), ``dot`` q·x, ``cosine``
    q·x / (‖q‖‖x‖), which is 0 where either vector is 0. They are computed in float64 and rounded to float32; documents
    rank by (score descending, `order` ascending).

    Args:
        queries: (q, dim) floating point; read as float32.
        documents: (n, dim) floating point: an array, a memory map, or anything else that gives rows when sliced; read
            as float32, one block at a time.
        k: how many; n where `k` is larger.
        distance: what is compared.
        memory_budget_bytes: bound on working memory beside the arguments and the result, on the host and on the device
            each. One row at a time is the least there is.
        device: a torch device; None takes a CUDA device where there is one, else the CPU.
        engine: ``auto`` is faiss on the CPU and torch elsewhere.
        order: (n,) ranks of the documents among equal scores, as `id_order` gives them; None: their rows.

    Raises:
        ValueError: shapes disagree, an argument is out of range, there are no documents, or a row is not finite or its
            squared length exceeds float32.
    """
    _check(queries, documents, k, distance, memory_budget_bytes)
    if order is not None and order.shape != documents.shape[:1]:
        raise ValueError(f"order has shape {order.shape} for {documents.shape[0]} documents")
    engine, device = _choose_engine(engine, device)
    n, dim = documents.shape
    k = min(k, n)
    document_rows = min(n, max(1, memory_budget_bytes // ((16 if engine == "faiss" else 32) * dim)))
    query_bytes = 4 * (50 * (k + MARGIN) if engine == "faiss" else 12 * document_rows)
    query_rows = max(1, memory_budget_bytes // query_bytes)
    best = SearchResult.empty(len(queries), k)
    if len(queries) == 0:
        return best
    query_vectors = _read(queries, 0, len(queries), "queries")
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        for start in tqdm(range(0, n, document_rows), desc="search", unit="block", delay=2):
            block = _Block(start, _read(documents, start, start + document_rows, "documents"), distance, threads)
            find = _candidates(block.vectors, distance, min(k + MARGIN, len(block.vectors)), engine, device)
            for first in range(0, len(query_vectors), query_rows):
                rows = slice(first, first + query_rows)
                block.search(query_vectors[rows], find, best.rows(rows), order)
            _release(documents)
    return best


@dataclass(frozen=True)
class _Block:
    """Consecutive documents in memory, the first of them row `start` of the corpus."""

    start: int
    vectors: NDArray[np.float32]
    distance: Distance
    threads: ThreadPoolExecutor

    @cached_property
    def longest(self) -> float:
        """Length of the longest vector."""
        return float(np.sqrt(_squares(self.vectors).max()))

    def search(
        self, queries: NDArray[np.float32], find: FindCandidates, best: SearchResult, order: NDArray[np.int64] | None
    ) -> None:
        """Update the queries' best with those of this block."""
        rows = find(_unit(queries) if self.distance == "cosine" else queries)
        scores = np.stack(list(self.threads.map(self._scores, queries, rows)))
        before = SearchResult(best.scores.copy(), best.indices.copy())
        best.update(SearchResult(scores, rows + self.start), order)
        if rows.shape[1] == len(self.vectors):
            return
        every = np.arange(len(self.vectors))
        for query in np.flatnonzero(self._in_doubt(queries, scores[:, -1], best.scores[:, -1])):
            one = slice(query, query + 1)
            best.scores[one], best.indices[one] = before.scores[one], before.indices[one]
            scores = self._scores(queries[query], every)
            best.rows(one).update(SearchResult(scores[None], every[None] + self.start), order)

    def _scores(self, query: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Score documents ``(n,)``; a score depends on its two vectors alone."""
        scores, step, vector = np.empty(len(rows), np.float32), max(1, CHUNK // len(query)), query.astype(np.float64)
        for start in range(0, len(rows), step):
            documents = self.vectors[rows[start : start + step]]
            if self.distance == "euclidean":
                difference = documents - vector
                scores[start : start + step] = -np.sqrt(np.square(difference, out=difference).sum(axis=1))
                continue
            products = (documents * vector).sum(axis=1)
            if self.distance == "cosine":
                norms = _norms(documents) * np.sqrt(np.square(vector).sum())
                products /= np.where(norms > 0, norms, 1)
            scores[start : start + step] = products
        return scores + np.float32(0)

    def _in_doubt(
        self, queries: NDArray[np.float32], last: NDArray[np.float32], kth: NDArray[np.float32]
    ) -> NDArray[np.bool_]:
        """Whether a document that is no candidate may reach the k-th best, given the score of the last candidate.

        The rounding error of float32 inner products of length d is taken as √d·2⁻²² of the vectors' lengths.
        """
        lengths = _norms(queries)
        scale = {"euclidean": (lengths + self.longest) ** 2, "dot": lengths * self.longest, "cosine": 1.0}
        tolerance = 2.0**-22 * np.sqrt(queries.shape[1]) * scale[self.distance]
        if self.distance == "euclidean":
            last, kth = -np.square(last), -np.square(kth)
        return np.asarray(last + tolerance >= kth)


def id_order(ids: Sequence[str]) -> NDArray[np.int64]:
    """Return the rank of each id among the sorted ids, by which documents of equal score are ordered.

    >>> id_order(["b", "c", "a"]).tolist()
    [1, 2, 0]
    """
    places = np.empty(len(ids), dtype=np.int64)
    places[sorted(range(len(ids)), key=ids.__getitem__)] = np.arange(len(ids))
    return places


def _candidates(
    documents: NDArray[np.float32], distance: Distance, count: int, engine: Engine, device: str
) -> FindCandidates:
    """Return a function from queries (q, dim) to the rows (q, count) of their best documents in float32."""
    is_euclidean = distance == "euclidean"
    documents = _unit(documents) if distance == "cosine" else documents
    if engine == "faiss":
        import faiss

        metric = faiss.METRIC_L2 if is_euclidean else faiss.METRIC_INNER_PRODUCT
        return lambda queries: faiss.knn(queries, documents, count, metric)[1]
    vectors = torch.tensor(documents, device=device)
    offsets = vectors.square().sum(dim=1) / -2 if is_euclidean else vectors.new_zeros(len(vectors))

    def find(queries: NDArray[np.float32]) -> NDArray[np.int64]:
        """Rank by q·x, Euclidean distances by q·x − ‖x‖²/2."""
        precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")  # no TF32 or bfloat16, whatever the process prefers
        try:
            with torch.autocast(vectors.device.type, enabled=False):
                keys = torch.addmm(offsets, torch.tensor(queries, device=device), vectors.T)
        finally:
            torch.set_float32_matmul_precision(precision)
        return keys.topk(count, dim=1).indices.cpu().numpy()

    return find


def _read(matrix: Matrix, start: int, stop: int, name: str) -> NDArray[np.float32]:
    with np.errstate(over="ignore", invalid="ignore"):
        block = np.ascontiguousarray(matrix[start:stop], dtype=np.float32)
        bad = np.flatnonzero(~np.isfinite(_squares(block)))
    if len(bad):
        raise ValueError(
            f"{len(bad)} of {len(block)} rows of {name} are not finite (NaN, infinity, or a squared length beyond "
            f"float32); the first is row {start + bad[0]}"
        )
    return block


def _release(matrix: object) -> None:
    """Tell the system that the pages of a memory map are not needed in memory."""
    while isinstance(matrix, np.ndarray) and getattr(matrix, "mode", None) != "c":
        matrix = matrix.base
    if isinstance(matrix, mmap.mmap) and hasattr(matrix, "madvise"):
        matrix.madvise(mmap.MADV_DONTNEED)


def _squares(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.einsum("ij,ij->i", vectors, vectors))


def _norms(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.asarray(np.sqrt(np.square(vectors, dtype=np.float64).sum(axis=1)))


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.sqrt(_squares(vectors))
    return np.asarray(vectors / np.where(norms > 0, norms, 1)[:, None], dtype=np.float32)


def _choose_engine(engine: Engine, device: str | None) -> tuple[Engine, str]:
    if device is None:
        device = "cuda" if engine != "faiss" and torch.cuda.is_available() else "cpu"
    on_cpu = torch.device(device).type == "cpu"
    if engine == "faiss" and not on_cpu:
        raise ValueError(f"engine 'faiss' does not run on device {device!r}; take 'torch'")
    return ("faiss" if on_cpu else "torch") if engine == "auto" else engine, device


def _check(queries: NDArray[Any], documents: Matrix, k: int, distance: Distance, budget: int) -> None:
    for name, matrix in (("queries", queries), ("documents", documents)):
        if len(matrix.shape) != 2 or not np.issubdtype(matrix.dtype, np.floating):
            raise ValueError(f"{name} must be a floating-point matrix, got shape {matrix.shape} of {matrix.dtype}")
    if queries.shape[1] != documents.shape[1] or 0 in documents.shape:
        raise ValueError(f"queries are {queries.shape} and documents {documents.shape}; need (q, dim) and (n, dim)")
    if k < 1 or budget < 1:
        raise ValueError(f"k and memory_budget_bytes must be at least 1, got {k} and {budget}")
    if distance not in DISTANCES:
        raise ValueError(f"distance must be one of {', '.join(DISTANCES)}, got {distance!r}")
