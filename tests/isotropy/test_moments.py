import tracemalloc
from functools import reduce
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from ragcun.isotropy import moments
from ragcun.isotropy.moments import (
    MeasureSettings,
    Moments,
    Rows,
    grouped_moments,
    random_groups,
    sample_rows,
    unit_rows,
)


def random_rows(n=200, dim=7, seed=0, shift=0.0):
    return np.random.default_rng(seed).standard_normal((n, dim)) * np.geomspace(1, 0.1, dim) + shift


def check_moments(found, x):
    """Against the rows themselves."""
    nonzero = x[np.linalg.norm(x, axis=1) > 0]
    assert found.count == len(x)
    assert found.nonzero == len(nonzero)
    assert_allclose(found.mean, x.mean(axis=0), rtol=1e-12, atol=1e-13)
    assert_allclose(found.scatter, (x - x.mean(axis=0)).T @ (x - x.mean(axis=0)), atol=1e-9)
    assert_allclose(found.directions, (nonzero / np.linalg.norm(nonzero, axis=1)[:, None]).sum(axis=0), atol=1e-11)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(2, 60), dim=st.integers(1, 6), groups=st.integers(1, 60), block=st.integers(1, 2500))
def test_blocks_and_groups_give_the_moments_of_the_whole(n, dim, groups, block):
    x = random_rows(n, dim, seed=n, shift=5)
    x[0] = 0
    parts = Rows({"a": x[: n // 2], "b": x[n // 2 :]})
    with mock.patch.object(moments, "BLOCK_BYTES", block):
        found = grouped_moments(parts, MeasureSettings(groups=groups, seed=1))
    check_moments(found.total, x)
    assert sum(group.count for group in found.groups) == n
    assert_allclose(found.norms, np.linalg.norm(x, axis=1), rtol=1e-14)


def test_a_group_left_out_leaves_the_moments_of_the_other_rows():
    x = random_rows(shift=100)
    group_of = random_groups(len(x), 9, seed=4)
    left = grouped_moments(x, MeasureSettings(groups=9, seed=4)).without_each()
    assert len(left) == 9
    for group, found in enumerate(left):
        check_moments(found, x[group_of != group])
    assert grouped_moments(x[:2]).without_each() == [], "one row would remain"
    assert len(grouped_moments(x[:3]).without_each()) == 3


@pytest.mark.parametrize("others", [3, 400])
def test_stacked_moments_are_those_of_stacked_rows(others):
    x, y = random_rows(120), random_rows(others, seed=1, shift=2)
    stacked = grouped_moments(x).stacked(grouped_moments(y))
    check_moments(stacked.total, np.vstack([x, y]))
    check_moments(reduce(Moments.plus, stacked.groups), np.vstack([x, y]))
    assert_allclose(stacked.norms, np.linalg.norm(np.vstack([x, y]), axis=1))


def test_a_large_common_vector_costs_no_digits_and_equal_rows_have_no_scatter():
    """Sums of squares of numbers near 1e6 would lose 12 digits of variances near 1, leaving about 4."""
    x = random_rows(5000, 5)
    near, far = grouped_moments(x).total, grouped_moments(x + 2.0**20).total
    assert_allclose(far.covariance_eigenvalues(), near.covariance_eigenvalues(), rtol=1e-9)
    found = grouped_moments(np.tile([0.1, -1e6, 1 / 3], (1000, 1)))
    assert not found.total.scatter.any()
    assert not any(one.scatter.any() for one in found.without_each())


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int32])
def test_memory_map_gives_the_same_as_an_array(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(moments, "BLOCK_BYTES", 250)
    x = (10 * random_rows()).astype(dtype)
    np.save(tmp_path / "x.npy", x)
    for mode in ("r", "r+", "c"):
        mapped = np.load(tmp_path / "x.npy", mmap_mode=mode)
        if mode == "c":
            mapped[3] = x[3] = 7
        found = grouped_moments(mapped[2:]).total
        check_moments(found, x[2:].astype(np.float64))


def test_working_memory_is_that_of_a_few_blocks(tmp_path, monkeypatch):
    budget, dim = 4 << 20, 32
    monkeypatch.setattr(moments, "BLOCK_BYTES", budget // 8)
    np.save(tmp_path / "x.npy", random_rows(60_000, dim).astype(np.float32))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    grouped_moments(mapped[:50])
    tracemalloc.start()
    found = grouped_moments(mapped)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < budget + 3 * found.norms.nbytes
    assert budget < mapped.nbytes


@pytest.mark.parametrize(("fit", "groups"), [(20, 20), (0, 10)])
def test_few_groups_where_their_moments_would_not_fit(monkeypatch, fit, groups):
    monkeypatch.setattr(moments, "GROUPS_BYTES", 8 * 7**2 * fit)
    assert len(grouped_moments(random_rows()).groups) == groups


@pytest.mark.parametrize(("bad", "block"), [(np.nan, 1), (np.inf, 1 << 25), (-np.inf, 1), (1e200, 1 << 25)])
def test_a_row_that_is_not_finite_is_named(monkeypatch, bad, block):
    monkeypatch.setattr(moments, "BLOCK_BYTES", block)
    x = random_rows()
    x[17, 3] = bad
    with pytest.raises(ValueError, match="queries: row 17 is not finite"):
        grouped_moments(Rows({"documents": random_rows(50), "queries": x}))
    with pytest.raises(ValueError, match="row 17 is not finite"):
        Rows({"x": x}).take(np.array([5, 17]))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([np.ones(3)], r"shape \(n, dim\), got \(3,\)"),
        ([np.ones((3, 0))], r"got \(3, 0\)"),
        ([np.ones((3, 2)) + 0j], "real numbers, got complex128"),
        ([np.ones((1, 2))], "at least 2 rows, got 1"),
        ([np.ones((4, 2)), np.ones((4, 3))], "a has 2 columns, b has 3 columns"),
    ],
)
def test_what_is_not_a_matrix_is_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        Rows(dict(zip("ab", parts, strict=False)))


def test_a_sample_is_distinct_ascending_and_of_the_seed_and_rows_are_taken_in_the_order_asked():
    rows = sample_rows(1000, 100, seed=3)
    assert (np.diff(rows) > 0).all()
    assert len(rows) == 100
    assert_array_equal(rows, sample_rows(1000, 100, seed=3))
    assert (rows != sample_rows(1000, 100, seed=4)).any()
    assert_array_equal(sample_rows(10, 100, seed=3), np.arange(10))
    x, places = random_rows(50), np.array([49, 0, 20, 20, 19, 21])
    assert_array_equal(Rows({"a": x[:20], "b": x[20:21], "c": x[21:]}).take(places), x[places])


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1, 1e150])
def test_unit_rows_of_any_scale(scale):
    x = np.array([[3.0, 4.0], [0.0, 0.0]]) * scale
    assert_allclose(unit_rows(x), [[0.6, 0.8], [0, 0]], rtol=1e-15)
