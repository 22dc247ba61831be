from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ragcun.isotropy import UndefinedMeasure, measures
from ragcun.isotropy.directions import isotropic_sigreg, sigreg_statistic
from ragcun.isotropy.hubness import isotropic_hubness
from ragcun.isotropy.spectrum import isotropic_spectrum, wishart_eigenvalues
from ragcun.losses.sigreg import sigreg


@pytest.mark.parametrize(("freedom", "dim"), [(200, 8), (8, 8), (5, 8), (8, 1), (1, 3)])
def test_wishart_moments(freedom, dim):
    """E tr W = nd and E tr W² = nd(n + d + 1), each within 5 standard errors over 1000 draws."""
    rng = np.random.default_rng(0)
    drawn = np.array([wishart_eigenvalues(freedom, dim, rng) for _ in range(1000)])
    assert drawn.shape == (1000, dim)
    assert (np.diff(drawn) <= 0).all()
    assert (drawn > 0).sum(axis=1).max() == min(freedom, dim)
    expected = (freedom * dim, freedom * dim * (freedom + dim + 1))
    for power, value in enumerate(expected, start=1):
        traces = (drawn**power).sum(axis=1)
        assert abs(traces.mean() - value) < 5 * traces.std() / math.sqrt(1000)


@pytest.mark.parametrize(("n", "dim"), [(300, 24), (20, 24)])
def test_isotropic_spectrum_is_what_gaussian_rows_give(n, dim):
    """Means over 100 draws of rows and over 100 of the Wishart law differ by 5 of their standard errors at most."""
    rows = [np.random.default_rng(seed).standard_normal((n, dim)) for seed in range(100)]
    expected = isotropic_spectrum(n, dim, seed=1, draws=100)
    for name in expected.keys() - {"condition_number"}:
        values = [getattr(measures, name)(x) for x in rows]
        error = math.sqrt(2) * np.std(values) / 10
        assert abs(np.mean(values) - expected[name]) < 5 * error, name
    assert (expected["condition_number"] is None) == (n < dim)


def test_isotropic_hubness_is_that_of_gaussian_rows_or_of_their_directions():
    x = np.random.default_rng(3).standard_normal((400, 16))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    for rows, one_length in ((x, False), (unit, True)):
        found = isotropic_hubness(400, 16, 10, 3, one_length)
        assert found["robin_hood"] == pytest.approx(measures.robin_hood(rows))
        assert found["hubness_skewness"] == pytest.approx(measures.hubness_skewness(rows))
        assert found["antihub_share"] == pytest.approx(measures.antihub_share(rows))


@pytest.mark.parametrize("dim", [2, 32])
def test_isotropic_sigreg_is_the_mean_over_gaussian_rows(dim):
    """Within 5 standard errors over 200 draws; the terms left out are of order 1/n², 1/200 of the value at n = 200."""
    values = [sigreg_statistic(np.random.default_rng(s).standard_normal((200, dim)), 16, s) for s in range(200)]
    error = np.std(values) / math.sqrt(200) + isotropic_sigreg(200, dim) / 200
    assert abs(np.mean(values) - isotropic_sigreg(200, dim)) < 5 * error


def test_sigreg_is_that_of_standardised_rows_whatever_mean_and_scale():
    x = np.random.default_rng(0).standard_normal((500, 12)) * np.geomspace(1, 0.1, 12)
    centred = x - x.mean(axis=0)
    centred /= math.sqrt((centred**2).mean())
    expected = float(sigreg(torch.tensor(centred), 0, 256, n_free=True, seed=4))
    assert measures.sigreg(x, seed=4) == pytest.approx(expected, rel=1e-4)
    assert measures.sigreg(1e-30 * x, seed=4) == pytest.approx(expected, rel=1e-4)
    assert measures.sigreg(x + 1e6, seed=4) == pytest.approx(expected, rel=1e-4)
    assert expected > 10 * isotropic_sigreg(500, 12)
    with pytest.raises(UndefinedMeasure):
        measures.sigreg(np.full((5, 3), 0.1))
