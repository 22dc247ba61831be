"""Every measure as a function of a matrix, and the sums over groups of rows from which a report takes its intervals.

A matrix ``x (n, dim)`` may lie on disk; it is read in blocks. What compares all pairs of rows takes `sample` of them,
drawn without replacement from `seed`, where there are more. Each raises ValueError where `x` is no matrix of at least 2
rows of finite real numbers, and `UndefinedMeasure`, a ValueError too, where its formula has no value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm.auto import tqdm

from ragcun.isotropy import hubness, spectrum
from ragcun.isotropy.moments import (
    GroupedMoments,
    MeasureSettings,
    Moments,
    Rows,
    as_rows,
    grouped_moments,
    squared_norms,
    unit_rows,
)

NUM_SLICES = 256


def moments(x: Moments | Rows | ArrayLike) -> Moments:
    """Moments of all rows of a matrix; moments stay as they are."""
    return x if isinstance(x, Moments) else grouped_moments(x, MeasureSettings(groups=1)).total


def covariance_eigenvalues(x: Rows | ArrayLike) -> NDArray[np.float64]:
    """Eigenvalues of the unbiased covariance ``(dim,)``, descending."""
    return moments(x).covariance_eigenvalues()


def k_occurrence(
    x: Rows | ArrayLike, k: int = MeasureSettings.k, sample: int = MeasureSettings.sample, seed: int = 0
) -> NDArray[np.int64]:
    """N_k of every row ``(n,)``: among the `k` nearest of how many other rows it is; equals in the order of rows."""
    return hubness.k_occurrence(hubness.nearest_rows(as_rows(x).sample(sample, seed), k)[0])


def _of(values: Callable[..., NDArray[Any]], measure: Callable[[NDArray[Any]], float]) -> Callable[..., float]:
    def of_rows(x: Moments | Rows | ArrayLike, *args: int, **settings: int) -> float:
        return measure(values(x, *args, **settings))

    of_rows.__doc__ = f"`{measure.__module__}.{measure.__name__}` of `{values.__name__}`, which takes the arguments."
    return of_rows


isotropy_score = _of(covariance_eigenvalues, spectrum.isotropy_score)
isoscore = _of(covariance_eigenvalues, spectrum.isoscore)
participation_ratio = _of(covariance_eigenvalues, spectrum.participation_ratio)
effective_rank = _of(covariance_eigenvalues, spectrum.effective_rank)
condition_number = _of(covariance_eigenvalues, spectrum.condition_number)
alpha_req = _of(covariance_eigenvalues, spectrum.alpha_req)
hubness_skewness = _of(k_occurrence, hubness.hubness_skewness)
robin_hood = _of(k_occurrence, hubness.robin_hood)
antihub_share = _of(k_occurrence, hubness.antihub_share)


def rankme(x: Rows | ArrayLike, eps: float = 1e-7) -> float:
    """RankMe of the matrix as it is: `spectrum.rankme`."""
    found = moments(x)
    return spectrum.rankme(found.second_eigenvalues(), found.count, eps)


def stable_rank(x: Rows | ArrayLike) -> float:
    """Stable rank of the matrix as it is: `spectrum.stable_rank`."""
    return spectrum.stable_rank(moments(x).second_eigenvalues())


def mean_cosine(x: Moments | Rows | ArrayLike) -> float:
    """Mean cosine of two different rows: (‖Σ û‖² − n)/(n(n − 1)), û = x/‖x‖; that with a row of zeros counts as 0.

    Source: Ethayarajh 2019, arXiv:1909.00512.
    """
    found = moments(x)
    return (float(found.directions @ found.directions) - found.nonzero) / (found.count * (found.count - 1))


def partition(x: Rows | ArrayLike) -> float:
    """Isotropy of the partition function Z(c) = Σ exp(x·c): its smallest over its largest, for ± eigenvectors c of XᵀX.

    It depends on the scale, and where eigenvalues are equal on the eigensolver's choice of eigenvectors.

    Source: Mu and Viswanath 2018, arXiv:1702.01417, equation 3; opposite axes are ours.
    """
    found = grouped_moments(x, MeasureSettings(groups=1))
    return partition_ratio(log_partition(found, np.zeros(len(found.norms), dtype=np.int64)))


def log_partition(moments: GroupedMoments, group_of: NDArray[np.int64]) -> NDArray[np.float64]:
    """Log of Z(c) = Σ exp(x·c) over the rows of each group, for the eigenvectors c of XᵀX of all rows, and each −c.

    Shapes: group_of (n,) with groups 0…G − 1, returns (G, 2·dim).
    """
    from scipy.special import logsumexp

    axes, rows = np.linalg.eigh(moments.total.second)[1], moments.rows
    found = np.full((int(group_of.max()) + 1, 2 * rows.dim), -np.inf)
    for start, block in rows.blocks("partition"):
        groups = group_of[start : start + len(block)]
        for group in np.unique(groups):
            projected = block[groups == group] @ axes
            both = np.concatenate([logsumexp(projected, axis=0), logsumexp(-projected, axis=0)])
            found[group] = np.logaddexp(found[group], both)
    return found


def partition_ratio(log_sums: NDArray[np.float64]) -> float:
    """Smallest over largest Z(c), from log Z of groups ``(G, axes)``."""
    from scipy.special import logsumexp

    total = logsumexp(log_sums, axis=0)
    return float(np.exp(total.min() - total.max()))


def uniformity(x: Rows | ArrayLike, t: float = 2, sample: int = MeasureSettings.sample, seed: int = 0) -> float:
    """Uniformity log E exp(−t‖û − v̂‖²) over pairs of different rows, scaled to length 1: 0 for a collapse, −4 is good.

    Source: Wang and Isola 2020, arXiv:2005.10242, equation 2.
    """
    rows = as_rows(x).sample(sample, seed)
    return log_mean_kernel(float(kernel_sums(rows, np.arange(len(rows)) % MeasureSettings.groups, t).sum()), len(rows))


def kernel_sums(x: NDArray[np.float64], group_of: NDArray[np.int64], t: float) -> NDArray[np.float64]:
    """Sum exp(−t‖û − v̂‖²) over rows û of a group and v̂ of a group, each with itself too.

    Shapes: x (n, dim), group_of (n,) with groups 0…G − 1, returns (G, G).
    """
    from sklearn.metrics.pairwise import euclidean_distances

    order = np.argsort(group_of, kind="stable")
    unit, sizes = unit_rows(x[order]), np.bincount(group_of)
    starts = np.cumsum(sizes) - sizes
    sums = np.zeros((len(sizes), len(sizes)))
    for group, start in enumerate(tqdm(starts, desc="uniformity", unit="group", delay=2, leave=False)):
        kernel = euclidean_distances(unit[start : start + sizes[group]], unit[start:], squared=True)
        np.exp(np.multiply(kernel, -t, out=kernel), out=kernel)
        sums[group, group:] = np.add.reduceat(kernel.sum(axis=0), starts[group:] - start)
    return sums + np.triu(sums, 1).T


def log_mean_kernel(total: float, n: int) -> float:
    """Logarithm of the mean over pairs of different rows, from the sum over all pairs of n rows."""
    return float(np.log(max(total - n, np.finfo(np.float64).tiny) / (n * (n - 1))))


def isotropic_uniformity(dim: int, t: float = 2) -> float:
    """Logarithm of E exp(−t‖u − v‖²) for u, v uniform on the unit sphere: −2t + log ₀F₁(; dim/2; t²)."""
    from scipy.special import hyp0f1

    return float(np.log(hyp0f1(dim / 2, t**2)) - 2 * t)


def alignment(q: ArrayLike, p: ArrayLike, alpha: float = 2) -> float:
    """Alignment E‖q̂ − p̂‖^alpha of pairs, row i of `q` with row i of `p`, scaled to length 1: 0 where all agree.

    Source: Wang and Isola 2020, arXiv:2005.10242, equation 1.

    Raises:
        ValueError: the matrices are of different shapes, or hold a pair that is not finite.
    """
    left, right = np.asarray(q, dtype=np.float64), np.asarray(p, dtype=np.float64)
    if left.ndim != 2 or left.shape != right.shape or not left.size:
        raise ValueError(f"pairs need two matrices of one shape (n, dim), got {left.shape} and {right.shape}")
    finite = (np.isfinite(left) & np.isfinite(right)).all(axis=1)
    if not finite.all():
        raise ValueError(f"pair {np.argmin(finite)} is not finite")
    return float((squared_norms(unit_rows(left) - unit_rows(right)) ** (alpha / 2)).mean())


def sigreg(
    x: Rows | ArrayLike, num_slices: int = NUM_SLICES, sample: int = MeasureSettings.sample, seed: int = 0
) -> float:
    """SIGReg over the number of rows, centred and scaled: `sigreg_statistic`."""
    return sigreg_statistic(as_rows(x).sample(sample, seed), num_slices, seed)


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
        raise spectrum.UndefinedMeasure("SIGReg cannot scale rows to unit variance: all rows are equal")
    centred /= largest
    centred *= np.sqrt(centred.size / np.square(centred).sum())
    return float(sigreg(torch.from_numpy(centred.astype(np.float32)), 0, num_slices, seed=seed))


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
