"""Measures of a spectrum, each a function of eigenvalues, and the intervals of all measures.

Where nothing else is said the eigenvalues λ₁ ≥ … ≥ λ_d are those of the covariance; a factor on them changes nothing.
Each raises ValueError where they are not a vector of finite numbers of at least 0, and `UndefinedMeasure` where its
formula has no value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ragcun.results import Count, Number

LEAST_POINTS = 3
DRAWS = 3
LEVEL = 0.95
Values = Mapping[str, float | None]
Subject = TypeVar("Subject")


class UndefinedMeasure(ValueError):  # noqa: N818 - a property of the data, not a mistake
    """A measure that has no value for this matrix, as a ratio of 0 to 0; a report holds null in its place."""


def eigenvalues(symmetric: NDArray[np.float64]) -> NDArray[np.float64]:
    """Eigenvalues of a positive semidefinite matrix ``(dim, dim)``, descending; 0 below dim·2⁻⁵²·λ₁, of rounding."""
    values = np.linalg.eigvalsh(symmetric)[::-1]
    least = len(values) * np.finfo(np.float64).eps * max(float(values[0]), 0.0)
    return np.where(values > least, values, 0.0)


def isotropy_score(eigenvalues: ArrayLike) -> float:
    """One minus the coefficient of variation of the eigenvalues: 1 − std(λ)/mean(λ), with the population std.

    From 1 − √(d − 1), variance along one direction, to 1, all equal; 1 − √(d/PR − 1) with PR the participation ratio.
    """
    values = _checked(eigenvalues, "the isotropy score")
    return float(1 - values.std() / values.mean())


def isoscore(eigenvalues: ArrayLike) -> float:
    """IsoScore, (PR − 1)/(d − 1) with PR = (Σλ)²/Σλ²: 0 for one direction, 1 for all equal.

    N rows of N(0, I) have about (N − 1)/(N + d), so values are to be compared at the same N. Source: Rudman et al.
    2022, arXiv:2108.07344, whose algorithm ends in this closed form.

    >>> isoscore([1.0, 1.0, 0.0])
    0.5
    """
    values = _checked(eigenvalues, "IsoScore")
    if len(values) < 2:
        raise UndefinedMeasure("IsoScore needs at least 2 dimensions, got 1")
    return (participation_ratio(values) - 1) / (len(values) - 1)


def participation_ratio(eigenvalues: ArrayLike) -> float:
    """Participation ratio (Σλ)²/Σλ²: how many directions share the variance, 1 to d; 0 where there is none."""
    values = _checked(eigenvalues)
    return float(values.sum() ** 2 / np.square(values).sum()) if values.any() else 0.0


def entropy_rank(weights: ArrayLike, eps: float = 0) -> float:
    """Return exp(−Σ p log p), p being weights over their sum, plus `eps`: 1 to their number; 0 where all are 0.

    >>> round(entropy_rank([2.0, 2.0, 0.0]), 6)
    2.0
    """
    values = _checked(weights)
    if not values.any():
        return 0.0
    shares = values / values.sum() + eps
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def effective_rank(eigenvalues: ArrayLike) -> float:
    """Effective rank (Roy and Vetterli 2007): `entropy_rank` of the centred matrix's singular values √λ, 1 to d."""
    return entropy_rank(np.sqrt(_checked(eigenvalues)))


def rankme(second_eigenvalues: ArrayLike, n: int, eps: float = 1e-7) -> float:
    """RankMe: `entropy_rank`, with `eps`, of the min(n, d) singular values of the matrix, not centred.

    From n, the rows of X, and the eigenvalues of XᵀX (dim,); 0 for a matrix of zeros. Source: Garrido et al. 2023,
    arXiv:2210.02885, equations 1 and 2.
    """
    return entropy_rank(np.sqrt(np.sort(_checked(second_eigenvalues))[::-1][:n]), eps)


def stable_rank(second_eigenvalues: ArrayLike) -> float:
    """Stable rank ‖X‖_F²/‖X‖₂² = Σλ/λ₁ (arXiv:math/0503442) of the matrix as it is, from the eigenvalues of XᵀX."""
    values = _checked(second_eigenvalues)
    return float(values.sum() / values.max()) if values.any() else 0.0


def condition_number(eigenvalues: ArrayLike) -> float:
    """Condition number λ₁/λ_d of the covariance; undefined where λ_d is 0, as for fewer rows than dimensions."""
    values = _checked(eigenvalues, "the condition number")
    if values.min() == 0:
        raise UndefinedMeasure("the condition number is infinite: the smallest eigenvalue is 0")
    return float(1 / values.min())


def alpha_req(eigenvalues: ArrayLike) -> float:
    """Exponent a of the power law λ_i ∝ i^(−a): minus the least-squares slope of log λ_i on log i; 0 is isotropic.

    Of the r eigenvalues above 0 those from i = 1 + ⌊r/32⌋ to ⌊r/2⌋ are taken: the first belong to a few common
    directions, and the lower half bends down since dimensions and rows are finite, whatever the law. Source: Agrawal et
    al. 2022, *α-ReQ*; which eigenvalues to take is ours.
    """
    values = np.sort(_checked(eigenvalues))[::-1]
    above = int((values > 0).sum())
    first, last = above // 32, above // 2
    if last - first < LEAST_POINTS:
        raise UndefinedMeasure(f"α-ReQ needs at least 6 eigenvalues above 0, got {above}")
    place = np.log(np.arange(first + 1, last + 1))
    place -= place.mean()
    return float(-(place @ np.log(values[first:last])) / (place @ place))


def spectrum_measures(n: int, covariance: NDArray[np.float64], second: NDArray[np.float64]) -> dict[str, float | None]:
    """Every measure of a spectrum, from n and the eigenvalues of the covariance and of XᵀX; None where undefined."""
    measures = (isotropy_score, isoscore, participation_ratio, effective_rank, condition_number, alpha_req)
    values = {measure.__name__: defined(measure, covariance) for measure in measures}
    return values | {"rankme": rankme(second, n), "stable_rank": stable_rank(second)}


@lru_cache(maxsize=64)
def isotropic_spectrum(n: int, dim: int, seed: int = 0, draws: int = DRAWS) -> dict[str, float | None]:
    """Mean of every measure of a spectrum over a few draws of n rows of N(0, I); None where undefined."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        covariance = wishart_eigenvalues(n - 1, dim, generator)
        found.append(spectrum_measures(n, covariance, wishart_eigenvalues(n, dim, generator)))
    values = {name: [one for row in found if (one := row[name]) is not None] for name in found[0]}
    return {name: float(np.mean(each)) if len(each) == draws else None for name, each in values.items()}


def wishart_eigenvalues(freedom: int, dim: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Draw the eigenvalues of XᵀX, X ~ N(0, I) with `freedom` rows and `dim` columns: (dim,), descending.

    By Bartlett's decomposition (1933) XᵀX is distributed as LLᵀ, L lower triangular, normal, with roots of χ² on its
    diagonal; with fewer rows than dimensions XXᵀ is drawn, which has the same eigenvalues but for zeros.
    """
    small, large = sorted((freedom, dim))
    factor = np.tril(generator.standard_normal((small, small)), -1)
    np.fill_diagonal(factor, np.sqrt(generator.chisquare(large - np.arange(small))))
    values = np.square(np.linalg.svd(factor, compute_uv=False))
    return np.concatenate([values, np.zeros(dim - small)])


def defined(measure: Callable[[Subject], float], subject: Subject) -> float | None:
    """Return a measure, None where it is undefined."""
    try:
        return measure(subject)
    except UndefinedMeasure:
        return None


def _checked(values: ArrayLike, undefined: str = "") -> NDArray[np.float64]:
    # over the largest; all 0 raise where a measure is `undefined` then
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"expected a vector of at least 1 number, got shape {array.shape}")
    if not np.isfinite(array).all() or array.min() < 0:
        raise ValueError(f"expected finite numbers of at least 0, got {array[~(np.isfinite(array) & (array >= 0))][0]}")
    if undefined and not array.any():
        raise UndefinedMeasure(f"{undefined} is 0/0: all eigenvalues are 0, so all rows are equal")
    return array / (float(array.max()) or 1)


@dataclass(frozen=True)
class Measure:
    """A measured value, None where undefined."""

    value: Number | None
    low: Number | None  # ends of the 95 % `interval`, where there is one
    high: Number | None
    n: Count  # rows, or pairs
    isotropic: Number | None  # what as many rows of N(0, I) give; None where that says nothing


def interval(value: float | None, *strata: Sequence[float | None]) -> tuple[float | None, float | None]:
    """95 % interval from the values v₁…v_G that are left when one of G random groups of rows is left out.

    value ± t·se with se² = (G − 1)/G · Σ_g (v_g − v̄)², the delete-group jackknife (Efron and Stein 1981; Shao and Wu
    1989), and t of Student's law with G − 1 degrees of freedom. The se² of strata that were sampled apart, as queries
    and documents, add up, and the fewest groups give t. It is not cut to the range of the measure; (None, None) where a
    value is undefined, or a stratum has fewer than 2 groups.
    """
    from scipy.special import stdtrit

    left = [[one for one in values if one is not None] for values in strata]
    groups = min(map(len, left))
    if value is None or groups < 2 or list(map(len, left)) != list(map(len, strata)):
        return None, None
    variance = sum((len(values) - 1) * float(np.var(values)) for values in left)
    half = float(stdtrit(groups - 1, (1 + LEVEL) / 2)) * variance**0.5
    return value - half, value + half


def join(values: Values, strata: Sequence[Sequence[Values]], n: int, isotropic: Values) -> dict[str, Measure]:
    """Combine values, those with a group of each stratum left out, and those of N(0, I) into `Measure` by name."""
    return {
        name: Measure(
            value, *interval(value, *([one[name] for one in left] for left in strata)), n, isotropic.get(name)
        )
        for name, value in values.items()
    }
