"""First and second moments of rows, group by group, in one pass and bounded memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ragcun.isotropy.intervals import GROUPS, random_groups
from ragcun.isotropy.rows import MEMORY_BUDGET_BYTES, Rows, as_rows, squared_norms
from ragcun.isotropy.spectrum import eigenvalues

LEAST_GROUPS = 10


@dataclass(frozen=True)
class Moments:
    """What spectrum measures and the mean cosine need of n rows x.

    Attributes:
        count: n.
        mean: m, (dim,).
        scatter: Σ (x − m)(x − m)ᵀ, (dim, dim).
        directions: Σ x/‖x‖ over rows other than 0, (dim,).
        nonzero: how many rows are not 0, nor so short that their squared length is.
    """

    count: int
    mean: NDArray[np.float64]
    scatter: NDArray[np.float64]
    directions: NDArray[np.float64]
    nonzero: int

    def __add__(self, other: Moments) -> Moments:
        n, apart = self.count + other.count, other.mean - self.mean
        return Moments(
            n,
            self.mean + apart * (other.count / n),
            self.scatter + other.scatter + np.outer(apart, apart) * (self.count * other.count / n),
            self.directions + other.directions,
            self.nonzero + other.nonzero,
        )

    def __sub__(self, part: Moments) -> Moments:
        n, apart = self.count - part.count, part.mean - self.mean
        return Moments(
            n,
            self.mean - apart * (part.count / n),
            self.scatter - part.scatter - np.outer(apart, apart) * (self.count * part.count / n),
            self.directions - part.directions,
            self.nonzero - part.nonzero,
        )

    @property
    def variance(self) -> float:
        """Total variance, the trace of the covariance."""
        return float(self.scatter.trace()) / (self.count - 1)

    @property
    def second(self) -> NDArray[np.float64]:
        """XᵀX ``(dim, dim)``, not centred."""
        return self.scatter + self.count * np.outer(self.mean, self.mean)

    def covariance_eigenvalues(self) -> NDArray[np.float64]:
        """Eigenvalues of the unbiased covariance ``(dim,)``, descending."""
        return eigenvalues(self.scatter / (self.count - 1))

    def second_eigenvalues(self) -> NDArray[np.float64]:
        """Eigenvalues of XᵀX ``(dim,)``, descending; their roots are the singular values of X."""
        return eigenvalues(self.second)


@dataclass(frozen=True)
class GroupedMoments:
    """Moments of disjoint random groups of rows, of all rows, and the rows' norms.

    Attributes:
        groups: those of each group.
        total: those of all rows.
        norms: (n,) Euclidean norms.
    """

    groups: tuple[Moments, ...]
    total: Moments
    norms: NDArray[np.float64]

    def without_each(self) -> list[Moments]:
        """Return the moments of all rows but one group's, for each group; empty where too few rows would be left."""
        if self.total.count - max(group.count for group in self.groups) < 2:
            return []
        return [self.total - group for group in self.groups]

    def stacked(self, other: GroupedMoments) -> GroupedMoments:
        """Return the moments of these rows with those of `other` below them; a group takes a group of each."""
        long, short = sorted((self.groups, other.groups), key=len, reverse=True)
        joined = tuple(a + b for a, b in zip(long, short, strict=False)) + long[len(short) :]
        return GroupedMoments(joined, self.total + other.total, np.concatenate([self.norms, other.norms]))


def grouped_moments(
    x: Rows | ArrayLike, groups: int = GROUPS, seed: int = 0, memory_budget_bytes: int = MEMORY_BUDGET_BYTES
) -> GroupedMoments:
    """Moments of the rows of `x` in random groups whose sizes differ by at most 1, in one pass.

    Products are taken in float64 of rows minus the first row, so that a large common vector costs no digits and rows
    that are all equal have a scatter of exactly 0. There are fewer groups than `groups` where their moments would take
    more than half the budget, but not fewer than 10 for that reason: 80·dim² bytes are needed at least.

    Raises:
        ValueError: not a matrix of at least 2 rows of real numbers, or a row is not finite; says which.
    """
    rows = as_rows(x)
    affordable = max(LEAST_GROUPS, memory_budget_bytes // (16 * rows.dim**2))
    group_of = random_groups(len(rows), min(groups, affordable), seed)
    sums = _Sums(int(group_of.max()) + 1, rows.dim)
    norms, shift = np.empty(len(rows)), rows.take(np.array([0]))[0]
    for start, block in rows.blocks(memory_budget_bytes, "moments"):
        here = slice(start, start + len(block))
        norms[here] = np.sqrt(squared_norms(block))
        sums.add(block, norms[here], shift, group_of[here])
    parts = tuple(sums.moments(shift))
    return GroupedMoments(parts, reduce(Moments.__add__, parts), norms)


class _Sums:
    """Sums over groups of rows minus a shift, of their products, and of their directions."""

    def __init__(self, groups: int, dim: int) -> None:
        self.counts, self.nonzero = np.zeros(groups, dtype=np.int64), np.zeros(groups, dtype=np.int64)
        self.firsts, self.directions = np.zeros((groups, dim)), np.zeros((groups, dim))
        self.products = np.zeros((groups, dim, dim))

    def add(
        self,
        block: NDArray[np.float64],
        norms: NDArray[np.float64],
        shift: NDArray[np.float64],
        group_of: NDArray[np.int64],
    ) -> None:
        for group in np.unique(group_of):
            places = np.flatnonzero(group_of == group)
            rows, lengths = block[places], norms[places]
            self.counts[group] += len(rows)
            self.nonzero[group] += np.count_nonzero(lengths)
            self.directions[group] += np.divide(1, lengths, out=np.zeros(len(rows)), where=lengths > 0) @ rows
            rows -= shift
            self.firsts[group] += rows.sum(axis=0)
            self.products[group] += rows.T @ rows

    def moments(self, shift: NDArray[np.float64]) -> list[Moments]:
        """Turn the sums into moments, in place."""
        found = []
        for group, count in enumerate(self.counts.tolist()):
            mean, scatter = self.firsts[group] / count, self.products[group]
            scatter -= count * np.outer(mean, mean)
            directions, nonzero = self.directions[group], int(self.nonzero[group])
            found.append(Moments(count, shift + mean, scatter, directions, nonzero))
        return found
