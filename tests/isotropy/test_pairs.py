from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragcun.isotropy import distribution
from ragcun.isotropy.moments import Rows
from ragcun.isotropy.pairs import distances_between, random_pairs


@given(st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=80))
def test_distribution_of_any_values(values):
    found = distribution(values)
    assert found.n == len(values) == sum(found.counts)
    assert (len(found.edges), len(found.counts)) == (41, 40)
    assert (np.diff(found.edges) > 0).all()
    assert found.edges[0] <= found.min == min(values) <= found.mean <= max(values) == found.max <= found.edges[-1]
    assert found.quantiles["0.5"] == pytest.approx(np.median(values))
    assert list(found.quantiles.values()) == sorted(found.quantiles.values())
    assert found.std == pytest.approx(np.std(values), abs=1e-9 * max(map(abs, values)))


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 1e-300, 1e17, 1e300])
def test_equal_values_have_bins_around_them(value):
    found = distribution([value] * 5)
    assert (np.diff(found.edges) > 0).all()
    assert max(found.counts) == 5
    assert found.std == 0
    assert found.mean == found.min == found.max == value


def test_random_pairs_are_of_different_rows_and_uniform():
    """Each row comes as often as another, up to 5 binomial standard deviations; all pairs come where there are few."""
    left, right = random_pairs(50, 1000, seed=0)
    assert len(left) == len(right) == 1000
    assert (left != right).all()
    for side in (left, right):
        assert np.bincount(side, minlength=50).max() < 20 + 5 * np.sqrt(20)
    np.testing.assert_array_equal(random_pairs(50, 1000, seed=0), (left, right))
    assert sorted(zip(*random_pairs(4, 6, seed=0), strict=True)) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]


def test_distances_between_rows():
    x, y = np.random.default_rng(0).standard_normal((2, 30, 4))
    left, right = np.array([0, 29, 3]), np.array([5, 5, 0])
    found = distances_between(Rows({"x": x}), Rows({"y": y}), left, right)
    np.testing.assert_allclose(found, np.linalg.norm(x[left] - y[right], axis=1))
