"""Global orthogonal regularisation against a loop and sentence-transformers; its range and invariances."""

import math
from itertools import permutations

import pytest
import torch
from sentence_transformers.sentence_transformer.losses import GlobalOrthogonalRegularizationLoss

from ragcun.losses.covariance import global_orthogonal_regularization
from tests.losses.helpers import normal, rotation

SHAPES = [(2, 6), (5, 9), (8, 8), (9, 8), (40, 3)]


def by_loop(z: torch.Tensor) -> float:
    rows = z.tolist()
    cosines = [
        sum(a * b for a, b in zip(x, y, strict=True)) / math.sqrt(sum(a * a for a in x) * sum(b * b for b in y))
        for x, y in permutations(rows, 2)
    ]
    first, second = sum(cosines) / len(cosines), sum(c * c for c in cosines) / len(cosines)
    return first**2 + max(0.0, second - 1 / len(rows[0]))


@pytest.mark.parametrize(("n", "dim"), SHAPES)
def test_matches_a_loop(n, dim):
    z = normal(n, dim)
    assert global_orthogonal_regularization(z).item() == pytest.approx(by_loop(z), rel=1e-10)
    assert global_orthogonal_regularization(z.float()).item() == pytest.approx(by_loop(z), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(("n", "dim"), SHAPES)
def test_mean_over_two_views_matches_sentence_transformers(n, dim):
    views = [normal(n, dim, seed) for seed in (0, 1)]
    theirs = GlobalOrthogonalRegularizationLoss(model=None).compute_loss_from_embeddings(views)
    ours = torch.stack([global_orthogonal_regularization(z) for z in views]).mean()
    torch.testing.assert_close(ours, theirs["gor_mean"] + theirs["gor_second_moment"])


@pytest.mark.parametrize(("n", "dim"), [(6, 10), (30, 10)])
def test_ignores_rotation_order_and_length_of_rows(n, dim):
    z = normal(n, dim)
    lengths = torch.linspace(0.01, 50, n, dtype=torch.float64)[:, None]
    order = torch.randperm(n, generator=torch.Generator().manual_seed(1))
    for same in (z @ rotation(dim), lengths * z, z[order]):
        torch.testing.assert_close(global_orthogonal_regularization(same), global_orthogonal_regularization(z))


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_ignores_extreme_scales_in_float32(scale):
    z = normal(6, 8, dtype=torch.float32)
    torch.testing.assert_close(global_orthogonal_regularization(scale * z), global_orthogonal_regularization(z))


def test_does_not_ignore_translation():
    z = normal(20, 8)
    assert global_orthogonal_regularization(z + 10) > global_orthogonal_regularization(z) + 1


def test_minimum_at_uniform_directions():
    cross = torch.cat([torch.eye(6), -torch.eye(6)])
    assert global_orthogonal_regularization(cross).item() == pytest.approx(1 / 11**2, rel=1e-5)  # M₁ = −1/11, M₂ = 1/11
    assert global_orthogonal_regularization(torch.eye(6)).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "dim"), [(6, 10), (64, 10)])
def test_one_direction_is_the_maximum_with_no_gradient(n, dim, dtype):
    z = (normal(1, dim, 4, dtype) * torch.linspace(0.1, 9, n, dtype=dtype)[:, None]).requires_grad_()
    loss = global_orthogonal_regularization(z)
    loss.backward()
    assert loss.item() == pytest.approx(2 - 1 / dim, rel=1e-5)
    assert global_orthogonal_regularization(normal(n, dim, 5, dtype)) < loss
    assert z.grad.abs().max() < 1e-4


def test_rows_of_zeros_count_as_orthogonal_and_get_no_gradient():
    z = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [2.0, 0.0, 0.0]], requires_grad=True)
    loss = global_orthogonal_regularization(z)
    loss.backward()
    assert loss.item() == pytest.approx(1 / 9)  # M₁ = 1/3; M₂ = 1/3 = 1/D
    assert torch.equal(z.grad[1], torch.zeros(3))
    nothing = torch.zeros(4, 3, requires_grad=True)
    loss = global_orthogonal_regularization(nothing)
    loss.backward()
    assert loss.item() == 0
    assert nothing.grad.isfinite().all()


def test_descent_spreads_directions():
    z = normal(24, 8).requires_grad_()
    before = global_orthogonal_regularization(z).item()
    for _ in range(200):
        (gradient,) = torch.autograd.grad(global_orthogonal_regularization(z), z)
        z = (z - 20 * gradient).detach().requires_grad_()
    assert global_orthogonal_regularization(z) < before / 10
