"""Exact top-k search through a corpus that may be larger than memory.

An engine (faiss on a CPU, torch on a GPU) finds candidates in float32, block by block, and the candidates are scored
again in float64 from the vectors themselves. Float32 matrix products differ in their last bits with the shape of a
block, so a block's candidates are accepted only where the bound on their rounding error proves that no other document
of the block belongs to the top k. Where it does not (mostly: many documents that are equal or nearly so), every
document of the block that the bound leaves in doubt is scored in float64. The result is therefore a function of the
vectors alone: neither engine, device, block size nor memory budget changes it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ragcun.distance import DISTANCES, Distance
from ragcun.retrieval.blocks import Block, exact_scores, read_block
from ragcun.retrieval.candidates import (
    Centred,
    FindCandidates,
    all_keys,
    centre_documents,
    centre_queries,
    faiss_candidates,
    key_error_bound,
    largest_score,
    torch_candidates,
)

logger = logging.getLogger(__name__)
Engine = Literal["auto", "faiss", "torch"]
NO_ROW = np.iinfo(np.int64).max


@dataclass(frozen=True)
class SearchResult:
    """The `k` best documents of each query, best first.

    Attributes:
        scores: (queries, k) float32; higher is better.
        indices: (queries, k) int64; row of the document in the corpus.
    """

    scores: NDArray[np.float32]
    indices: NDArray[np.int64]

    def rows(self, rows: slice) -> SearchResult:
        """Return the results of some queries, as views."""
        return SearchResult(self.scores[rows], self.indices[rows])

    def take(self, other: SearchResult) -> None:
        """Overwrite these results with those of `other`."""
        self.scores[:], self.indices[:] = other.scores, other.indices


@dataclass(frozen=True)
class _Plan:
    """What a search does, and how large its pieces are: rows of documents, of queries, of pairs scored in float64."""

    distance: Distance
    engine: str
    device: str
    candidates: int
    document_rows: int
    query_rows: int
    pair_rows: int


def top_k(
    queries: NDArray[Any],
    documents: NDArray[Any],
    k: int,
    distance: Distance = "euclidean",
    memory_budget_bytes: int = 1 << 30,
    device: str | None = None,
    engine: Engine = "auto",
) -> SearchResult:
    """Find the `k` best documents of every query, exactly.

    Scores, higher is better: ``euclidean`` −‖q − x‖ (the plain distance, not its square), ``dot`` q·x, ``cosine``
    q·x / (‖q‖‖x‖), which is 0 where either vector is 0. They are computed in float64 and rounded to float32; documents
    are ranked by (score descending, row ascending).

    Args:
        queries: (q, dim) floating point; read as float32.
        documents: (n, dim) floating point, possibly a memory map; read as float32, one block at a time.
        k: how many; n where `k` is larger.
        distance: what is compared.
        memory_budget_bytes: bound on working memory beside the arguments and the result, on the host and on the device
            each; a smaller one is slower, with the same result. One row at a time is the least there is.
        device: a torch device; None takes a CUDA device where there is one, else the CPU.
        engine: ``auto`` is faiss on the CPU and torch elsewhere.

    Raises:
        ValueError: shapes disagree, an argument is out of range, there are no documents, rows are not finite,
            or a score exceeds float32.
    """
    _check(queries, documents, k, distance, memory_budget_bytes)
    k = min(k, len(documents))
    plan = _plan(documents, k, distance, memory_budget_bytes, device, engine)
    query_block = read_block(queries, 0, len(queries), "queries")
    shape = (len(queries), k)
    best = SearchResult(np.full(shape, -np.inf, dtype=np.float32), np.full(shape, NO_ROW, dtype=np.int64))
    unproven = 0
    for start in tqdm(range(0, len(documents), plan.document_rows), desc="search", unit="block", delay=2):
        block = read_block(documents, start, start + plan.document_rows, "documents")
        centred = centre_documents(distance, block)
        on_device = partial(torch_candidates, device=plan.device)
        find = (faiss_candidates if plan.engine == "faiss" else on_device)(distance, centred)
        for first in range(0, len(queries), plan.query_rows):
            part = slice(first, first + plan.query_rows)
            queries_part = query_block.rows(first, first + plan.query_rows)
            unproven += _search_block(plan, find, queries_part, block, centred, best.rows(part))
    logger.debug("%d pairs of query and block needed all keys of the block", unproven)
    if not np.isfinite(best.scores).all():
        raise ValueError(f"{int((~np.isfinite(best.scores)).sum())} scores exceed float32; scale the embeddings down")
    return best


def _search_block(
    plan: _Plan, find: FindCandidates, queries: Block, documents: Block, centred: Centred, best: SearchResult
) -> int:
    """Merge the best of a block into `best`, in place; return for how many queries it took all keys of the block."""
    count = min(plan.candidates, len(documents.vectors))
    query_vectors = centre_queries(plan.distance, queries, centred.centre)
    keys, found = find(query_vectors, count)
    error = key_error_bound(plan.distance, query_vectors, centred)
    proven = np.isfinite(error)
    at_most = largest_score(plan.distance, keys, error[:, None])
    hopeful = (at_most >= best.scores[:, -1:]) & proven[:, None]
    query_rows, _ = np.nonzero(hopeful)
    exact = np.full(found.shape, -np.inf, dtype=np.float32)
    exact[hopeful] = exact_scores(plan.distance, queries, documents, query_rows, found[hopeful], plan.pair_rows)
    merged = _merge(best, SearchResult(exact, np.where(hopeful, found + documents.start, NO_ROW)))
    if count < len(documents.vectors):
        proven &= merged.scores[:, -1] > at_most[:, -1]
    for row in np.flatnonzero(~proven).tolist():
        one, query = slice(row, row + 1), queries.rows(row, row + 1)
        keys = all_keys(plan.distance, centre_queries(plan.distance, query, centred.centre), centred)
        in_doubt = ~(largest_score(plan.distance, keys[0], error[row]) < merged.scores[row, -1])
        merged.rows(one).take(_best_of(plan, query, documents, np.flatnonzero(in_doubt), best.rows(one)))
    best.take(merged)
    return int((~proven).sum())


def _best_of(plan: _Plan, query: Block, documents: Block, rows: NDArray[np.int64], best: SearchResult) -> SearchResult:
    """Merge these rows of a block into one query's best."""
    for start in range(0, len(rows), plan.pair_rows):
        part = rows[start : start + plan.pair_rows]
        exact = exact_scores(plan.distance, query, documents, np.zeros_like(part), part, plan.pair_rows)
        best = _merge(best, SearchResult(exact[None], part[None] + documents.start))
    return best


def _merge(best: SearchResult, more: SearchResult) -> SearchResult:
    """Keep as many as `best` has columns, by (score descending, index ascending)."""
    scores = np.concatenate([best.scores, more.scores], axis=1)
    indices = np.concatenate([best.indices, more.indices], axis=1)
    order = np.lexsort((indices, -scores))[:, : best.scores.shape[1]]
    return SearchResult(np.take_along_axis(scores, order, axis=1), np.take_along_axis(indices, order, axis=1))


def _plan(documents: NDArray[Any], k: int, distance: Distance, budget: int, device: str | None, engine: str) -> _Plan:
    """Share the budget out: a quarter each for documents, query-by-document results, and pairs in float64."""
    if device is None:
        device = "cuda" if engine != "faiss" and torch.cuda.is_available() else "cpu"
    on_cpu = torch.device(device).type == "cpu"
    chosen = ("faiss" if on_cpu else "torch") if engine == "auto" else engine
    if chosen not in ("faiss", "torch") or (chosen == "faiss" and not on_cpu):
        raise ValueError(f"engine {engine!r} does not run on device {device!r}; faiss is for the CPU, torch for any")
    share, dim = budget // 4, documents.shape[1]
    candidates = k + max(32, k // 4)
    document_rows = min(max(1, share // (16 * dim)), len(documents))
    query_rows = share // (100 * candidates)
    if chosen == "torch":
        query_rows = min(query_rows, share // (12 * document_rows))
    return _Plan(distance, chosen, device, candidates, document_rows, max(1, query_rows), max(1, share // (24 * dim)))


def _check(queries: NDArray[Any], documents: NDArray[Any], k: int, distance: Distance, budget: int) -> None:
    for name, matrix in (("queries", queries), ("documents", documents)):
        if matrix.ndim != 2 or not np.issubdtype(matrix.dtype, np.floating):
            raise ValueError(f"{name} must be a floating-point matrix, got shape {matrix.shape} of {matrix.dtype}")
    if queries.shape[1] != documents.shape[1] or queries.shape[1] == 0:
        raise ValueError(f"queries have {queries.shape[1]} dimensions and documents {documents.shape[1]}")
    if len(documents) == 0:
        raise ValueError("documents must have at least 1 row, got 0")
    if k < 1 or budget < 1:
        raise ValueError(f"k and memory_budget_bytes must be at least 1, got {k} and {budget}")
    if distance not in DISTANCES:
        raise ValueError(f"distance must be one of {', '.join(DISTANCES)}, got {distance!r}")
