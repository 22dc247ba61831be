"""Distributions of lengths and distances, as figures that can be plotted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ragcun.isotropy.rows import Rows, squared_norms

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
BINS = 40
LEAST_RELATIVE_WIDTH = 1e-6
PAIRS_AT_ONCE = 8192


@dataclass(frozen=True)
class Distribution:
    """What a list of values looks like.

    Attributes:
        n: how many.
        mean: their mean.
        std: their population standard deviation.
        min: the smallest.
        max: the largest.
        quantiles: value by share, as ``"0.5"``.
        edges: 41 edges of bins of equal width.
        counts: how many values are in each of the 40 bins; the last one includes its upper edge.
    """

    n: int
    mean: float
    std: float
    min: float
    max: float
    quantiles: dict[str, float]
    edges: list[float]
    counts: list[int]

    def __post_init__(self) -> None:
        if len(self.edges) != len(self.counts) + 1:
            raise ValueError(f"has {len(self.edges)} edges for {len(self.counts)} counts, one more is expected")


def distribution(values: ArrayLike) -> Distribution:
    """Describe values ``(n,)``.

    The bins go from the smallest to the largest value. Where those differ by less than a millionth of their size, the
    bins reach 5 % of it to either side, and 0.5 around 0, so that edges always increase.

    Raises:
        ValueError: no values, not a vector, or not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"expected a vector of at least 1 value, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"value {int(np.argmin(np.isfinite(array)))} is not finite")
    low, high = float(array.min()), float(array.max())
    size = max(abs(low), abs(high))
    bounds = (low, high)
    if high - low <= LEAST_RELATIVE_WIDTH * size:
        half = size / 20 or 0.5
        bounds = (low - half, high + half)
    counts, edges = np.histogram(array, bins=BINS, range=bounds)
    quantiles = dict(zip(map(str, QUANTILES), np.quantile(array, QUANTILES).tolist(), strict=True))
    mean = min(max(float(array.mean()), low), high)
    std = float((array - low).std())
    return Distribution(len(array), mean, std, low, high, quantiles, edges.tolist(), counts.tolist())


def random_pairs(n: int, size: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw `size` pairs of different ones of `n` rows, with replacement of pairs; all pairs where there are no more.

    Raises:
        ValueError: fewer than 2 rows.
    """
    if n < 2:
        raise ValueError(f"a pair needs at least 2 rows, got {n}")
    if n * (n - 1) // 2 <= size:
        left, right = np.triu_indices(n, 1)
        return left, right
    generator = np.random.default_rng(seed)
    left = generator.integers(0, n, size)
    return left, (left + generator.integers(1, n, size)) % n


def distances_between(x: Rows, y: Rows, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.float64]:
    """Euclidean distance of row left[i] of `x` to row right[i] of `y`: ``(pairs,)``."""
    found = np.empty(len(left))
    for start in range(0, len(left), PAIRS_AT_ONCE):
        part = slice(start, start + PAIRS_AT_ONCE)
        found[part] = np.sqrt(squared_norms(x.take(left[part]) - y.take(right[part])))
    return found
