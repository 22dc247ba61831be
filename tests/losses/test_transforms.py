"""Input transforms against loops; what each hides from a loss, what not; finite at collapse."""

import math

import pytest
import torch

from ragcun.losses.covariance import covariance_isotropy, unit_rows
from ragcun.losses.objective import TRANSFORMS, sqrt_dim, standardize, standardize_l2, unit_scale
from tests.losses.helpers import normal, rotation

SHAPES = [(2, 3), (5, 9), (9, 4), (40, 3)]
NAMES = ["none", "standardize", "standardize_l2", "unit_scale", "sqrt_dim"]
CENTRED = ["standardize", "standardize_l2"]
FREE_OF_SIZE = NAMES[1:]


def by_loop(name: str, z: torch.Tensor) -> list[list[float]]:
    rows = z.tolist()
    n, dim = len(rows), len(rows[0])
    mean = [sum(row[d] for row in rows) / n for d in range(dim)]
    variance = [sum((row[d] - mean[d]) ** 2 for row in rows) / (n - 1) for d in range(dim)]
    if name.startswith("standardize"):
        rows = [[(row[d] - mean[d]) / math.sqrt(variance[d]) for d in range(dim)] for row in rows]
    if name == "unit_scale":
        return [[x / math.sqrt(sum(variance) / dim) for x in row] for row in rows]
    if name in ("standardize_l2", "sqrt_dim"):
        length = math.sqrt(dim) if name == "sqrt_dim" else 1.0
        return [[length * x / math.sqrt(sum(y * y for y in row)) for x in row] for row in rows]
    return rows


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("n", "dim"), SHAPES)
def test_matches_a_loop(name, n, dim):
    z = normal(n, dim)
    expected = torch.tensor(by_loop(name, z), dtype=torch.float64)
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
    assert covariance_isotropy(uneven) > 0.8
    assert covariance_isotropy(standardize(uneven)).item() == pytest.approx(0, abs=1e-6)
    assert covariance_isotropy(standardize(turned)) > 0.5


def test_no_gradient_through_unit_scale_changes_the_size_of_the_batch():
    z = normal(10, 5).requires_grad_()
    (gradient,) = torch.autograd.grad((unit_scale(z) * normal(10, 5, seed=4)).sin().sum(), z)
    assert gradient.norm() > 0.1
    assert (gradient * z).sum().item() == pytest.approx(0, abs=1e-12)


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


@pytest.mark.parametrize("transform", [standardize_l2, sqrt_dim, unit_rows])
def test_a_row_without_direction_stays_zero(transform):
    z = torch.tensor([[1.0, 2.0], [0.0, 0.0], [-1.0, -2.0]], requires_grad=True)
    shown = transform(z)
    shown[:, 0].sum().backward()
    assert shown[1].eq(0).all()
    assert z.grad.isfinite().all()
    assert transform is standardize_l2 or z.grad[1].eq(0).all()
