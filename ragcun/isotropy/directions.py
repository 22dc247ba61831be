"""Measures of directions, that is of rows scaled to length 1: mean cosine, uniformity, alignment."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ragcun.isotropy.moments import Moments
from ragcun.isotropy.rows import squared_norms, unit_rows


def mean_cosine(moments: Moments) -> float:
    """Mean cosine of two different rows: (‖Σ û‖² − n)/(n(n − 1)), û = x/‖x‖; that with a row of zeros counts as 0."""
    n, directions = moments.count, moments.directions
    return (float(directions @ directions) - moments.nonzero) / (n * (n - 1))


def kernel_sums(
    x: NDArray[np.float64], group_of: NDArray[np.int64], t: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Sum exp(−t‖û − v̂‖²) over rows û of a group and v̂ of a group, each with itself too; and count each group.

    Shapes: x (n, dim), group_of (n,) with groups 0…G − 1, returns (G, G) and (G,).
    """
    order = np.argsort(group_of, kind="stable")
    unit, sizes = unit_rows(x[order]), np.bincount(group_of)
    squares, starts = squared_norms(unit), np.cumsum(sizes) - sizes
    sums = np.zeros((len(sizes), len(sizes)))
    for group in tqdm(range(len(sizes)), desc="uniformity", unit="group", delay=2, leave=False):
        start = starts[group]
        rows = slice(start, start + sizes[group])
        kernel = unit[rows] @ unit[start:].T
        kernel *= 2
        kernel -= squares[rows, None]
        kernel -= squares[start:]
        np.exp(np.multiply(np.minimum(kernel, 0, out=kernel), t, out=kernel), out=kernel)
        sums[group, group:] = np.add.reduceat(kernel.sum(axis=0), starts[group:] - start)
    return sums + np.triu(sums, 1).T, sizes


def log_mean_kernel(total: float, n: int) -> float:
    """Logarithm of the mean over pairs of different rows, from the sum over all pairs of n rows."""
    return float(np.log(max(total - n, np.finfo(np.float64).tiny) / (n * (n - 1))))


def squared_gaps(q: NDArray[np.float64], p: NDArray[np.float64], alpha: float) -> NDArray[np.float64]:
    """‖q̂ − p̂‖^alpha of every pair of rows scaled to length 1: (n,)."""
    return np.asarray(squared_norms(unit_rows(q) - unit_rows(p)) ** (alpha / 2))
