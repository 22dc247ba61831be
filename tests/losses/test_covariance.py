"""Losses on second moments against NumPy and other references, their invariances, and their behaviour at collapse."""

import functools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sentence_transformers.sentence_transformer.losses import GlobalOrthogonalRegularizationLoss

from ragcun.losses.covariance import (
    covariance_isotropy,
    global_orthogonal_regularization,
    off_diagonal_covariance,
    variance_covariance,
    variance_hinge,
)
from ragcun.losses.objective import variance_regularisation
from tests.losses.helpers import normal, rotation

absolute = functools.partial(covariance_isotropy, form="absolute")
SHAPES = [(5, 9), (8, 8), (9, 8), (40, 3), (2, 6)]


def isotropy_by_numpy(z: torch.Tensor, scale_free: bool) -> float:
    c = np.cov(z.numpy().T)
    v, one = np.trace(c) / len(c), np.eye(len(c))
    return float(np.linalg.norm(c / v - one if scale_free else c - v * one)) / len(c)


def vicreg_by_numpy(z: torch.Tensor, variance_weight: float, covariance_weight: float) -> float:
    c = np.cov(z.numpy().T)
    hinge = np.maximum(0, 1 - np.sqrt(np.diag(c) + 1e-4)).mean()
    off_diagonal = np.square(c - np.diag(np.diag(c))).sum() / len(c)
    return float(variance_weight * hinge + covariance_weight * off_diagonal)


def gor_by_sentence_transformers(z: torch.Tensor) -> float:
    return sum(GlobalOrthogonalRegularizationLoss(model=None).compute_loss_from_embeddings([z]).values()).item()


Loss = Callable[[torch.Tensor], torch.Tensor]
LOSSES: dict[str, tuple[Loss, Callable[[torch.Tensor], float]]] = {
    "scale_free": (covariance_isotropy, functools.partial(isotropy_by_numpy, scale_free=True)),
    "absolute": (absolute, functools.partial(isotropy_by_numpy, scale_free=False)),
    "variance": (variance_regularisation, lambda z: sum((s - 1) ** 2 for s in z.std(0).tolist()) / z.shape[1]),
    "gor": (global_orthogonal_regularization, gor_by_sentence_transformers),
    "hinge": (variance_hinge, lambda z: vicreg_by_numpy(z, 1, 0)),
    "off_diagonal": (off_diagonal_covariance, lambda z: vicreg_by_numpy(z, 0, 1)),
    "vicreg": (variance_covariance, lambda z: vicreg_by_numpy(z, 1, 1 / 25)),
}
INVARIANT = {
    "rotation": {"scale_free", "absolute", "gor"},
    "translation": set(LOSSES) - {"gor"},
    "scale": {"scale_free", "gor"},
    "lengths": {"gor"},
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("n", "dim"), SHAPES)
def test_matches_a_reference(name, n, dim):
    z, (loss, reference) = normal(n, dim), LOSSES[name]
    assert loss(z).item() == pytest.approx(reference(z), rel=1e-8, abs=1e-15)
    assert loss(z.float()).item() == pytest.approx(reference(z), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("change", INVARIANT)
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("n", "dim"), [(6, 10), (30, 10)])
def test_what_a_loss_ignores(name, change, n, dim):
    z, (loss, _) = 0.4 * normal(n, dim), LOSSES[name]
    changed = {
        "rotation": z @ rotation(dim),
        "translation": z + 50 * normal(1, dim, seed=3),
        "scale": 2 * z,
        "lengths": z * torch.linspace(0.01, 50, n, dtype=torch.float64)[:, None],
    }[change]
    assert torch.allclose(loss(changed), loss(z), rtol=1e-7) == (name in INVARIANT[change])


@pytest.mark.parametrize("loss", [covariance_isotropy, global_orthogonal_regularization])
@pytest.mark.parametrize("scale", [1e-25, 1e-20, 10.0, 1e15])
def test_extreme_scales_are_ignored_in_float32(loss, scale):
    z = normal(12, 8, dtype=torch.float32)
    torch.testing.assert_close(loss(scale * z), loss(z))


@pytest.mark.parametrize(("n", "dim"), [(6, 10), (30, 10)])
def test_spread_along_one_direction_is_the_maximum_of_isotropy(n, dim):
    z = normal(n, 1) @ normal(1, dim, seed=2)
    assert covariance_isotropy(z).item() == pytest.approx(math.sqrt(dim * (dim - 1)) / dim)
    assert absolute(z).item() == pytest.approx(z.var(0).mean().item() * math.sqrt(1 - 1 / dim))


@pytest.mark.parametrize("loss", [covariance_isotropy, absolute])
@pytest.mark.parametrize("z", [torch.cat([torch.eye(6), -torch.eye(6)]), normal(5, 1, dtype=torch.float32)])
def test_isotropy_and_one_dimension_are_zero_with_a_finite_gradient(loss, z):
    value = loss(z.requires_grad_())
    z.grad = None
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("centre", [0.0, 5.0])
@pytest.mark.parametrize(("n", "dim"), [(6, 10), (64, 10)])
def test_collapse_is_not_a_minimum_of_the_scale_free_form(centre, n, dim, dtype):
    point, cloud = centre * normal(1, dim, seed=4, dtype=dtype), normal(n, dim, dtype=dtype)
    losses = []
    for spread in (1.0, 1e-2, 1e-8, 0.0):
        z = (point + spread * cloud).requires_grad_()
        losses.append(covariance_isotropy(z))
        losses[-1].backward()
        assert z.grad.isfinite().all()
    assert all(loss >= losses[0] * (1 - 1e-4) for loss in losses)
    assert losses[-1].item() == pytest.approx(math.sqrt(1 - 1 / dim), rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("loss", "collapsed"), [(absolute, 0), (variance_covariance, 0.99), (variance_regularisation, 1)]
)
def test_total_collapse_has_a_finite_gradient(loss, collapsed, dtype):
    for point in (0.0, 0.7):
        z = torch.full((8, 5), point, dtype=dtype, requires_grad=True)
        value = loss(z)
        value.backward()
        assert value.item() == pytest.approx(collapsed, abs=1e-5)
        assert z.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "dim"), [(6, 10), (64, 10)])
def test_one_direction_is_the_maximum_of_gor_with_no_gradient(n, dim, dtype):
    z = (normal(1, dim, 4, dtype) * torch.linspace(0.1, 9, n, dtype=dtype)[:, None]).requires_grad_()
    loss = global_orthogonal_regularization(z)
    loss.backward()
    assert loss.item() == pytest.approx(2 - 1 / dim, rel=1e-5)
    assert global_orthogonal_regularization(normal(n, dim, 5, dtype)) < loss
    assert z.grad.abs().max() < 1e-4


@pytest.mark.parametrize(("first", "value"), [([1.0, 0.0, 2.0], 1 / 9), ([0.0, 0.0, 0.0], 0)])
def test_rows_of_zeros_count_as_orthogonal_and_get_no_gradient(first, value):
    z = torch.zeros(3, 3)
    z[:, 0] = torch.tensor(first)  # M₁ = 1/3; M₂ = 1/3 = 1/D
    loss = global_orthogonal_regularization(z.requires_grad_())
    loss.backward()
    assert loss.item() == pytest.approx(value)
    assert z.grad.isfinite().all()
    assert z.grad[1].eq(0).all()


@pytest.mark.parametrize(
    ("loss", "spread", "rate", "factor"),
    [
        (covariance_isotropy, [1.0] + [0.1] * 7, 2, 10),
        (variance_covariance, [0.05] * 8, 5, 50),
        (variance_regularisation, [0.05] * 8, 5, 50),
        (global_orthogonal_regularization, [1.0] * 8, 20, 10),
    ],
)
def test_descent_leaves_a_narrow_cloud(loss, spread, rate, factor):
    z = (normal(24, 8) * torch.tensor(spread)).requires_grad_()
    before = loss(z).item()
    for _ in range(300):
        (gradient,) = torch.autograd.grad(loss(z), z)
        z = (z - rate * gradient).detach().requires_grad_()
    assert loss(z) < before / factor
