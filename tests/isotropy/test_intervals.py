import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, t

from ragcun.isotropy import MeasureSettings, distribution, measures
from ragcun.isotropy.moments import grouped_moments, random_groups
from ragcun.isotropy.pairs import random_pairs
from ragcun.isotropy.spectrum import interval


def test_groups_are_balanced_random_and_no_more_than_rows():
    sizes = np.bincount(random_groups(103, 10, seed=0))
    assert sorted(set(sizes)) == [10, 11]
    assert len(sizes) == 10
    assert sorted(random_groups(4, 50, seed=0)) == [0, 1, 2, 3]
    assert (random_groups(103, 10, seed=0) != random_groups(103, 10, seed=1)).any()


def test_interval_of_a_mean_is_that_of_students_test_and_of_a_difference_adds_variances():
    """Leaving single rows out of a mean gives its usual standard error exactly."""
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal(25), 3 * rng.standard_normal(40)
    ours, theirs = ([np.delete(each, i).mean() for i in range(len(each))] for each in (x, y))
    half = t.ppf(0.975, 24) * x.std(ddof=1) / math.sqrt(25)
    assert interval(x.mean(), ours) == pytest.approx((x.mean() - half, x.mean() + half))
    value, strata = x.mean() - y.mean(), ([one - y.mean() for one in ours], [x.mean() - one for one in theirs])
    half = t.ppf(0.975, 24) * math.sqrt(x.var(ddof=1) / 25 + y.var(ddof=1) / 40)
    assert interval(value, *strata) == pytest.approx((value - half, value + half))
    assert interval(None, [1.0, 2.0]) == (None, None)
    assert interval(1.0, [1.0, None, 2.0]) == (None, None)
    assert interval(1.0, [1.0, 2.0], [1.0]) == (None, None)
    assert interval(1.0, []) == (None, None)


@pytest.mark.parametrize(("scales", "shift"), [(np.geomspace(1, 0.1, 6), 0.3), (np.ones(6), 0.0)])
def test_intervals_hold_the_expected_value_at_this_number_of_rows(scales, shift):
    """200 draws of 250 Gaussian rows.

    An interval that held with a chance of .95 would hold in fewer draws than the bound once in 10,000 such tests. The
    expected value is taken from the same draws; its error, 1/√200 of a standard deviation, is far less than an
    interval. The mean standard error is between .8 and 2 true ones, too small never, too large where rows are isotropic
    and the measure is at its extreme: a bootstrap over groups has 2 to 3 times the true one there.
    """
    draws, rows = 200, []
    for seed in range(draws):
        x = np.random.default_rng(seed).standard_normal((250, 6)) * scales + shift
        moments = grouped_moments(x, MeasureSettings(seed=seed))
        for measure in (measures.participation_ratio, measures.mean_cosine):
            value = measure(moments.total)
            rows.append((value, *interval(value, [measure(one) for one in moments.without_each()])))
    found, low, high = np.reshape(rows, (draws, 2, 3)).transpose(2, 0, 1)
    expected, spread = found.mean(axis=0), found.std(axis=0, ddof=1)
    held = ((low <= expected) & (expected <= high)).sum(axis=0)
    assert (held >= binom.ppf(1e-4, draws, 0.95)).all()
    ratio = ((high - low) / 2 / t.ppf(0.975, 49)).mean(axis=0) / spread
    assert (ratio > 0.8).all()
    assert (ratio < (2 if scales[-1] == 1 else 1.25)).all()


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
    assert (max(found.counts), found.std) == (5, 0)
    assert found.mean == found.min == found.max == value


def test_random_pairs_are_of_different_rows_and_uniform():
    """Each row comes as often as another, up to 5 binomial standard deviations; all pairs come where there are few."""
    left, right = random_pairs(50, 1000, seed=0)
    assert (left != right).all()
    for side in (left, right):
        assert len(side) == 1000
        assert np.bincount(side, minlength=50).max() < 20 + 5 * np.sqrt(20)
    np.testing.assert_array_equal(random_pairs(50, 1000, seed=0), (left, right))
    assert sorted(zip(*random_pairs(4, 6, seed=0), strict=True)) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
