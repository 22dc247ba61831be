"""What rows of N(0, I) give: the value that a measure has at this many rows and dimensions without any anisotropy."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import hyp0f1

from ragcun.isotropy import hubness, spectrum
from ragcun.isotropy.moments import unit_rows
from ragcun.isotropy.spectrum import UndefinedMeasure

DRAWS = 3
Subject = TypeVar("Subject")


def wishart_eigenvalues(freedom: int, dim: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Draw the eigenvalues of XᵀX, X ~ N(0, I) with `freedom` rows and `dim` columns: (dim,), descending.

    By Bartlett's decomposition, at a cost that does not depend on the rows: XᵀX is distributed as LLᵀ, L lower
    triangular with standard normal entries and, on its diagonal, roots of χ² with freedom, freedom − 1, … degrees. With
    fewer rows than dimensions XXᵀ has the same eigenvalues but for zeros, and is drawn in its place.

    Source: Bartlett 1933, *On the theory of statistical regression*.
    """
    small, large = sorted((freedom, dim))
    factor = np.tril(generator.standard_normal((small, small)), -1)
    np.fill_diagonal(factor, np.sqrt(generator.chisquare(large - np.arange(small))))
    values = np.square(np.linalg.svd(factor, compute_uv=False))
    return np.concatenate([values, np.zeros(dim - small)])


def spectrum_measures(n: int, covariance: NDArray[np.float64], second: NDArray[np.float64]) -> dict[str, float | None]:
    """Every measure of a spectrum, from n and the eigenvalues of the covariance and of XᵀX; None where undefined."""
    return {
        "isotropy_score": defined(spectrum.isotropy_score, covariance),
        "isoscore": defined(spectrum.isoscore, covariance),
        "participation_ratio": defined(spectrum.participation_ratio, covariance),
        "effective_rank": defined(spectrum.effective_rank, covariance),
        "rankme": spectrum.rankme(second, n),
        "stable_rank": defined(spectrum.stable_rank, second),
        "condition_number": defined(spectrum.condition_number, covariance),
        "alpha_req": defined(spectrum.alpha_req, covariance),
    }


@lru_cache(maxsize=64)
def isotropic_spectrum(n: int, dim: int, seed: int = 0, draws: int = DRAWS) -> dict[str, float | None]:
    """Return the mean of every measure of a spectrum over a few draws of n rows of N(0, I); None where undefined."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        covariance = wishart_eigenvalues(n - 1, dim, generator)
        found.append(spectrum_measures(n, covariance, wishart_eigenvalues(n, dim, generator)))
    values = {name: [one for row in found if (one := row[name]) is not None] for name in found[0]}
    return {name: float(np.mean(each)) if len(each) == draws else None for name, each in values.items()}


def isotropic_uniformity(dim: int, t: float = 2) -> float:
    """Logarithm of E exp(−t‖u − v‖²) for u, v uniform on the unit sphere: −2t + log ₀F₁(; dim/2; t²).

    Since ‖u − v‖² = 2 − 2u·v and E exp(κ u·v) = ₀F₁(; dim/2; κ²/4).
    """
    return float(np.log(hyp0f1(dim / 2, t**2)) - 2 * t)


def isotropic_sigreg(n: int, dim: int) -> float:
    """Return the expected `sigreg_statistic` of n rows of N(0, I), to leading order in 1/n.

    Σ_k w_k (1 − e^(−t²)(1 + t² + t⁴/(2·dim)))/n over the knots t of SIGReg and their weights: the last two terms are
    what taking off the mean and scaling by the mean variance of all dimensions spare.
    """
    step, count = 3 / 16, 16
    t = step * np.arange(1, count + 1)
    weights = 2 * step * np.exp(-(t**2) / 2)
    weights[-1] /= 2
    return float((weights * (1 - np.exp(-(t**2)) * (1 + t**2 + t**4 / (2 * dim)))).sum() / n)


@lru_cache(maxsize=64)
def isotropic_hubness(n: int, dim: int, k: int, seed: int, one_length: bool) -> dict[str, float | None]:
    """Return the measures of hubness of one draw of n rows of N(0, I), scaled to length 1 with `one_length`."""
    rows = np.random.default_rng(seed).standard_normal((n, dim))
    rows = unit_rows(rows) if one_length else rows
    return hubness_measures(hubness.k_occurrence(hubness.nearest_rows(rows, k)[0], n))


def hubness_measures(counts: NDArray[np.int64]) -> dict[str, float | None]:
    """Every measure of hubness from N_k; None where undefined."""
    return {
        "hubness_skewness": defined(hubness.hubness_skewness, counts),
        "robin_hood": hubness.robin_hood(counts),
        "antihub_share": hubness.antihub_share(counts),
    }


def defined(measure: Callable[[Subject], float], subject: Subject) -> float | None:
    """Return a measure, None where it is undefined."""
    try:
        return measure(subject)
    except UndefinedMeasure:
        return None
