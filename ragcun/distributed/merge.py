"""The results of shards as one, by the tie rule of a search through the whole corpus."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ragcun.retrieval.top_k import SearchResult, merge


def merge_results(parts: Iterable[SearchResult], k: int, order: NDArray[np.int64]) -> SearchResult:
    """Return the `k` best documents of every query among the results of shards, or all where there are fewer.

    A shard's result holds its own `k` best by (score descending, `order` ascending), and merging keeps the best by the
    same rule (`ragcun.retrieval.top_k.merge`), so the result is that of a search through all rows at once. One part is
    held at a time.

    Args:
        parts: at least one; indices are rows of the corpus.
        k: how many to keep.
        order: (n,) places of the corpus's documents among equal scores.

    Raises:
        ValueError: there is no part, or parts have different numbers of queries.
    """
    best: SearchResult | None = None
    for part in parts:
        if best is None:
            best = SearchResult.nothing(len(part.scores), min(k, len(order)))
        if len(best.scores) != len(part.scores):
            raise ValueError(f"shards must have the same queries, got {len(best.scores)} and {len(part.scores)}")
        best = merge(best, part, order)
    if best is None:
        raise ValueError("there must be at least 1 shard to merge, got 0")
    return best
