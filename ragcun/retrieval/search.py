"""Exact top-k search through a corpus that may be larger than memory.

An engine (faiss on a CPU, torch on a GPU) finds candidates in float32, block by block, and the candidates are scored
again in float64 from the vectors themselves. Float32 matrix products differ in their last bits with the shape of a
block, so a block's candidates are accepted only where the bound on their rounding error proves that no other document
of the block belongs to the top k. Where it does not (mostly: many documents that are equal or nearly so), every
document of the block that the bound leaves in doubt is scored in float64. The result is therefore a function of the
vectors alone: neither engine, device, block size, memory budget nor number of threads changes it.
"""

from __future__ import annotations

import logging
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ragcun.distance import DISTANCES, Distance
from ragcun.retrieval.blocks import Block, Matrix, exact_scores, read_block, release
from ragcun.retrieval.candidates import (
    Documents,
    FindCandidates,
    all_keys,
    centre_documents,
    centre_queries,
    faiss_candidates,
    key_error_bound,
    largest_score,
    torch_candidates,
)
from ragcun.retrieval.plan import Plan, make_plan, worker_threads
from ragcun.retrieval.top_k import NO_ROW, SearchResult, merge

logger = logging.getLogger(__name__)
Engine = Literal["auto", "faiss", "torch"]


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
    are ranked by (score descending, `order` ascending).

    Args:
        queries: (q, dim) floating point; read as float32.
        documents: (n, dim) floating point: an array, a memory map, of which no more than a block stays in memory, or
            anything else that gives rows when sliced; read as float32, one block at a time.
        k: how many; n where `k` is larger.
        distance: what is compared.
        memory_budget_bytes: bound on working memory beside the arguments and the result, on the host and on the device
            each; a smaller one is slower, with the same result. One row at a time is the least there is.
        device: a torch device; None takes a CUDA device where there is one, else the CPU.
        engine: ``auto`` is faiss on the CPU and torch elsewhere.
        order: (n,) places of the documents among equal scores, as `id_order` gives them; None: their rows.

    Raises:
        ValueError: shapes disagree, an argument is out of range, there are no documents, rows are not finite,
            or a score exceeds float32.
    """
    _check(queries, documents, k, distance, memory_budget_bytes, order)
    n, threads = documents.shape[0], torch.get_num_threads()
    plan = make_plan(documents.shape, min(k, n), memory_budget_bytes, device, engine, threads)
    query_block = read_block(queries, 0, len(queries), "queries")
    best = SearchResult.nothing(len(queries), min(k, n))
    unproven = 0
    with worker_threads(threads) as pool:
        search = _Search(plan, distance, order, pool)
        for start in tqdm(range(0, n, plan.document_rows), desc="search", unit="block", delay=2):
            block = read_block(documents, start, start + plan.document_rows, "documents")
            unproven += search.block(query_block, block, best)
            release(documents)
    logger.debug("%d pairs of query and block needed all keys of the block", unproven)
    if not np.isfinite(best.scores).all():
        raise ValueError(f"{int((~np.isfinite(best.scores)).sum())} scores exceed float32; scale the embeddings down")
    return best


@dataclass(frozen=True)
class _Search:
    """What does not change from block to block."""

    plan: Plan
    distance: Distance
    order: NDArray[np.int64] | None
    threads: Executor | None

    def block(self, queries: Block, documents: Block, best: SearchResult) -> int:
        """Merge the best of a block into `best`, in place; return how many queries needed all keys of the block."""
        centred = centre_documents(self.distance, documents)
        on_device = partial(torch_candidates, device=self.plan.device)
        find = (faiss_candidates if self.plan.engine == "faiss" else on_device)(self.distance, centred)
        unproven, step = 0, self.plan.query_rows
        for first in range(0, len(queries.vectors), step):
            part = queries.rows(first, first + step)
            unproven += self._part(find, part, documents, centred, best.rows(slice(first, first + step)))
        return unproven

    def _part(
        self, find: FindCandidates, queries: Block, documents: Block, centred: Documents, best: SearchResult
    ) -> int:
        count = min(self.plan.candidates, len(documents.vectors))
        query_vectors = centre_queries(self.distance, queries, centred.centre)
        keys, found = find(query_vectors, count)
        error = key_error_bound(self.distance, query_vectors, centred)
        proven = np.isfinite(error)
        at_most = largest_score(self.distance, keys, error[:, None])
        hopeful = (at_most >= best.scores[:, -1:]) & proven[:, None]
        exact = self._exact(queries, documents, found, hopeful)
        merged = merge(best, SearchResult(exact, np.where(hopeful, found + documents.start, NO_ROW)), self.order)
        if count < len(documents.vectors):
            proven &= merged.scores[:, -1] > at_most[:, -1]
        for row in np.flatnonzero(~proven).tolist():
            one, query = slice(row, row + 1), queries.rows(row, row + 1)
            keys = all_keys(self.distance, centre_queries(self.distance, query, centred.centre), centred)
            in_doubt = ~(largest_score(self.distance, keys[0], error[row]) < merged.scores[row, -1])
            merged.rows(one).take(self._best_of(query, documents, np.flatnonzero(in_doubt), best.rows(one)))
        best.take(merged)
        return int((~proven).sum())

    def _exact(
        self, queries: Block, documents: Block, found: NDArray[np.int64], wanted: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        """Score the wanted ones of the documents found, −∞ for the others; shapes (queries, candidates)."""
        scores = np.full(found.shape, -np.inf, dtype=np.float32)

        def score(query: int) -> None:
            rows = found[query, wanted[query]]
            scores[query, wanted[query]] = exact_scores(
                self.distance, queries, query, documents, rows, self.plan.pair_rows
            )

        list((self.threads.map if self.threads else map)(score, range(len(found))))
        return scores

    def _best_of(self, query: Block, documents: Block, rows: NDArray[np.int64], best: SearchResult) -> SearchResult:
        """Merge these rows of a block into one query's best."""
        step = self.plan.pair_rows
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            exact = exact_scores(self.distance, query, 0, documents, part, step)
            best = merge(best, SearchResult(exact[None], part[None] + documents.start), self.order)
        return best


def _check(
    queries: NDArray[Any],
    documents: Matrix,
    k: int,
    distance: Distance,
    budget: int,
    order: NDArray[np.int64] | None,
) -> None:
    for name, matrix in (("queries", queries), ("documents", documents)):
        if len(matrix.shape) != 2 or not np.issubdtype(matrix.dtype, np.floating):
            raise ValueError(f"{name} must be a floating-point matrix, got shape {matrix.shape} of {matrix.dtype}")
    if queries.shape[1] != documents.shape[1] or queries.shape[1] == 0:
        raise ValueError(f"queries have {queries.shape[1]} dimensions and documents {documents.shape[1]}")
    if documents.shape[0] == 0:
        raise ValueError("documents must have at least 1 row, got 0")
    if k < 1 or budget < 1:
        raise ValueError(f"k and memory_budget_bytes must be at least 1, got {k} and {budget}")
    if distance not in DISTANCES:
        raise ValueError(f"distance must be one of {', '.join(DISTANCES)}, got {distance!r}")
    if order is not None and order.shape != documents.shape[:1]:
        raise ValueError(f"order has shape {order.shape} for {documents.shape[0]} documents")
