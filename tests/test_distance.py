"""Distances against torch.cdist in float64, and where they could break: at zero, and far from the origin."""

import pytest
import torch

from ragcun.losses.contrastive import euclidean_pairwise, squared_euclidean


@pytest.fixture
def xy() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(16, 5, generator=generator, dtype=torch.float64).split((7, 9))
    return x.clone().requires_grad_(), y.clone().requires_grad_()


def test_distances_match_cdist_and_have_gradients(xy):
    x, y = xy
    reference = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
    torch.testing.assert_close(squared_euclidean(x, y), reference.square())
    torch.testing.assert_close(euclidean_pairwise(x, y[:7]), reference.diagonal())
    assert torch.autograd.gradcheck(squared_euclidean, (x, y))
    assert torch.autograd.gradcheck(euclidean_pairwise, (x, y[:7]))


@pytest.mark.parametrize("distance", [euclidean_pairwise, squared_euclidean])
def test_gradient_is_finite_between_equal_rows(distance):
    x = torch.ones(3, 4, requires_grad=True)
    distance(x, torch.ones(3, 4)).sum().backward()
    assert x.grad.isfinite().all()


def test_rounding_never_makes_a_squared_distance_negative():
    x = 1e3 + 1e-3 * torch.randn(50, 64, generator=torch.Generator().manual_seed(0))
    assert (squared_euclidean(x, x) >= 0).all()
