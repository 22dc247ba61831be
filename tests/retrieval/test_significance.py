from __future__ import annotations

import itertools
import math
import tracemalloc

import numpy as np
import pytest
from scipy import stats

from ragcun.retrieval.metrics import paired_tests


def scores(values):
    return {f"q{i}": float(value) for i, value in enumerate(values)}


@pytest.mark.parametrize("seed", range(4))
def test_small_samples_are_enumerated(seed):
    rng = np.random.default_rng(seed)
    ours, baseline = rng.integers(0, 5, (2, 9)) / 4 + 0.1 * (seed + 1) * np.array([[1], [0]])
    differences = ours - baseline
    tosses = np.array([np.mean(differences * signs) for signs in itertools.product((1, -1), repeat=9)])
    expected = np.mean(np.abs(tosses) >= abs(differences.mean()) - 1e-12)
    tests = paired_tests(scores(ours), scores(baseline))
    assert tests.p_randomisation == pytest.approx(min(1.0, expected))
    assert tests.n == 9
    assert tests.mean_difference == pytest.approx(differences.mean())


def test_sampled_p_value_agrees_with_enumeration():
    """Binomial: 10,000 tosses put p within 5 standard errors of the exact value (two tails of one, hence the 2)."""
    rng = np.random.default_rng(5)
    ours, baseline = rng.normal(0.45, 1, 15), np.zeros(15)
    exact = paired_tests(scores(ours), scores(baseline), resamples=2**15).p_randomisation
    sampled = paired_tests(scores(ours), scores(baseline), resamples=10_000).p_randomisation
    tail = exact / 2
    assert abs(sampled - exact) < 2 * 5 * math.sqrt(tail * (1 - tail) / 10_000)
    assert 0.005 < exact < 0.5


@pytest.mark.parametrize("n", [10, 40])
def test_exchanging_the_runs_changes_the_sign_alone(n):
    first, second = np.random.default_rng(n).random((2, n))
    there, back = paired_tests(scores(first), scores(second)), paired_tests(scores(second), scores(first))
    assert there.mean_difference == -back.mean_difference
    assert there.p_t == pytest.approx(back.p_t, rel=1e-12)
    assert there.p_randomisation == pytest.approx(back.p_randomisation, abs=0.0 if n == 10 else 0.05)


def test_identical_runs_give_one():
    same = scores(np.random.default_rng(0).random(20))
    tests = paired_tests(same, dict(reversed(same.items())))
    assert (tests.mean_difference, tests.p_randomisation, tests.p_t) == (0.0, 1.0, 1.0)


def test_t_test_is_the_closed_form():
    ours, baseline = np.random.default_rng(3).random((2, 25))
    differences = ours - baseline
    t = differences.mean() / (differences.std(ddof=1) / math.sqrt(25))
    assert paired_tests(scores(ours), scores(baseline)).p_t == pytest.approx(2 * stats.t.sf(abs(t), 24), rel=1e-9)


def test_samples_without_variance_or_of_one_sign():
    assert paired_tests(scores([1.0, 0.5, 0.5]), scores([0.0, 0.5, 0.5])).p_randomisation == 1.0
    tests = paired_tests(scores([1.0] * 6), scores([0.5] * 6))
    assert tests.p_t == 0.0
    assert tests.p_randomisation == pytest.approx(2 / 2**6)


@pytest.mark.parametrize("level", [0.05, 0.2, 0.5])
def test_p_values_keep_their_level_under_the_null_hypothesis(level):
    """Of 300 null samples the number with p ≤ level is binomial; its 1e-6 quantiles bound it (one run in 5e5 fails)."""
    rng, trials = np.random.default_rng(11), 300
    tests = [paired_tests(scores(rng.normal(size=20)), scores(rng.normal(size=20)), 300) for _ in range(trials)]
    low, high = stats.binom(trials, level).ppf([1e-6, 1 - 1e-6])
    for p_values in ([test.p_randomisation for test in tests], [test.p_t for test in tests]):
        assert low <= sum(p <= level for p in p_values) <= high


def test_seed_decides_the_sample():
    first, second = (scores(values) for values in np.random.default_rng(2).random((2, 50)))
    assert paired_tests(first, second, seed=1) == paired_tests(first, second, seed=1)
    assert paired_tests(first, second, seed=1).p_randomisation != paired_tests(first, second, seed=2).p_randomisation


def test_memory_is_bounded():
    """1,000 queries × 3,000 tosses are 24 MB of float64, of which scipy would hold eight at once."""
    first, second = (scores(values) for values in np.random.default_rng(4).random((2, 1_000)))
    paired_tests(first, second, resamples=10)
    tracemalloc.start()
    paired_tests(first, second, resamples=3_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6


def test_wrong_calls_are_refused():
    with pytest.raises(ValueError, match="2 only in ours, 1 only in baseline"):
        paired_tests({"a": 1.0, "b": 1.0, "c": 0.0}, {"c": 1.0, "d": 1.0})
    with pytest.raises(ValueError, match="at least 2 queries, got 1"):
        paired_tests({"a": 1.0}, {"a": 0.0})
    with pytest.raises(ValueError, match="1 of 2 differences are not finite"):
        paired_tests({"a": 1.0, "b": float("nan")}, {"a": 0.0, "b": 1.0})
