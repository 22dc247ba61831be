"""Covariance losses against loops and closed forms, their invariances, and their behaviour at collapse."""

import math

import pytest
import torch

from ragcun.losses.covariance import covariance, covariance_isotropy, in_full_precision, variance_regularisation
from tests.losses.helpers import covariance_by_loop, normal, rotation

FORMS = ("scale_free", "absolute")
SHAPES = [(5, 9), (8, 8), (9, 8), (40, 3), (2, 6)]


def isotropy_by_loop(z: torch.Tensor, form: str) -> float:
    c = covariance_by_loop(z)
    dim = len(c)
    v = sum(c[d][d] for d in range(dim)) / dim
    unit, target = (v, 1.0) if form == "scale_free" else (1.0, v)
    return math.sqrt(sum((c[a][b] / unit - target * (a == b)) ** 2 for a in range(dim) for b in range(dim))) / dim


@pytest.mark.parametrize(("n", "dim"), SHAPES)
def test_covariance_matches_a_loop(n, dim):
    z = normal(n, dim)
    torch.testing.assert_close(covariance(z), torch.tensor(covariance_by_loop(z), dtype=z.dtype))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("n", "dim"), SHAPES)
def test_isotropy_matches_a_loop(n, dim, form):
    z = normal(n, dim)
    assert covariance_isotropy(z, form).item() == pytest.approx(isotropy_by_loop(z, form), rel=1e-10)
    assert covariance_isotropy(z.float(), form).item() == pytest.approx(isotropy_by_loop(z, form), rel=1e-5)


@pytest.mark.parametrize(("n", "dim"), SHAPES)
def test_variance_regularisation_matches_a_loop(n, dim):
    z = normal(n, dim)
    c = covariance_by_loop(z)
    expected = sum((math.sqrt(c[d][d]) - 1) ** 2 for d in range(dim)) / dim
    assert variance_regularisation(z).item() == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("n", "dim"), [(6, 10), (30, 10)])
def test_isotropy_ignores_rotation_translation_and_order_of_rows(n, dim, form):
    z = normal(n, dim)
    shuffled = torch.randperm(n, generator=torch.Generator().manual_seed(1))
    for same in (z @ rotation(dim), z + 50 * normal(1, dim, seed=3), z[shuffled]):
        torch.testing.assert_close(covariance_isotropy(same, form), covariance_isotropy(z, form))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-20, 1e-3, 10.0, 1e15])
def test_scale_free_form_ignores_scale(scale, dtype):
    z = normal(12, 8, dtype=dtype)
    torch.testing.assert_close(covariance_isotropy(scale * z), covariance_isotropy(z))


def test_absolute_form_grows_with_the_square_of_scale():
    z = normal(12, 8)
    torch.testing.assert_close(covariance_isotropy(10 * z, "absolute"), 100 * covariance_isotropy(z, "absolute"))


@pytest.mark.parametrize(("n", "dim"), [(6, 10), (30, 10)])
def test_spread_along_one_direction_is_the_maximum(n, dim):
    z = normal(n, 1) @ normal(1, dim, seed=2)
    assert covariance_isotropy(z).item() == pytest.approx(math.sqrt(dim * (dim - 1)) / dim)
    v = covariance(z).trace() / dim
    assert covariance_isotropy(z, "absolute").item() == pytest.approx(v.item() * math.sqrt(1 - 1 / dim))


@pytest.mark.parametrize("form", FORMS)
def test_perfect_isotropy_is_zero_with_a_finite_gradient(form):
    z = torch.cat([torch.eye(6), -torch.eye(6)]).requires_grad_()
    loss = covariance_isotropy(z, form)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("form", FORMS)
def test_one_dimension_is_isotropic_with_a_finite_gradient(form):
    z = normal(5, 1, dtype=torch.float32).requires_grad_()
    loss = covariance_isotropy(z, form)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "dim"), [(6, 10), (64, 10)])
@pytest.mark.parametrize("centre", [0.0, 5.0])
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


def test_total_collapse_scores_zero_in_the_absolute_form():
    z = torch.full((8, 5), 0.7, requires_grad=True)
    loss = covariance_isotropy(z, "absolute")
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert z.grad.isfinite().all()


def test_descent_on_the_scale_free_form_spreads_a_narrow_cloud():
    z = (normal(24, 8) * torch.tensor([1.0] + [0.1] * 7)).requires_grad_()
    before = covariance_isotropy(z).item()
    for _ in range(150):
        (gradient,) = torch.autograd.grad(covariance_isotropy(z), z)
        z = (z - 2 * gradient).detach().requires_grad_()
    eigenvalues = torch.linalg.eigvalsh(covariance(z.detach()))
    assert before > 0.5
    assert eigenvalues[0] / eigenvalues[-1] > 0.9


def test_variance_is_regularised_towards_one_from_both_sides():
    z = normal(50, 4)
    unit = (z - z.mean(0)) / z.std(0)
    assert variance_regularisation(unit).item() == pytest.approx(0, abs=1e-12)
    assert variance_regularisation(3 * unit).item() == pytest.approx(4)
    assert variance_regularisation(0.25 * unit).item() == pytest.approx(0.75**2)


def test_variance_regularisation_is_per_dimension():
    constant_columns = torch.tensor([-1.0, 1.0]).repeat(10, 4)
    assert constant_columns.std().item() == pytest.approx(1, abs=0.01)
    assert variance_regularisation(constant_columns).item() == pytest.approx(1, abs=1e-5)


def test_variance_gradient_is_finite_at_collapse_and_pushes_out_near_it():
    z = torch.ones(6, 3, requires_grad=True)
    variance_regularisation(z).backward()
    assert z.grad.isfinite().all()
    near = (1e-3 * normal(6, 3)).requires_grad_()
    variance_regularisation(near).backward()
    assert variance_regularisation(near.detach() - near.grad) < variance_regularisation(near.detach())


def test_unknown_form_is_refused():
    with pytest.raises(ValueError, match="scale_free, absolute, got 'seeds'"):
        covariance_isotropy(torch.ones(2, 4), "seeds")


@pytest.mark.parametrize(
    ("given", "computed"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_full_precision_widens_half_types_only(given, computed):
    double = in_full_precision(lambda x, *, y: x @ y)
    x = torch.ones(2, 2, dtype=given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert double(x, y=x).dtype == computed
        assert double(x, y=x).eq(2).all()
