"""How a search is cut into pieces that fit a memory budget."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Plan:
    """What a search does, and how large its pieces are: rows of documents, of queries, of pairs scored in float64."""

    engine: str
    device: str
    candidates: int
    document_rows: int
    query_rows: int
    pair_rows: int


@contextmanager
def worker_threads(count: int) -> Iterator[Executor | None]:
    """Give that many threads, or None where that is one."""
    if count == 1:
        yield None
        return
    with ThreadPoolExecutor(count) as threads:
        yield threads


def make_plan(shape: tuple[int, ...], k: int, budget: int, device: str | None, engine: str, threads: int) -> Plan:
    """Share the budget out: half for documents, a quarter each for results by query and for pairs in float64.

    Args:
        shape: rows and columns of the documents.
        k: how many documents a query is to find.
        budget: bytes.
        device: a torch device; None takes a CUDA device where there is one, else the CPU.
        engine: ``faiss``, ``torch`` or ``auto``, which is faiss on the CPU and torch elsewhere.
        threads: how many score pairs at the same time.

    Raises:
        ValueError: the engine does not run on the device.
    """
    if device is None:
        device = "cuda" if engine != "faiss" and torch.cuda.is_available() else "cpu"
    on_cpu = torch.device(device).type == "cpu"
    chosen = ("faiss" if on_cpu else "torch") if engine == "auto" else engine
    if chosen not in ("faiss", "torch") or (chosen == "faiss" and not on_cpu):
        raise ValueError(f"engine {engine!r} does not run on device {device!r}; faiss is for the CPU, torch for any")
    share, (n, dim) = budget // 4, shape
    candidates = k + max(32, k // 32)
    document_rows = min(max(1, 2 * share // (8 * dim + 64)), n)
    query_rows = share // (100 * candidates)
    if chosen == "torch":
        document_rows = min(document_rows, max(1, 2 * share // (16 * dim)))
        query_rows = min(query_rows, share // (12 * document_rows))
    pair_rows = share // (28 * dim * threads)
    return Plan(chosen, device, candidates, document_rows, max(1, query_rows), max(1, pair_rows))
