"""Measures of directions: mean cosine, uniformity, alignment, the partition function, and SIGReg."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import hyp0f1, logsumexp
from tqdm.auto import tqdm

from ragcun.isotropy.moments import MEMORY_BUDGET_BYTES, Moments, Rows, squared_norms, unit_rows
from ragcun.isotropy.spectrum import UndefinedMeasure

NUM_SLICES = 256


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


def log_partition(
    rows: Rows, axes: NDArray[np.float64], group_of: NDArray[np.int64], memory_budget_bytes: int = MEMORY_BUDGET_BYTES
) -> NDArray[np.float64]:
    """Log of Z(c) = Σ exp(x·c) over the rows of each group, for every axis c and its opposite −c.

    Shapes: axes (dim, a), one per column, group_of (n,) with groups 0…G − 1, returns (G, 2a).
    """
    found = np.full((int(group_of.max()) + 1, 2 * axes.shape[1]), -np.inf)
    for start, block in rows.blocks(memory_budget_bytes, "partition"):
        groups = group_of[start : start + len(block)]
        for group in np.unique(groups):
            projected = block[groups == group] @ axes
            both = np.concatenate([logsumexp(projected, axis=0), logsumexp(-projected, axis=0)])
            found[group] = np.logaddexp(found[group], both)
    return found


def partition_ratio(log_sums: NDArray[np.float64]) -> float:
    """Smallest over largest Z(c), from log Z of groups ``(G, axes)``."""
    total = logsumexp(log_sums, axis=0)
    return float(np.exp(total.min() - total.max()))


def sigreg_statistic(x: NDArray[np.float64], num_slices: int = NUM_SLICES, seed: int = 0) -> float:
    """`ragcun.losses.sigreg` of the rows less their mean, over √(mean variance of a dimension), in float32.

    N(0, I) gives about `isotropic_sigreg`, of any mean and scale; the larger the value the less normal or the less
    isotropic. Undefined where all rows are equal.
    """
    import torch

    from ragcun.losses.sigreg import sigreg

    centred = x - x[0]
    centred -= centred.mean(axis=0)
    largest = float(np.abs(centred).max())
    if largest == 0:
        raise UndefinedMeasure("SIGReg cannot scale rows to unit variance: all rows are equal")
    centred /= largest
    centred *= np.sqrt(centred.size / np.square(centred).sum())
    return float(sigreg(torch.from_numpy(centred.astype(np.float32)), 0, num_slices, seed=seed))


def isotropic_uniformity(dim: int, t: float = 2) -> float:
    """Logarithm of E exp(−t‖u − v‖²) for u, v uniform on the unit sphere: −2t + log ₀F₁(; dim/2; t²)."""
    return float(np.log(hyp0f1(dim / 2, t**2)) - 2 * t)


def isotropic_sigreg(n: int, dim: int) -> float:
    """Return the expected `sigreg_statistic` of n rows of N(0, I), to leading order in 1/n.

    Σ_k w_k (1 − e^(−t²)(1 + t² + t⁴/(2·dim)))/n over the knots t of SIGReg and their weights: the last two terms are
    what taking off the mean and scaling by the mean variance of all dimensions spare.
    """
    from ragcun.losses.sigreg import KNOTS

    step, count = KNOTS["reference"]
    t = step * np.arange(1, count + 1)
    weights = 2 * step * np.exp(-(t**2) / 2)
    weights[-1] /= 2
    return float((weights * (1 - np.exp(-(t**2)) * (1 + t**2 + t**4 / (2 * dim)))).sum() / n)
