"""VICReg's variance and covariance terms against loops; their range, invariances and dependence on scale."""

import math

import pytest
import torch

from ragcun.losses.covariance import off_diagonal_covariance, variance_covariance, variance_hinge
from tests.losses.helpers import covariance_by_loop, normal, rotation

SHAPES = [(2, 6), (5, 9), (8, 8), (9, 8), (40, 3)]
TERMS = [variance_hinge, off_diagonal_covariance, variance_covariance]


def by_loop(z: torch.Tensor, gamma: float) -> tuple[float, float]:
    c = covariance_by_loop(z)
    dim = len(c)
    hinge = sum(max(0.0, gamma - math.sqrt(c[d][d] + 1e-4)) for d in range(dim)) / dim
    return hinge, sum(c[a][b] ** 2 for a in range(dim) for b in range(dim) if a != b) / dim


@pytest.mark.parametrize("gamma", [1.0, 1.5])
@pytest.mark.parametrize(("n", "dim"), SHAPES)
def test_terms_match_a_loop(n, dim, gamma):
    z = normal(n, dim)
    hinge, off_diagonal = by_loop(z, gamma)
    assert variance_hinge(z, gamma).item() == pytest.approx(hinge, rel=1e-10, abs=1e-15)
    assert off_diagonal_covariance(z).item() == pytest.approx(off_diagonal, rel=1e-9)
    assert off_diagonal_covariance(z.float()).item() == pytest.approx(off_diagonal, rel=1e-4)


@pytest.mark.parametrize(("n", "dim"), SHAPES)
def test_loss_is_the_weighted_sum_with_the_weights_of_the_paper_over_25(n, dim):
    z = normal(n, dim)
    hinge, off_diagonal = by_loop(z, 1.0)
    assert 25 * variance_covariance(z).item() == pytest.approx(25 * hinge + off_diagonal, rel=1e-9)
    assert variance_covariance(z, 2.0, 3.0, 5.0).item() == pytest.approx(
        3 * by_loop(z, 2.0)[0] + 5 * off_diagonal, rel=1e-9
    )


@pytest.mark.parametrize("term", TERMS)
def test_ignores_translation_and_order_but_not_rotation(term):
    z = normal(12, 6)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    for same in (z + 5 * normal(1, 6, 3), z[order]):
        torch.testing.assert_close(term(same), term(z))
    assert not torch.allclose(term(z @ rotation(6)), term(z))


def test_covariance_term_grows_with_the_fourth_power_of_scale_and_the_hinge_ends_at_gamma():
    z = normal(12, 6)
    torch.testing.assert_close(off_diagonal_covariance(10 * z), 1e4 * off_diagonal_covariance(z))
    assert variance_hinge(100 * z).item() == 0


def test_minimum_is_reached_without_isotropy():
    signs = torch.tensor([[float(1 - 2 * (i >> bit & 1)) for bit in range(4)] for i in range(16)])
    assert variance_covariance(signs).item() == pytest.approx(0, abs=1e-6)
    assert variance_covariance(signs * torch.tensor([9.0, 3.0, 1.0, 1.0])).item() == pytest.approx(0, abs=1e-6)


def test_unit_norm_rows_cannot_satisfy_the_hinge():
    z = torch.nn.functional.normalize(normal(500, 64, seed=2), dim=1)
    assert variance_hinge(z) > 1 - 0.01 - 1.01 / math.sqrt(64)  # the mean std is at most 1/√D, by Jensen; + rounding


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 0.7])
def test_total_collapse_is_the_hinge_s_maximum_with_a_finite_gradient(value, dtype):
    z = torch.full((8, 5), value, dtype=dtype, requires_grad=True)
    loss = variance_covariance(z)
    loss.backward()
    assert loss.item() == pytest.approx(0.99, abs=1e-6)
    assert z.grad.isfinite().all()


def test_descent_leaves_a_narrow_cloud_for_unit_spread():
    z = (0.05 * normal(24, 4)).requires_grad_()
    for _ in range(300):
        (gradient,) = torch.autograd.grad(variance_covariance(z), z)
        z = (z - 5 * gradient).detach().requires_grad_()
    assert variance_covariance(z) < 0.01
