"""Rows of one or several matrices, possibly on disk, read in blocks as float64."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm.auto import tqdm

MEMORY_BUDGET_BYTES = 1 << 30
BLOCKS_AT_ONCE = 8
ROWS_AT_ONCE = 1024
LARGEST_BLOCK_BYTES = 1 << 25


class Rows:
    """Matrices of one width as the rows of a single one, checked when they are read.

    Args:
        parts: name, for messages, and matrix ``(n, dim)`` of real numbers, possibly a memory map.

    Raises:
        ValueError: a part is no matrix of real numbers or their widths differ, or there are fewer than 2 rows in all.
    """

    def __init__(self, parts: Mapping[str, ArrayLike]) -> None:
        self.parts = {name: _matrix(part, name) for name, part in parts.items()}
        (first, dim), *others = [(name, part.shape[1]) for name, part in self.parts.items()]
        for name, columns in others:
            if columns != dim:
                raise ValueError(f"{name} has {columns} columns, {first} has {dim}")
        self.dim = dim
        self.ends = np.cumsum([len(part) for part in self.parts.values()])
        if len(self) < 2:
            raise ValueError(f"{' and '.join(self.parts)} must have at least 2 rows, got {len(self)}")

    def __len__(self) -> int:
        return int(self.ends[-1])

    def blocks(
        self, memory_budget_bytes: int = MEMORY_BUDGET_BYTES, title: str | None = None
    ) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """Yield the row at which a block starts, and the block ``(rows, dim)``.

        A block takes an eighth of the budget and 32 MiB at most, but one row at least. What was read of a memory map is
        given back to the system.

        Raises:
            ValueError: a row is not finite, or its squared length is not.
        """
        size = max(1, min(memory_budget_bytes // BLOCKS_AT_ONCE, LARGEST_BLOCK_BYTES) // (8 * self.dim))
        with tqdm(total=len(self), desc=title, unit="row", delay=2, leave=False) as progress:
            for (name, part), end in zip(self.parts.items(), self.ends, strict=True):
                for start in range(0, len(part), size):
                    block = np.array(part[start : start + size], dtype=np.float64)
                    _release(part)
                    _check_finite(block, np.arange(start, start + len(block)), name)
                    yield int(end) - len(part) + start, block
                    progress.update(len(block))

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return a copy of these rows ``(len(rows), dim)``.

        Raises:
            ValueError: a row is not finite, or its squared length is not.
        """
        out = np.empty((len(rows), self.dim))
        part_of = np.searchsorted(self.ends, rows, side="right")
        for index, (name, part) in enumerate(self.parts.items()):
            places = np.flatnonzero(part_of == index)
            for start in range(0, len(places), ROWS_AT_ONCE):
                here = places[start : start + ROWS_AT_ONCE]
                local = rows[here] - (self.ends[index] - len(part))
                out[here] = part[local]
                _release(part)
                _check_finite(out[here], local, name)
        return out


def as_rows(x: Rows | ArrayLike, name: str = "the matrix") -> Rows:
    """Return a matrix as `Rows`, and `Rows` as they are.

    Raises:
        ValueError: as `Rows`.
    """
    return x if isinstance(x, Rows) else Rows({name: x})


def sample_rows(n: int, size: int, seed: int) -> NDArray[np.int64]:
    """Draw `size` of `n` rows without replacement, ascending; all where there are no more."""
    if n <= size:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, size, replace=False))


def squared_norms(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared Euclidean norm of every row ``(n,)``."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.einsum("ij,ij->i", x, x)


def unit_rows(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale every row to length 1; a row of zeros stays one."""
    largest = np.abs(x).max(axis=1, keepdims=True)
    scaled = x / np.where(largest == 0, 1, largest)
    norms = np.sqrt(squared_norms(scaled))[:, None]
    return scaled / np.where(norms == 0, 1, norms)


def _matrix(values: ArrayLike, name: str) -> NDArray[np.generic]:
    array = np.asanyarray(values)
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"{name} must have the shape (n, dim), got {array.shape}")
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name} must hold real numbers, got {array.dtype}")
    return array


def _check_finite(block: NDArray[np.float64], rows: NDArray[np.int64], name: str) -> None:
    finite = np.isfinite(squared_norms(block))
    if not finite.all():
        row = int(rows[np.argmin(finite)])
        raise ValueError(f"{name}: row {row} is not finite (NaN, infinity, or a squared length beyond float64)")


def _release(part: NDArray[np.generic]) -> None:
    """Drop the pages of a shared memory map from this process; what they hold stays in the file."""
    mapped = getattr(part, "_mmap", None)
    if isinstance(mapped, mmap.mmap) and getattr(part, "mode", None) in ("r", "r+") and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
