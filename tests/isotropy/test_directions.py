import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist, pdist
from scipy.special import logsumexp

from ragcun.isotropy import UndefinedMeasure, measures, moments
from ragcun.isotropy.measures import (
    isotropic_sigreg,
    isotropic_uniformity,
    log_partition,
    partition_ratio,
    sigreg_statistic,
)
from ragcun.isotropy.moments import grouped_moments, random_groups
from ragcun.losses.sigreg import sigreg


def random_rows(n=60, dim=5, seed=0, shift=0.3):
    return np.random.default_rng(seed).standard_normal((n, dim)) * np.geomspace(1, 0.2, dim) + shift


def test_mean_cosine_and_uniformity_of_all_pairs_and_at_their_extremes():
    x = random_rows()
    distances = pdist(x, "cosine")
    assert measures.mean_cosine(x) == pytest.approx(1 - distances.mean(), rel=1e-10)
    for t in (0.5, 2):
        expected = math.log(np.exp(-2 * t * distances).mean())
        assert measures.uniformity(x, t) == pytest.approx(expected, rel=1e-10)
    same, opposite = np.ones((9, 3)), np.array([[1.0, 2.0], [-2.0, -4.0]])
    assert measures.mean_cosine(same) == pytest.approx(1)
    assert measures.uniformity(same) == pytest.approx(0, abs=1e-12)
    assert measures.mean_cosine(opposite) == pytest.approx(-1)
    assert measures.uniformity(opposite) == pytest.approx(-8)
    # a row of zeros has cosine 0 to all
    assert measures.mean_cosine([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]]) == pytest.approx(1 / 3)


@pytest.mark.parametrize("dim", [2, 3, 128])
def test_isotropic_uniformity_is_that_of_the_uniform_law_on_the_sphere(dim):
    """By quadrature over the angle, whose density is proportional to sin^(dim − 2)."""
    angle = (np.arange(100_000) + 0.5) * math.pi / 100_000
    weight = np.sin(angle) ** (dim - 2)
    mean = (np.exp(-2 * (2 - 2 * np.cos(angle))) * weight).sum() / weight.sum()
    assert isotropic_uniformity(dim) == pytest.approx(math.log(mean), abs=1e-8)


def test_alignment_of_each_pair():
    q, p = random_rows(30), random_rows(30, seed=1)
    for alpha in (1, 2):
        gaps = np.sqrt(2 * cdist(q, p, "cosine").diagonal()) ** alpha
        assert measures.alignment(q, p, alpha) == pytest.approx(gaps.mean(), rel=1e-10)
    assert measures.alignment(q, 3 * q) == pytest.approx(0, abs=1e-25)
    with pytest.raises(ValueError, match=r"\(30, 5\) and \(29, 5\)"):
        measures.alignment(q, p[1:])
    q[4, 1] = np.nan
    with pytest.raises(ValueError, match="pair 4 is not finite"):
        measures.alignment(q, p)


@pytest.mark.parametrize(("block", "groups"), [(1, 1), (3000, 8), (1 << 25, 8)])
def test_partition_by_its_definition_whatever_blocks_and_groups(monkeypatch, block, groups):
    monkeypatch.setattr(moments, "BLOCK_BYTES", block)
    x = random_rows(80)
    of_all, group_of = grouped_moments(x), random_groups(len(x), groups, seed=2)
    axes = np.linalg.eigh(of_all.total.second)[1]
    sums = log_partition(of_all, group_of)
    assert sums.shape == (groups, 10)
    for group in range(groups):
        both = np.concatenate([x[group_of == group] @ axes, -x[group_of == group] @ axes], axis=1)
        np.testing.assert_allclose(sums[group], logsumexp(both, axis=0), rtol=1e-12)
    whole = [np.exp(x @ axis).sum() for axis in (*axes.T, *-axes.T)]
    assert partition_ratio(sums) == pytest.approx(min(whole) / max(whole), rel=1e-10)
    assert measures.partition(x) == pytest.approx(min(whole) / max(whole), rel=1e-10)
    rotation = np.linalg.qr(random_rows(5, 5, seed=9))[0]
    assert measures.partition(x @ rotation) == pytest.approx(measures.partition(x), rel=1e-9)


def test_partition_of_long_rows_does_not_overflow():
    """Z reaches e^4000 here; rows along one axis give (1 + e^−4000 + n − 2)/(e^4000 + …), 0 in float64."""
    x = np.array([[4000.0, 0.0], [-4000.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert measures.partition(x) == 0
    assert measures.partition(1e-9 * x) == pytest.approx(1)
    ends = np.array([[800.0, 0.0], [0.0, 799.0], [-800.0, 0.0], [0.0, -799.0]])
    assert measures.partition(ends) == pytest.approx(math.exp(-1))


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
    expected = float(sigreg(torch.tensor(centred), 0, 256, seed=4))
    for same in (x, 1e-30 * x, x + 1e6):
        assert measures.sigreg(same, seed=4) == pytest.approx(expected, rel=1e-4)
    assert expected > 10 * isotropic_sigreg(500, 12)
    with pytest.raises(UndefinedMeasure):
        measures.sigreg(np.full((5, 3), 0.1))
