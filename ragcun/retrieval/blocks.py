"""Blocks of embeddings, and the scores of pairs of their rows in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragcun.distance import Distance

NORM_ROWS = 64


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a matrix of embeddings, in memory.

    Attributes:
        start: row of the matrix at which the block starts.
        vectors: (rows, dim) float32.
        norms: (rows,) float64 Euclidean norms.
    """

    start: int
    vectors: NDArray[np.float32]
    norms: NDArray[np.float64]

    def rows(self, start: int, stop: int) -> Block:
        """Return rows `start` to `stop` of this block."""
        return Block(self.start + start, self.vectors[start:stop], self.norms[start:stop])


def read_block(matrix: NDArray[Any], start: int, stop: int, name: str) -> Block:
    """Read rows `start` to `stop` of `matrix`, which may be a memory map, as float32.

    Raises:
        ValueError: a row is not finite; says how many such rows `matrix` has.
    """
    block = _read(matrix, start, stop)
    if not np.isfinite(block.norms).all():
        step = max(1, stop - start)
        blocks = (_read(matrix, first, first + step) for first in range(0, len(matrix), step))
        bad = sum(int((~np.isfinite(block.norms)).sum()) for block in blocks)
        raise ValueError(f"{bad} of {len(matrix)} rows of {name} are not finite (NaN or infinity)")
    return block


def row_norms(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Euclidean norm of every row in float64; the norm of a row does not depend on the rows around it."""
    norms = np.empty(len(vectors))
    for first in range(0, len(vectors), NORM_ROWS):
        part = vectors[first : first + NORM_ROWS].astype(np.float64)
        norms[first : first + NORM_ROWS] = np.sqrt(np.square(part, out=part).sum(axis=1))
    return norms


def exact_scores(
    distance: Distance,
    queries: Block,
    documents: Block,
    query_rows: NDArray[np.int64],
    document_rows: NDArray[np.int64],
    rows_at_once: int,
) -> NDArray[np.float32]:
    """Score pairs of rows in float64, each pair by the same operations in the same order, rounded to float32.

    Shapes: `query_rows` and `document_rows` (pairs,), rows within their blocks; returns (pairs,).
    """
    scores = np.empty(len(query_rows), dtype=np.float32)
    for start in range(0, len(query_rows), rows_at_once):
        q, x = query_rows[start : start + rows_at_once], document_rows[start : start + rows_at_once]
        pairs = queries.vectors[q].astype(np.float64)
        if distance == "euclidean":
            pairs -= documents.vectors[x]
            exact = -np.sqrt(np.square(pairs, out=pairs).sum(axis=1))
        else:
            pairs *= documents.vectors[x]
            exact = pairs.sum(axis=1)
        if distance == "cosine":
            norms = queries.norms[q] * documents.norms[x]
            exact /= np.where(norms == 0, 1, norms)
        with np.errstate(over="ignore"):
            scores[start : start + rows_at_once] = exact + 0.0
    return scores


def _read(matrix: NDArray[Any], start: int, stop: int) -> Block:
    with np.errstate(over="ignore"):
        vectors = np.ascontiguousarray(matrix[start:stop], dtype=np.float32)
    return Block(start, vectors, row_norms(vectors))
