"""Rows of matrices, possibly on disk, their moments by random group in one pass, and how both are measured."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm.auto import tqdm

from ragcun.isotropy.spectrum import eigenvalues

BLOCK_BYTES, GROUPS_BYTES = 1 << 25, 1 << 29
"""Memory of a block of rows in float64, and of the moments of groups, unless these are `LEAST_GROUPS`."""
PAIRS_AT_ONCE = 8192
LEAST_GROUPS = 10


@dataclass(frozen=True)
class MeasureSettings:
    """How a matrix is measured."""

    seed: int = 0  # of all that is drawn
    groups: int = 50  # random groups of rows that are left out in turn for an interval
    k: int = 10  # of k-occurrence
    sample: int = 20_000  # rows at most where all pairs of rows are compared, and pairs for a distribution of distances


DEFAULTS = MeasureSettings()


class Rows:
    """Matrices of one width ``(n, dim)``, by name, possibly memory maps, as the rows of one.

    Raises:
        ValueError: a part is not a matrix of real numbers, widths differ, there are fewer than 2 rows in all, or, when
            it is read, a row or its squared length is not finite.
    """

    def __init__(self, parts: Mapping[str, ArrayLike]) -> None:
        self.parts = {name: np.asanyarray(part) for name, part in parts.items()}
        for name, part in self.parts.items():
            if part.ndim != 2 or part.shape[1] == 0:
                raise ValueError(f"{name} must have the shape (n, dim), got {part.shape}")
            if part.dtype.kind not in "fiu":
                raise ValueError(f"{name} must hold real numbers, got {part.dtype}")
        widths = {name: part.shape[1] for name, part in self.parts.items()}
        if len(set(widths.values())) > 1:
            raise ValueError(", ".join(f"{name} has {dim} columns" for name, dim in widths.items()))
        self.dim = next(iter(widths.values()))
        self.ends = np.cumsum([len(part) for part in self.parts.values()])
        if len(self) < 2:
            raise ValueError(f"{' and '.join(self.parts)} must have at least 2 rows, got {len(self)}")

    def __len__(self) -> int:
        return int(self.ends[-1])

    def blocks(self, title: str) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """Yield the row at which a block starts, and the block ``(rows, dim)``, of 32 MiB at most."""
        size = max(1, BLOCK_BYTES // (8 * self.dim))
        with tqdm(total=len(self), desc=title, unit="row", delay=2, leave=False) as progress:
            for (name, part), end in zip(self.parts.items(), self.ends, strict=True):
                for start in range(0, len(part), size):
                    block = np.array(part[start : start + size], dtype=np.float64)
                    release_pages(part)
                    _check_finite(block, np.arange(start, start + len(block)), name)
                    yield int(end) - len(part) + start, block
                    progress.update(len(block))

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return a copy of these rows ``(len(rows), dim)``."""
        out = np.empty((len(rows), self.dim))
        for (name, part), end in zip(self.parts.items(), self.ends, strict=True):
            here = np.flatnonzero((rows >= end - len(part)) & (rows < end))
            local = rows[here] - (end - len(part))
            out[here] = part[local]
            release_pages(part)
            _check_finite(out[here], local, name)
        return out

    def sample(self, size: int, seed: int) -> NDArray[np.float64]:
        """Return a copy of `sample_rows`."""
        return self.take(sample_rows(len(self), size, seed))


def _check_finite(block: NDArray[np.float64], rows: NDArray[np.int64], name: str) -> None:
    finite = np.isfinite(squared_norms(block))
    if not finite.all():
        row = int(rows[np.argmin(finite)])
        raise ValueError(f"{name}: row {row} is not finite (NaN, infinity, or a squared length beyond float64)")


def release_pages(matrix: object) -> None:
    """Tell the system that what was read of a memory map is not needed in memory; private changes (mode c) stay."""
    while isinstance(matrix, np.ndarray) and getattr(matrix, "mode", None) != "c":
        matrix = matrix.base
    if isinstance(matrix, mmap.mmap) and hasattr(matrix, "madvise"):
        matrix.madvise(mmap.MADV_DONTNEED)


def as_rows(x: Rows | ArrayLike) -> Rows:
    """Return a matrix as `Rows`; `Rows` stay as they are."""
    return x if isinstance(x, Rows) else Rows({"the matrix": x})


def sample_rows(n: int, size: int, seed: int) -> NDArray[np.int64]:
    """Draw `size` of `n` rows without replacement, ascending; all where there are no more."""
    return np.arange(n) if n <= size else np.sort(np.random.default_rng(seed).choice(n, size, replace=False))


def random_groups(n: int, groups: int, seed: int) -> NDArray[np.int64]:
    """Give each of `n` rows one of at most `groups` groups at random, whose sizes differ by at most 1: ``(n,)``."""
    return np.random.default_rng(seed).permutation(n) % min(groups, n)


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


def squared_gaps(
    x: Rows, y: Rows, left: NDArray[np.int64], right: NDArray[np.int64], unit: bool = False
) -> NDArray[np.float64]:
    """‖x_l − y_r‖² for rows l of `left` and r of `right`, scaled to length 1 with `unit`: ``(pairs,)``."""
    from sklearn.utils import gen_batches

    found = np.empty(len(left))
    for part in gen_batches(len(left), PAIRS_AT_ONCE):
        ours, theirs = x.take(left[part]), y.take(right[part])
        found[part] = squared_norms(unit_rows(ours) - unit_rows(theirs) if unit else ours - theirs)
    return found


@dataclass(frozen=True)
class Moments:
    """What spectrum measures and the mean cosine need of `count` rows x."""

    count: int
    mean: NDArray[np.float64]  # m, (dim,)
    scatter: NDArray[np.float64]  # Σ (x − m)(x − m)ᵀ, (dim, dim)
    directions: NDArray[np.float64]  # Σ x/‖x‖ over rows whose squared length is not 0, (dim,)
    nonzero: int  # how many these are

    def plus(self, other: Moments, sign: int = 1) -> Moments:
        """Return the moments of these rows and others or, by sign −1, of these but others among them."""
        n, apart = self.count + sign * other.count, other.mean - self.mean
        return Moments(
            n,
            self.mean + sign * apart * (other.count / n),
            self.scatter + sign * other.scatter + sign * np.outer(apart, apart) * (self.count * other.count / n),
            self.directions + sign * other.directions,
            self.nonzero + sign * other.nonzero,
        )

    @property
    def second(self) -> NDArray[np.float64]:
        """Return XᵀX ``(dim, dim)``, not centred."""
        return self.scatter + self.count * np.outer(self.mean, self.mean)

    def covariance_eigenvalues(self) -> NDArray[np.float64]:
        """Eigenvalues of the unbiased covariance ``(dim,)``, descending."""
        return eigenvalues(self.scatter / (self.count - 1))

    def second_eigenvalues(self) -> NDArray[np.float64]:
        """Eigenvalues of XᵀX ``(dim,)``, descending; their roots are the singular values of X."""
        return eigenvalues(self.second)


@dataclass(frozen=True)
class GroupedMoments:
    """Rows, the moments of disjoint random groups of them and of all (`total`), and their Euclidean norms ``(n,)``."""

    rows: Rows
    groups: tuple[Moments, ...]
    total: Moments
    norms: NDArray[np.float64]

    def without_each(self) -> list[Moments]:
        """Return the moments of all rows but one group's, for each group; empty where too few rows would be left."""
        left = self.total.count - max(group.count for group in self.groups)
        return [] if left < 2 else [self.total.plus(group, -1) for group in self.groups]

    def stacked(self, other: GroupedMoments) -> GroupedMoments:
        """Return the moments of these rows with those of `other` below them; a group takes a group of each."""
        rows = Rows({**self.rows.parts, **other.rows.parts})
        long, short = sorted((self.groups, other.groups), key=len, reverse=True)
        joined = (*map(Moments.plus, long, short), *long[len(short) :])
        return GroupedMoments(rows, joined, self.total.plus(other.total), np.concatenate([self.norms, other.norms]))


def grouped_moments(x: Rows | ArrayLike, settings: MeasureSettings = DEFAULTS) -> GroupedMoments:
    """Moments of the rows of `x` in random groups whose sizes differ by at most 1, in one pass.

    Products are taken of rows minus the first row, so that a large common vector costs no digits and equal rows have a
    scatter of exactly 0. There are fewer groups than set, but at least 10, where their moments would take over 512 MiB.
    """
    rows = as_rows(x)
    affordable = max(LEAST_GROUPS, GROUPS_BYTES // (8 * rows.dim**2))
    group_of = random_groups(len(rows), min(settings.groups, affordable), settings.seed)
    number, dim = int(group_of.max()) + 1, rows.dim
    nonzero, firsts, directions = np.zeros(number, dtype=np.int64), np.zeros((number, dim)), np.zeros((number, dim))
    products = np.zeros((number, dim, dim))
    norms, shift = np.empty(len(rows)), rows.take(np.array([0]))[0]
    for start, block in rows.blocks("moments"):
        lengths, here = np.sqrt(squared_norms(block)), group_of[start : start + len(block)]
        norms[start : start + len(block)] = lengths
        for group in np.unique(here):
            members, long = block[here == group], lengths[here == group]
            nonzero[group] += np.count_nonzero(long)
            directions[group] += np.divide(1, long, out=np.zeros(len(long)), where=long > 0) @ members
            members -= shift
            firsts[group] += members.sum(axis=0)
            products[group] += members.T @ members
    parts = []
    for group, count in enumerate(np.bincount(group_of).tolist()):
        mean, scatter = firsts[group] / count, products[group]
        scatter -= count * np.outer(mean, mean)
        parts.append(Moments(count, shift + mean, scatter, directions[group], int(nonzero[group])))
    return GroupedMoments(rows, tuple(parts), reduce(Moments.plus, parts), norms)
