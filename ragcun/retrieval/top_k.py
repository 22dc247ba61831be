"""What a search found: the best documents of each query, merged from blocks, and how equal scores are ranked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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

    @classmethod
    def nothing(cls, queries: int, k: int) -> SearchResult:
        """Return the result before any document was seen: scores of −∞."""
        return cls(np.full((queries, k), -np.inf, dtype=np.float32), np.full((queries, k), NO_ROW, dtype=np.int64))

    def rows(self, rows: slice) -> SearchResult:
        """Return the results of some queries, as views."""
        return SearchResult(self.scores[rows], self.indices[rows])

    def take(self, other: SearchResult) -> None:
        """Overwrite these results with those of `other`."""
        self.scores[:], self.indices[:] = other.scores, other.indices


def merge(best: SearchResult, more: SearchResult, order: NDArray[np.int64] | None) -> SearchResult:
    """Keep as many as `best` has columns, by (score descending, place among equals in `order`, or row)."""
    scores = np.concatenate([best.scores, more.scores], axis=1)
    indices = np.concatenate([best.indices, more.indices], axis=1)
    ranks = np.argsort(-scores, axis=1, kind="stable")
    scores, indices = (np.take_along_axis(each, ranks, axis=1) for each in (scores, indices))
    columns = best.scores.shape[1]
    equal = (scores[:, 1:] == scores[:, :-1]) & (indices[:, 1:] != NO_ROW)
    tied = np.flatnonzero(equal[:, :columns].any(axis=1))
    if len(tied):
        places = indices[tied]
        if order is not None:
            places = np.where(places == NO_ROW, NO_ROW, order[np.where(places == NO_ROW, 0, places)])
        ranks = np.lexsort((places, -scores[tied]))
        scores[tied], indices[tied] = (np.take_along_axis(each[tied], ranks, axis=1) for each in (scores, indices))
    return SearchResult(scores[:, :columns], indices[:, :columns])


def id_order(ids: Sequence[str]) -> NDArray[np.int64]:
    """Return the place of each id among the sorted ids, by which documents of equal score are ranked.

    >>> id_order(["b", "c", "a"]).tolist()
    [1, 2, 0]
    """
    places = np.empty(len(ids), dtype=np.int64)
    places[sorted(range(len(ids)), key=ids.__getitem__)] = np.arange(len(ids))
    return places
