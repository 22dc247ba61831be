"""Every measure as a function of a matrix; the formulas are with the functions of the same names that these call.

A matrix ``x (n, dim)`` may lie on disk; it is read in blocks. What compares all pairs of rows takes `sample` of them,
drawn without replacement from `seed`, where there are more. Each raises ValueError where `x` is no matrix of at least 2
rows of finite real numbers, and `UndefinedMeasure`, a ValueError too, where its formula has no value.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ragcun.isotropy import directions, hubness, spectrum
from ragcun.isotropy.directions import NUM_SLICES
from ragcun.isotropy.intervals import SAMPLE, K
from ragcun.isotropy.moments import GROUPS, Moments, Rows, as_rows, grouped_moments, sample_rows


def moments(x: Rows | ArrayLike) -> Moments:
    """Moments of all rows of a matrix."""
    return grouped_moments(x, groups=1).total


def _of_covariance(measure: Callable[[ArrayLike], float]) -> Callable[[Rows | ArrayLike], float]:
    def of_rows(x: Rows | ArrayLike) -> float:
        return measure(moments(x).covariance_eigenvalues())

    of_rows.__doc__ = f"`spectrum.{measure.__name__}` of the covariance's eigenvalues."
    return of_rows


isotropy_score = _of_covariance(spectrum.isotropy_score)
isoscore = _of_covariance(spectrum.isoscore)
participation_ratio = _of_covariance(spectrum.participation_ratio)
effective_rank = _of_covariance(spectrum.effective_rank)
condition_number = _of_covariance(spectrum.condition_number)
alpha_req = _of_covariance(spectrum.alpha_req)


def rankme(x: Rows | ArrayLike, eps: float = 1e-7) -> float:
    """RankMe of the matrix as it is: `spectrum.rankme`."""
    found = moments(x)
    return spectrum.rankme(found.second_eigenvalues(), found.count, eps)


def stable_rank(x: Rows | ArrayLike) -> float:
    """Stable rank of the matrix as it is: `spectrum.stable_rank`."""
    return spectrum.stable_rank(moments(x).second_eigenvalues())


def partition(x: Rows | ArrayLike) -> float:
    """Isotropy of the partition function Z(c) = Σ exp(x·c): its smallest over its largest, for ± eigenvectors c of XᵀX.

    It depends on the scale, and where eigenvalues are equal on the eigensolver's choice of eigenvectors.

    Source: Mu and Viswanath 2018, arXiv:1702.01417, equation 3; opposite axes are ours.
    """
    rows = as_rows(x)
    axes = np.linalg.eigh(moments(rows).second)[1]
    return directions.partition_ratio(directions.log_partition(rows, axes, np.zeros(len(rows), dtype=np.int64)))


def mean_cosine(x: Rows | ArrayLike) -> float:
    """Mean cosine of two different rows: `directions.mean_cosine` (Ethayarajh 2019, arXiv:1909.00512)."""
    return directions.mean_cosine(moments(x))


def uniformity(x: Rows | ArrayLike, t: float = 2, sample: int = SAMPLE, seed: int = 0) -> float:
    """Uniformity log E exp(−t‖û − v̂‖²) over pairs of different rows, scaled to length 1: 0 for a collapse, −4 is good.

    Source: Wang and Isola 2020, arXiv:2005.10242, equation 2.
    """
    rows = _sample(x, sample, seed)
    sums, sizes = directions.kernel_sums(rows, np.arange(len(rows)) % GROUPS, t)
    return directions.log_mean_kernel(float(sums.sum()), int(sizes.sum()))


def alignment(q: ArrayLike, p: ArrayLike, alpha: float = 2) -> float:
    """Alignment E‖q̂ − p̂‖^alpha of pairs, row i of `q` with row i of `p`, scaled to length 1: 0 where all agree.

    Source: Wang and Isola 2020, arXiv:2005.10242, equation 1.
    """
    left, right = np.asarray(q, dtype=np.float64), np.asarray(p, dtype=np.float64)
    if left.ndim != 2 or left.shape != right.shape or not left.size:
        raise ValueError(f"pairs need two matrices of one shape (n, dim), got {left.shape} and {right.shape}")
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        row = int(np.argmin((np.isfinite(left) & np.isfinite(right)).all(axis=1)))
        raise ValueError(f"pair {row} is not finite")
    return float(directions.squared_gaps(left, right, alpha).mean())


def sigreg(x: Rows | ArrayLike, num_slices: int = NUM_SLICES, sample: int = SAMPLE, seed: int = 0) -> float:
    """SIGReg over the number of rows, centred and scaled: `directions.sigreg_statistic`."""
    return directions.sigreg_statistic(_sample(x, sample, seed), num_slices, seed)


def k_occurrence(x: Rows | ArrayLike, k: int = K, sample: int = SAMPLE, seed: int = 0) -> NDArray[np.int64]:
    """N_k of every row ``(n,)``: among the `k` nearest of how many other rows it is; equals in the order of rows."""
    rows = _sample(x, sample, seed)
    return hubness.k_occurrence(hubness.nearest_rows(rows, k)[0], len(rows))


def _of_neighbours(measure: Callable[[NDArray[np.int64]], float]) -> Callable[..., float]:
    def of_rows(x: Rows | ArrayLike, k: int = K, sample: int = SAMPLE, seed: int = 0) -> float:
        return measure(k_occurrence(x, k, sample, seed))

    of_rows.__doc__ = f"`hubness.{measure.__name__}` of `k_occurrence`."
    return of_rows


hubness_skewness = _of_neighbours(hubness.hubness_skewness)
robin_hood = _of_neighbours(hubness.robin_hood)
antihub_share = _of_neighbours(hubness.antihub_share)


def _sample(x: Rows | ArrayLike, size: int, seed: int) -> NDArray[np.float64]:
    rows = as_rows(x)
    return rows.take(sample_rows(len(rows), size, seed))
