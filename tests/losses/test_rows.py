"""What losses and transforms of rows share (gradients, autocast); what each transform hides from a loss, what not."""

import functools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from ragcun.losses import covariance
from ragcun.losses.contrastive import info_nce, margin_loss
from ragcun.losses.objective import (
    TRANSFORMS,
    predictive_error,
    residual_penalty,
    sqrt_dim,
    standardize,
    standardize_l2,
    variance_regularisation,
)
from ragcun.losses.sigreg import KNOTS, sigreg
from tests.losses.helpers import normal, rotation

FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    **TRANSFORMS,
    "scale_free": covariance.covariance_isotropy,
    "absolute": functools.partial(covariance.covariance_isotropy, form="absolute"),
    "variance": variance_regularisation,
    "gor": covariance.global_orthogonal_regularization,
    "hinge": covariance.variance_hinge,
    "off_diagonal": covariance.off_diagonal_covariance,
    "vicreg": covariance.variance_covariance,
    "residual": residual_penalty,
    "predictive": lambda z: predictive_error(z, z.flip(1), stop_gradient=False),
    "margin": lambda z: margin_loss(z, z.flip(1)),
    "infonce": lambda z: info_nce(z, z.flip(1)),
    **{f"sigreg {knots}": functools.partial(sigreg, step=1, num_slices=4, knots=knots) for knots in KNOTS},
}
TAKE_ONE_ROW = ["none", "sqrt_dim", "residual", "predictive", *(name for name in FUNCTIONS if "sigreg" in name)]


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(("n", "dim"), [(5, 9), (9, 4), (4, 4), (2, 6)])
def test_gradients(name, n, dim):
    assert torch.autograd.gradcheck(FUNCTIONS[name], (0.7 * normal(n, dim)).requires_grad_())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_order_of_rows_does_not_matter(name):
    z, order = normal(12, 8), torch.randperm(12, generator=torch.Generator().manual_seed(1))
    expected = FUNCTIONS[name](z)
    torch.testing.assert_close(FUNCTIONS[name](z[order]), expected[order] if name in TRANSFORMS else expected)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "none"])
def test_autocast_changes_neither_values_nor_gradients(name):
    z = normal(32, 16, dtype=torch.float32).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (z @ z.T).dtype == torch.bfloat16
        inside = FUNCTIONS[name](z)
        assert FUNCTIONS[name](z.bfloat16()).dtype == torch.float32
    outside = FUNCTIONS[name](z)
    assert torch.equal(inside, outside)
    assert torch.equal(*(torch.autograd.grad(value.sin().sum(), z)[0] for value in (inside, outside)))


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in TAKE_ONE_ROW])
def test_one_row_is_refused(name):
    with pytest.raises(ValueError, match="at least 2 rows, got 1"):
        FUNCTIONS[name](torch.ones(1, 4))


# Transforms

SHAPES = [(2, 3), (5, 9), (9, 4), (40, 3)]
NAMES = ["none", "standardize", "standardize_l2", "unit_scale", "sqrt_dim"]
CENTRED = ["standardize", "standardize_l2"]
FREE_OF_SIZE = NAMES[1:]


def by_numpy(name: str, rows: np.ndarray) -> np.ndarray:
    if name.startswith("standardize"):
        rows = (rows - rows.mean(axis=0)) / rows.std(axis=0, ddof=1)
    if name == "unit_scale":
        rows = rows / np.sqrt(rows.var(axis=0, ddof=1).mean())
    if name in ("standardize_l2", "sqrt_dim"):
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return math.sqrt(rows.shape[1]) * rows if name == "sqrt_dim" else rows


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("n", "dim"), SHAPES)
def test_matches_numpy(name, n, dim):
    z = normal(n, dim)
    expected = torch.from_numpy(by_numpy(name, z.numpy()))
    torch.testing.assert_close(TRANSFORMS[name](z), expected)
    torch.testing.assert_close(TRANSFORMS[name](z.float()), expected.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FREE_OF_SIZE)
@pytest.mark.parametrize("scale", [1e-25, 1e-3, 10.0, 1e25])
def test_size_is_hidden_in_float32_too(name, scale):
    z = normal(12, 8, dtype=torch.float32)
    torch.testing.assert_close(TRANSFORMS[name](scale * z), TRANSFORMS[name](z))


@pytest.mark.parametrize("name", NAMES)
def test_standardising_ones_alone_hide_the_centre_and_do_not_commute_with_rotation(name):
    z, turn, transform = normal(12, 8), rotation(8), TRANSFORMS[name]
    assert torch.allclose(transform(z + 5 * normal(1, 8, seed=3)), transform(z)) == (name in CENTRED)
    assert torch.allclose(transform(z @ turn), transform(z) @ turn) == (name not in CENTRED)


def test_standardising_makes_covariance_isotropy_blind_to_unequal_spread_along_the_axes():
    signs = torch.tensor([[float(1 - 2 * (i >> bit & 1)) for bit in range(4)] for i in range(16)], dtype=torch.float64)
    uneven = signs * torch.tensor([100.0, 1.0, 1.0, 1.0])
    turned = uneven @ rotation(4)
    assert covariance.covariance_isotropy(uneven) > 0.8
    assert covariance.covariance_isotropy(standardize(uneven)).item() == pytest.approx(0, abs=1e-6)
    assert covariance.covariance_isotropy(standardize(turned)) > 0.5


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 0.7, 1e-30, 1e18])
def test_total_collapse_is_finite(name, dtype, value):
    z = torch.full((6, 4), value, dtype=dtype, requires_grad=True)
    shown = TRANSFORMS[name](z)
    (shown * normal(6, 4, dtype=dtype)).sum().backward()
    assert shown.isfinite().all()
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("name", CENTRED)
def test_a_constant_column_becomes_zero_with_a_bounded_gradient_and_spoils_no_other(name):
    z = normal(20, 5, dtype=torch.float32)
    z[:, 2] = 0.7
    z.requires_grad_()
    shown = TRANSFORMS[name](z)
    assert shown[:, 2].abs().max() < 1e-3  # rounding of the mean, over the floor
    (shown * normal(20, 5, seed=1, dtype=torch.float32)).sum().backward()
    assert z.grad.isfinite().all()
    others = [0, 1, 3, 4]
    # 100 / the root of the mean variance, times a column of weights of about unit size
    assert z.grad[:, 2].norm() < 300 * z.grad[:, others].norm()
    torch.testing.assert_close(standardize(z)[:, others], standardize(z[:, others]))


def test_a_narrow_column_is_not_blown_up_beyond_the_floor():
    z = normal(20, 4)
    z[:, 0] *= 1e-5
    variances = standardize(z).var(0)
    floor = 1e-4 * z.var(0).mean()
    torch.testing.assert_close(variances[1:], torch.ones(3, dtype=torch.float64))
    assert variances[0].item() == pytest.approx((z.var(0)[0] / floor).item())


@pytest.mark.parametrize("transform", [standardize_l2, sqrt_dim, covariance.unit_rows])
def test_a_row_without_direction_stays_zero(transform):
    z = torch.tensor([[1.0, 2.0], [0.0, 0.0], [-1.0, -2.0]], requires_grad=True)
    shown = transform(z)
    shown[:, 0].sum().backward()
    assert shown[1].eq(0).all()
    assert z.grad.isfinite().all()
    assert transform is standardize_l2 or z.grad[1].eq(0).all()
