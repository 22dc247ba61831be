"""Blocks of embeddings, and the scores of pairs of their rows in float64."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ragcun.distance import Distance

NORM_ROWS = 64
ROUNDOFF = 2.0**-24
TINY = 2.0**-126


class Matrix(Protocol):
    """What a search reads, block by block: an array, a memory map, or rows that are made when they are asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """What its numbers are."""

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        """Return consecutive rows."""


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a matrix of embeddings, in memory.

    Attributes:
        start: row of the matrix at which the block starts.
        vectors: (rows, dim) float32.
    """

    start: int
    vectors: NDArray[np.float32]

    @cached_property
    def norms(self) -> NDArray[np.float64]:
        """Euclidean norms (rows,) in float64."""
        return row_norms(self.vectors)

    @cached_property
    def largest_norm(self) -> float:
        """A bound on the norms, close to the largest."""
        return norm_bound(self.vectors)

    def rows(self, start: int, stop: int) -> Block:
        """Return rows `start` to `stop` of this block."""
        return Block(self.start + start, self.vectors[start:stop])


def read_block(matrix: Matrix, start: int, stop: int, name: str) -> Block:
    """Read rows `start` to `stop` of `matrix` as float32; they are not copied where they are that already.

    Raises:
        ValueError: a row is not finite; says how many such rows `matrix` has.
    """
    block = _read(matrix, start, stop)
    if not np.isfinite(block.largest_norm):
        rows, step = matrix.shape[0], max(1, stop - start)
        blocks = (_read(matrix, first, first + step) for first in range(0, rows, step))
        bad = sum(int((~np.isfinite(block.norms)).sum()) for block in blocks)
        raise ValueError(f"{bad} of {rows} rows of {name} are not finite (NaN or infinity)")
    return block


def release(matrix: object) -> None:
    """Tell the system that the pages of a memory map are not needed in memory; of anything else, nothing."""
    while isinstance(matrix, np.ndarray):
        if isinstance(matrix, np.memmap) and matrix.mode == "c":
            return
        matrix = matrix.base
    if isinstance(matrix, mmap.mmap) and hasattr(matrix, "madvise"):
        matrix.madvise(mmap.MADV_DONTNEED)


def row_norms(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Euclidean norm of every row in float64; the norm of a row does not depend on the rows around it."""
    norms = np.empty(len(vectors))
    for first in range(0, len(vectors), NORM_ROWS):
        part = vectors[first : first + NORM_ROWS].astype(np.float64)
        norms[first : first + NORM_ROWS] = np.sqrt(np.square(part, out=part).sum(axis=1))
    return norms


def norm_bound(vectors: NDArray[np.float32]) -> float:
    """Bound the norms of all rows from above, in a fraction of the time of `row_norms`; not finite where a row is not.

    The sum of d squares in float32 is off by at most d·u of itself to first order (u = 2⁻²⁴), and squares below 2⁻¹²⁶
    may count as 0. Where squares overflow, the norms are computed in float64.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.einsum("ij,ij->i", vectors, vectors)
        largest = float(squares.max(initial=0))
    if not np.isfinite(largest):
        return float(row_norms(vectors).max())
    dim = vectors.shape[1]
    return float(np.sqrt(largest * (1 + 2 * dim * ROUNDOFF) + dim * TINY))


def exact_scores(
    distance: Distance, queries: Block, query: int, documents: Block, rows: NDArray[np.int64], rows_at_once: int
) -> NDArray[np.float32]:
    """Score documents for a query in float64, each pair by the same operations in the same order, rounded to float32.

    Shapes: `query` is a row of `queries`, `rows` (n,) are rows of `documents`; returns (n,).
    """
    vector = queries.vectors[query].astype(np.float64)
    scores = np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), rows_at_once):
        found = documents.vectors[rows[start : start + rows_at_once]]
        if distance == "euclidean":
            pairs = np.subtract(found, vector)
            exact = -np.sqrt(np.square(pairs, out=pairs).sum(axis=1))
        else:
            exact = np.multiply(found, vector).sum(axis=1)
        if distance == "cosine":
            norms = row_norms(found) * np.sqrt(np.square(vector).sum())
            exact /= np.where(norms == 0, 1, norms)
        with np.errstate(over="ignore"):
            scores[start : start + rows_at_once] = exact + 0.0
    return scores


def _read(matrix: Matrix, start: int, stop: int) -> Block:
    with np.errstate(over="ignore"):
        return Block(start, np.ascontiguousarray(matrix[start:stop], dtype=np.float32))
