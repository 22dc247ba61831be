"""Exact top-k search through a corpus that may be larger than memory.

An engine (faiss on a CPU, torch on a GPU) selects candidates in float32, block by block, and each candidate is scored
in float64 by the same operations whatever the block around it, so that scores depend neither on the engine nor on the
blocks. Where float32 rounding may hide a document (many equal ones), all documents of the block are scored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ragcun.config import DISTANCES, Distance
from ragcun.embeddings.encode import resolve_device
from ragcun.isotropy.moments import release_pages

FindCandidates = Callable[[NDArray[np.float32]], NDArray[np.int64]]
ON_FAISS = ("cpu",)
"""Kinds of devices on which faiss selects candidates; on others torch does."""
MARGIN = 16
"""Candidates beyond k, so that float32 rounding does not decide which documents are scored."""
CHUNK = 1 << 16
"""Numbers scored at a time in float64: 512 KiB, which a processor's cache holds."""


@dataclass(frozen=True)
class SearchResult:
    """The `k` best documents of each query, best first: their scores and rows in the corpus, (queries, k) each."""

    scores: NDArray[np.float32]
    indices: NDArray[np.int64]

    @classmethod
    def empty(cls, queries: int, k: int) -> SearchResult:
        """Return the result before any document is searched: scores of −∞."""
        return cls(np.full((queries, k), -np.inf, dtype=np.float32), np.zeros((queries, k), dtype=np.int64))

    def update(self, more: SearchResult, order: NDArray[np.int64] | None) -> None:
        """Merge in further documents by (score descending, rank in `order`, or row, ascending)."""
        scores = np.concatenate([self.scores, more.scores], axis=1)
        indices = np.concatenate([self.indices, more.indices], axis=1)
        places = indices if order is None else order[indices]
        ranks = np.lexsort((places, -scores))[:, : self.scores.shape[1]]
        self.scores[:] = np.take_along_axis(scores, ranks, axis=1)
        self.indices[:] = np.take_along_axis(indices, ranks, axis=1)


def top_k(
    queries: NDArray[Any],
    documents: Any,
    k: int,
    distance: Distance = "euclidean",
    memory_budget_bytes: int = 1 << 30,
    device: str | None = None,
    order: NDArray[np.int64] | None = None,
) -> SearchResult:
    """Find the `k` best documents of every query, exactly, ranked by (score descending, `order` ascending).

    Scores, higher is better: ``euclidean`` −‖q − x‖ (the plain distance, not its square), ``dot`` q·x, ``cosine``
    q·x / (‖q‖‖x‖), which is 0 where either vector is 0; computed in float64 and rounded to float32. `documents` is an
    array, a memory map, or anything that gives rows when sliced; read as float32, one block at a time. The budget
    bounds working memory beside arguments and result, on the host and on the device each. `device` None is CUDA where
    there is such a device, else the CPU. `order` is that of documents of equal score, as `id_order` gives it; None:
    their rows. Shapes: queries (q, dim), documents (n, dim), order (n,).

    Raises:
        ValueError: an argument is out of range, or a row is not finite or its squared length exceeds float32.
    """
    _check(queries, documents, k, distance, memory_budget_bytes, order)
    device = resolve_device(device)
    on_faiss = torch.device(device).type in ON_FAISS
    best = SearchResult.empty(len(queries), min(k, documents.shape[0]))
    (rows, dim), candidates = documents.shape, best.scores.shape[1] + MARGIN
    document_rows = min(rows, max(1, memory_budget_bytes // ((16 if on_faiss else 32) * dim)))
    query_rows = max(1, memory_budget_bytes // (4 * (50 * candidates if on_faiss else 12 * document_rows)))
    query_vectors = _read(queries, 0, len(queries), "queries")
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        for start in tqdm(range(0, rows, document_rows), desc="search", unit="block", delay=2):
            block = _Block(start, _read(documents, start, start + document_rows, "documents"), distance, order)
            find = _candidates(block.vectors, distance, candidates, None if on_faiss else device)
            for first in range(0, len(queries), query_rows):
                part = slice(first, first + query_rows)
                block.search(query_vectors[part], find, SearchResult(best.scores[part], best.indices[part]), threads)
            release_pages(documents)
    return best


@dataclass(frozen=True)
class _Block:
    start: int
    vectors: NDArray[np.float32]
    distance: Distance
    order: NDArray[np.int64] | None

    def search(
        self, queries: NDArray[np.float32], find: FindCandidates, best: SearchResult, threads: ThreadPoolExecutor
    ) -> None:
        rows = find(_unit(queries) if self.distance == "cosine" else queries)
        score = partial(scores_of, self.vectors, self.distance)
        scores = np.stack(list(threads.map(score, queries, rows)))
        if rows.shape[1] < len(self.vectors):
            every, k = np.arange(len(self.vectors)), best.scores.shape[1]
            places = every if self.order is None else self.order[self.start + every]
            kth = np.maximum(best.scores[:, -1], np.partition(scores, -k, axis=1)[:, -k])
            for query in np.flatnonzero(self.in_doubt(queries, scores[:, -1], kth)):
                all_scores = score(queries[query], every)
                rows[query] = np.lexsort((places, -all_scores))[: rows.shape[1]]
                scores[query] = all_scores[rows[query]]
        best.update(SearchResult(scores, rows + self.start), self.order)

    def in_doubt(
        self, queries: NDArray[np.float32], last: NDArray[np.float32], kth: NDArray[np.float32]
    ) -> NDArray[np.bool_]:
        # whether a document scored below the last candidate in float32 may reach the k-th best; the rounding error of
        # inner products of length d is taken as √d·2⁻²² of the vectors' lengths
        lengths, longest = np.sqrt(_squares(queries.astype(np.float64))), float(np.sqrt(_squares(self.vectors).max()))
        scale = {"euclidean": (lengths + longest) ** 2, "dot": lengths * longest, "cosine": 1.0}
        tolerance = 2.0**-22 * np.sqrt(queries.shape[1]) * scale[self.distance]
        if self.distance == "euclidean":
            last, kth = -np.square(last), -np.square(kth)
        return np.asarray(last + tolerance >= kth)


def scores_of(
    vectors: NDArray[np.float32], distance: Distance, query: NDArray[np.float32], rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the scores of some rows for one query, computed in float64; each is the same whatever the other rows."""
    # einsum sums each row alone, in one order; BLAS would let a score depend on the rows around it
    scores, step, vector = np.empty(len(rows), np.float32), max(1, CHUNK // len(query)), query.astype(np.float64)
    for start in range(0, len(rows), step):
        documents = vectors.take(rows[start : start + step], axis=0).astype(np.float64)
        if distance == "euclidean":
            documents -= vector
            scores[start : start + step] = -np.sqrt(_squares(documents))
            continue
        products = np.einsum("ij,j->i", documents, vector)
        if distance == "cosine":
            norms = np.sqrt(_squares(documents) * _squares(vector[None]))
            products /= np.where(norms > 0, norms, 1)
        scores[start : start + step] = products
    return scores + np.float32(0)


def id_order(ids: Sequence[str]) -> NDArray[np.int64]:
    """Return the rank of each id among the sorted ids, by which documents of equal score are ordered.

    >>> id_order(["b", "c", "a"]).tolist()
    [1, 2, 0]
    """
    return np.argsort(sorted(range(len(ids)), key=ids.__getitem__))


def _candidates(documents: NDArray[np.float32], distance: Distance, count: int, device: str | None) -> FindCandidates:
    is_euclidean, count = distance == "euclidean", min(count, len(documents))
    documents = _unit(documents) if distance == "cosine" else documents
    if device is None:
        import faiss

        metric = faiss.METRIC_L2 if is_euclidean else faiss.METRIC_INNER_PRODUCT
        return lambda queries: faiss.knn(queries, documents, count, metric)[1]
    vectors = torch.tensor(documents, device=device)
    # ranked by q·x − ‖x‖²/2 for Euclidean distances
    offsets = vectors.square().sum(dim=1) / -2 if is_euclidean else vectors.new_zeros(len(vectors))

    def find(queries: NDArray[np.float32]) -> NDArray[np.int64]:
        precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")  # no TF32 or bfloat16, whatever the process prefers
        try:
            with torch.autocast(vectors.device.type, enabled=False):
                keys = torch.addmm(offsets, torch.tensor(queries, device=device), vectors.T)
        finally:
            torch.set_float32_matmul_precision(precision)
        return keys.topk(count, dim=1).indices.cpu().numpy()

    return find


def _read(matrix: Any, start: int, stop: int, name: str) -> NDArray[np.float32]:
    with np.errstate(over="ignore", invalid="ignore"):
        block = np.ascontiguousarray(matrix[start:stop], dtype=np.float32)
        bad = np.flatnonzero(~np.isfinite(_squares(block)))
    if len(bad):
        bad_rows = f"{len(bad)} of {len(block)} rows of {name} are not finite, or their squared length exceeds float32"
        raise ValueError(f"{bad_rows}; the first is row {start + bad[0]}")
    return block


def _squares(vectors: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(np.einsum("ij,ij->i", vectors, vectors))


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.sqrt(_squares(vectors))
    return np.asarray(vectors / np.where(norms > 0, norms, 1)[:, None], dtype=np.float32)


def _check(
    queries: NDArray[Any], documents: Any, k: int, distance: Distance, budget: int, order: NDArray[np.int64] | None
) -> None:
    for name, matrix in (("queries", queries), ("documents", documents)):
        if len(matrix.shape) != 2 or not np.issubdtype(matrix.dtype, np.floating):
            raise ValueError(f"{name} must be a floating-point matrix, got shape {matrix.shape} of {matrix.dtype}")
    if queries.shape[1] != documents.shape[1] or 0 in documents.shape:
        raise ValueError(f"queries are {queries.shape} and documents {documents.shape}; need (q, dim) and (n, dim)")
    if k < 1 or budget < 1:
        raise ValueError(f"k and memory_budget_bytes must be at least 1, got {k} and {budget}")
    if distance not in DISTANCES:
        raise ValueError(f"distance must be one of {', '.join(DISTANCES)}, got {distance!r}")
    if order is not None and order.shape != documents.shape[:1]:
        raise ValueError(f"order has shape {order.shape} for {documents.shape[0]} documents")
