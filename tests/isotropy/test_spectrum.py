import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragcun.isotropy import UndefinedMeasure, measures, spectrum
from ragcun.isotropy.spectrum import isotropic_spectrum

SPECTRA = st.lists(st.floats(1e-6, 1e6), min_size=2, max_size=30).map(np.array)
NAMES = ("isotropy_score", "isoscore", "participation_ratio", "effective_rank", "stable_rank", "condition_number")
ALL = {name: getattr(spectrum, name) for name in NAMES}
ALL["rankme"] = lambda values: spectrum.rankme(values, len(values), eps=0)


def rows_with_spectrum(scales, n, seed):
    """Rows whose centred singular values are exactly proportional to `scales`."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, len(scales)))
    left = np.linalg.qr(x - x.mean(axis=0))[0]
    return left * scales @ np.linalg.qr(rng.standard_normal((len(scales),) * 2))[0]


@pytest.mark.parametrize(("k", "dim"), [(1, 5), (3, 5), (5, 5), (2, 64)])
def test_k_equal_eigenvalues(k, dim):
    values = np.repeat([7.0, 0.0], [k, dim - k])
    assert spectrum.isoscore(values) == pytest.approx((k - 1) / (dim - 1), abs=1e-12)
    for rank in (spectrum.participation_ratio, spectrum.effective_rank, spectrum.stable_rank):
        assert rank(values) == pytest.approx(k)
    assert spectrum.rankme(values, 100) == pytest.approx(k, rel=1e-4 * dim)
    assert spectrum.isotropy_score(values) == pytest.approx(1 - math.sqrt(dim / k - 1))


@settings(deadline=None)
@given(SPECTRA)
def test_ranges_and_relations(values):
    dim, ratio = len(values), spectrum.participation_ratio(values)
    assert 1 - 1e-9 <= ratio <= dim * (1 + 1e-9)
    assert 1 - 1e-9 <= spectrum.stable_rank(values) <= ratio * (1 + 1e-9)
    assert ratio <= spectrum.effective_rank(values) * (1 + 1e-9) <= dim * (1 + 1e-8)
    assert spectrum.isotropy_score(values) == pytest.approx(1 - math.sqrt(max(dim / ratio - 1, 0)), abs=1e-6)
    assert spectrum.condition_number(values) == pytest.approx(values.max() / values.min())


@settings(deadline=None)
@given(SPECTRA, st.sampled_from([1e-200, 1e-3, 7.0, 1e200]), st.randoms(use_true_random=False))
def test_neither_scale_nor_order_of_eigenvalues_matters(values, scale, random):
    """Nor do squares of eigenvalues overflow or vanish."""
    shuffled = scale * np.array(random.sample(values.tolist(), len(values)))
    for name, measure in ALL.items():
        assert measure(shuffled) == pytest.approx(measure(values), rel=1e-7, abs=1e-7), name


@pytest.mark.parametrize("exponent", [0.0, 0.7, 2.0])
@pytest.mark.parametrize("dim", [6, 64, 384])
def test_alpha_req_finds_the_exponent_of_a_power_law(exponent, dim):
    values = 3.0 * np.arange(1, dim + 1) ** -exponent
    assert spectrum.alpha_req(values) == pytest.approx(exponent, abs=1e-9)


def test_alpha_req_leaves_out_the_first_and_the_last_eigenvalues():
    values = np.arange(1, 65) ** -1.0
    values[:2] *= 1000
    values[32:] /= 1000
    assert spectrum.alpha_req(values) == pytest.approx(1)
    values[2] *= 2
    assert spectrum.alpha_req(values) > 1.01


def test_zero_eigenvalues():
    zeros = np.zeros(8)
    ranks = (spectrum.participation_ratio, spectrum.effective_rank, spectrum.stable_rank, spectrum.entropy_rank)
    assert [rank(zeros) for rank in ranks] == [0, 0, 0, 0]
    assert spectrum.rankme(zeros, 5) == 0
    for measure in (spectrum.isotropy_score, spectrum.isoscore, spectrum.condition_number, spectrum.alpha_req):
        with pytest.raises(UndefinedMeasure):
            measure(zeros)
    with pytest.raises(UndefinedMeasure, match="infinite"):
        spectrum.condition_number([1.0, 0.0])
    with pytest.raises(UndefinedMeasure, match="2 dimensions, got 1"):
        spectrum.isoscore([1.0])


@pytest.mark.parametrize("wrong", [[-1.0, 1.0], [math.nan], [[1.0]], []])
def test_what_is_no_spectrum_is_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        spectrum.participation_ratio(wrong)


def test_matrix_measures_of_a_known_spectrum():
    scales = np.array([4.0, 2.0, 1.0, 0.5, 0.25, 0.1])
    x = rows_with_spectrum(scales, 40, seed=0)
    for shift in (0.0, 30.0):
        moved = x + shift
        for name in ("isotropy_score", "isoscore", "participation_ratio", "condition_number"):
            assert getattr(measures, name)(moved) == pytest.approx(ALL[name](scales**2), rel=1e-9), name
        shares = scales / scales.sum()
        assert measures.effective_rank(moved) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-9)
        assert measures.alpha_req(moved) == pytest.approx(spectrum.alpha_req(scales**2), rel=1e-9)
        singular = np.linalg.svd(moved, compute_uv=False)
        assert measures.stable_rank(moved) == pytest.approx((singular**2).sum() / singular[0] ** 2)
        shares = singular / singular.sum() + 1e-7
        assert measures.rankme(moved) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", [(30, 64), (200, 16)])
def test_isoscore_is_that_of_the_published_package(seed, shape):
    isoscore = pytest.importorskip("IsoScore.IsoScore")
    x = np.random.default_rng(seed).standard_normal(shape) * np.geomspace(1, 0.1, shape[1]) + 3
    assert measures.isoscore(x) == pytest.approx(float(isoscore.IsoScore(x)), abs=1e-7)


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
