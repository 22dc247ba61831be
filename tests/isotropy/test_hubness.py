from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import skew

from ragcun.isotropy import UndefinedMeasure, hubness, measures
from ragcun.isotropy.hubness import isotropic_hubness
from ragcun.isotropy.moments import random_groups


def brute_force(x, k):
    """Nearest other rows by (distance, row), from sums of squared differences."""
    found = []
    for i, row in enumerate(x):
        distances = np.square(x - row).sum(axis=1)
        others = np.delete(np.arange(len(x)), i)
        found.append(others[np.lexsort((others, distances[others]))][:k])
    return np.array(found)


@pytest.mark.parametrize(("block", "shift"), [(1, 0.0), (1000, 1e6), (1 << 23, 0.0)])
def test_neighbours_are_those_of_brute_force(monkeypatch, block, shift):
    monkeypatch.setattr(hubness, "BLOCK_NUMBERS", block)
    x = np.random.default_rng(0).standard_normal((150, 6)) + shift
    expected = brute_force(x, 10)
    found, distances = hubness.nearest_rows(x, 10)
    assert_array_equal(found, expected)
    assert_allclose(distances, np.linalg.norm(x[:, None] - x[expected], axis=2), rtol=1e-12)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([-0.1, 0.0, 0.3]), st.sampled_from([0.7, 1.1])), min_size=3, max_size=50),
    st.integers(1, 12),
    st.integers(1, 5000),
)
def test_equals_rank_by_row_for_every_block_size(rows, k, block):
    x, k = np.array(rows), min(k, len(rows) - 1)
    with mock.patch.object(hubness, "BLOCK_NUMBERS", block):
        assert_array_equal(hubness.nearest_rows(x, k)[0], brute_force(x, k))


def test_k_occurrence_counts_and_its_measures():
    x = np.random.default_rng(1).standard_normal((120, 8))
    counts = np.zeros(120, dtype=int)
    for row in brute_force(x, 5):
        counts[row] += 1
    assert_array_equal(measures.k_occurrence(x, 5), counts)
    assert counts.mean() == 5
    assert measures.hubness_skewness(x, 5) == pytest.approx(skew(counts))
    assert measures.robin_hood(x, 5) == pytest.approx(sum(abs(c - 5) for c in counts) / 2 / 600)
    assert measures.antihub_share(x, 5) == pytest.approx(sum(c == 0 for c in counts) / 120)


def test_extremes_of_n_k():
    star = np.array([12, 0, 0, 0])
    assert hubness.robin_hood(star) == 0.75
    assert hubness.antihub_share(star) == 0.75
    level = np.full(7, 3)
    assert hubness.robin_hood(level) == hubness.antihub_share(level) == 0
    with pytest.raises(UndefinedMeasure):
        hubness.hubness_skewness(level)
    with pytest.raises(ValueError, match=r"1 to 4.*, got 5"):
        measures.k_occurrence(np.random.default_rng(0).standard_normal((5, 2)), 5)


def test_occurrences_without_a_group_are_those_of_the_other_rows():
    x = np.random.default_rng(2).standard_normal((90, 4))
    group_of = random_groups(90, 12, seed=0)
    left = hubness.k_occurrences_without(hubness.nearest_rows(x, 20)[0], 10, group_of)
    assert len(left) == 12
    for group, counts in enumerate(left):
        assert_array_equal(counts, measures.k_occurrence(x[group_of != group], 10))
    few = hubness.nearest_rows(x, 10)[0]
    assert hubness.k_occurrences_without(few, 10, group_of) == [], "too few neighbours are known"


def test_isotropic_hubness_is_that_of_gaussian_rows_or_of_their_directions():
    x = np.random.default_rng(3).standard_normal((400, 16))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    for rows, one_length in ((x, False), (unit, True)):
        for name, value in isotropic_hubness(400, 16, 10, 3, one_length).items():
            assert value == pytest.approx(getattr(measures, name)(rows)), name
