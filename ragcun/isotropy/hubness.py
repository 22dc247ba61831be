"""Hubness: how unevenly rows occur among the nearest neighbours of other rows."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ragcun.isotropy.moments import squared_norms, unit_rows
from ragcun.isotropy.spectrum import UndefinedMeasure, defined

BLOCK_NUMBERS = 1 << 23  # distances at once, of which there are about 16 arrays
PAIRS_AT_ONCE = 4096


def nearest_rows(x: NDArray[np.float64], k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find the `k` nearest other rows of every row by Euclidean distance, exactly, equals in the order of rows.

    Candidates come from ‖x‖² + ‖y‖² − 2x·y with a bound on its rounding, and are ranked by the sum of squared
    differences, which is the same for equal rows. Shapes: x (n, dim); returns rows and distances, (n, k) each.

    Raises:
        ValueError: k is not 1 to n − 1.
    """
    from sklearn.metrics.pairwise import euclidean_distances
    from sklearn.utils import gen_batches

    n, dim = x.shape
    if not 1 <= k < n:
        raise ValueError(f"k must be 1 to {n - 1}, one less than the rows, got {k}")
    centred = x - x.mean(axis=0)
    squares = squared_norms(centred)
    slack = 8 * (dim + 4) * np.finfo(np.float64).eps * (squares + squares.max())
    _, first_of, same = np.unique(x, axis=0, return_index=True, return_inverse=True)  # equal rows are compared once
    same = same.ravel()
    found, distances = np.empty((n, k), dtype=np.int64), np.empty((n, k))
    size = max(1, BLOCK_NUMBERS // n)
    for start in tqdm(range(0, n, size), desc="neighbours", unit="block", delay=2, leave=False):
        rows = np.arange(start, min(start + size, n))
        rough = euclidean_distances(centred[rows], centred, squared=True)
        rough[np.arange(len(rows)), rows] = np.inf
        limit = np.partition(rough, k - 1, axis=1)[:, k - 1] + slack[rows]
        local, candidate = np.nonzero(rough <= limit[:, None])
        pairs, place = np.unique(same[rows[local]] * n + same[candidate], return_inverse=True)
        ours, theirs = first_of[pairs // n], first_of[pairs % n]
        parts = gen_batches(len(pairs), PAIRS_AT_ONCE)
        exact = np.concatenate([np.square(x[ours[part]] - x[theirs[part]]).sum(axis=1) for part in parts])[place]
        order = np.lexsort((candidate, exact, local))
        firsts = np.searchsorted(local, np.arange(len(rows)))
        chosen = order[firsts[:, None] + np.arange(k)]
        found[rows], distances[rows] = candidate[chosen], np.sqrt(exact[chosen])
    return found, distances


def k_occurrence(neighbours: NDArray[np.int64]) -> NDArray[np.int64]:
    """N_k of every row ``(n,)``: among the k nearest of how many other rows it is; the mean is k."""
    return np.bincount(neighbours.ravel(), minlength=len(neighbours))


def k_occurrences_without(
    neighbours: NDArray[np.int64], k: int, group_of: NDArray[np.int64]
) -> list[NDArray[np.int64]]:
    """N_k of the rows that remain when a group is left out, for each group; none where a row has under k neighbours."""
    found = []
    for group in range(group_of.max() + 1):
        kept = group_of != group
        remain = kept[neighbours[kept]]
        place = remain.cumsum(axis=1)
        if not len(place) or place[:, -1].min() < k:
            return []
        found.append(np.bincount(neighbours[kept][remain & (place <= k)], minlength=len(kept))[kept])
    return found


def hubness_skewness(counts: NDArray[np.int64]) -> float:
    """Skewness of N_k (Radovanović et al. 2010, JMLR 11): 0 without hubs; undefined where all N_k are equal."""
    from scipy.stats import skew

    if np.ptp(counts) == 0:
        raise UndefinedMeasure("the skewness of N_k is 0/0: every row is a neighbour of equally many others")
    return float(skew(counts))


def robin_hood(counts: NDArray[np.int64]) -> float:
    """Robin Hood index ½Σ|N_k − mean N_k|/ΣN_k: share of neighbour places to move until all rows have as many, 0 to 1.

    Source: Feldbauer et al. 2018, *Fast approximate hubness reduction for large high-dimensional data*.
    """
    return float(np.abs(counts - counts.mean()).sum() / (2 * counts.sum()))


def antihub_share(counts: NDArray[np.int64]) -> float:
    """Share of rows that are among the k nearest of no other row, 0 to 1."""
    return float((counts == 0).mean())


def hubness_measures(counts: NDArray[np.int64]) -> dict[str, float | None]:
    """Every measure of hubness from N_k; None where undefined."""
    return {measure.__name__: defined(measure, counts) for measure in (hubness_skewness, robin_hood, antihub_share)}


@lru_cache(maxsize=64)
def isotropic_hubness(n: int, dim: int, k: int, seed: int, one_length: bool) -> dict[str, float | None]:
    """Measures of hubness of one draw of n rows of N(0, I), scaled to length 1 with `one_length`."""
    rows = np.random.default_rng(seed).standard_normal((n, dim))
    return hubness_measures(k_occurrence(nearest_rows(unit_rows(rows) if one_length else rows, k)[0]))
