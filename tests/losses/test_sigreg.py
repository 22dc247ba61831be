"""SIGReg against published reference values, closed forms and loops."""

import json
import math
from itertools import product

import numpy as np
import pytest
import torch

from ragcun.losses.sigreg import BLOCK_ELEMENTS, KNOTS, _quadrature, mean_epps_pulley, random_slices, sigreg, statistic_
from tests.losses.helpers import normal

EXPECTED_UNDER_TARGET = 1.05246
ALL_ZERO = 0.402048
KINDS = ("iso", "aniso", "rank1", "const0", "const", "unitnorm", "sqrtD_unitnorm")


def abscissae(knots: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Knots and weights by their definition: the half range with doubled weights, and the full range."""
    if knots == "reference":
        t = torch.linspace(0, 3, 17, dtype=torch.float64)
        weights = torch.full((17,), 2 * 3 / 16, dtype=torch.float64)
    else:
        t = torch.linspace(-5, 5, 17, dtype=torch.float64)
        weights = torch.full((17,), 10 / 16, dtype=torch.float64)
    weights[[0, -1]] /= 2
    return t, weights * torch.exp(-t.square() / 2)


def per_slice(projections: torch.Tensor, knots: str = "reference") -> torch.Tensor:
    """T of each column."""
    return statistic_((projections.T * KNOTS[knots][0]).contiguous(), knots, slope=False)[0]


def direct(projections: torch.Tensor, knots: str) -> torch.Tensor:
    """The statistic by its definition, differentiable, every cosine and sine at once."""
    t, weights = abscissae(knots)
    angles = projections.unsqueeze(-1) * t
    distance = (angles.cos().mean(0) - torch.exp(-t.square() / 2)).square() + angles.sin().mean(0).square()
    return len(projections) * (distance @ weights)


@pytest.fixture(scope="module")
def reference(shared_data):
    folder = shared_data.parent / "reference" / "sigreg"
    if not (folder / "reference.json").exists():
        pytest.skip(f"no SIGReg reference values in {folder}")
    return folder


def reference_input(case: dict) -> torch.Tensor:
    z = np.random.default_rng(case["x_seed"]).standard_normal((case["N"], case["D"]))
    norms = np.linalg.norm(z, axis=1, keepdims=True)
    tilt = np.zeros(case["D"])
    tilt[0] = 0.5
    transformed = {
        "iso": z,
        "aniso": z * np.geomspace(1, 0.01, case["D"]) + tilt,
        "rank1": np.outer(z[:, 0], np.ones(case["D"])),
        "const0": np.zeros_like(z),
        "const": np.full_like(z, 0.3),
        "unitnorm": z / norms,
        "sqrtD_unitnorm": math.sqrt(case["D"]) * z / norms,
    }
    return torch.from_numpy(transformed[case["kind"]].astype(np.float32))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("slices", [256, 1024])
def test_matches_the_reference_values_of_a_large_batch(reference, kind, slices):
    n, dim = 1024, 768
    cases = json.loads((reference / "reference.json").read_text())["cases"]
    (case,) = [c for c in cases if (c["kind"], c["N"], c["D"], c["K"]) == (kind, n, dim, slices)]
    z = reference_input(case).requires_grad_()
    value = n * sigreg(z, case["step"], slices)
    value.backward()
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(case["value"], rel=1e-5)
    assert z.grad.norm().item() == pytest.approx(case["grad_norm"], rel=1e-5)
    assert z.grad.flatten()[:3].tolist() == pytest.approx(case["grad_first3"], abs=1e-5 * z.grad.abs().max().item())
    first = per_slice(z.detach() @ random_slices(dim, slices, case["step"])[:, :4])
    assert first.tolist() == pytest.approx(case["per_slice_first4"], rel=1e-4)
    assert n * sigreg(z.detach(), case["step"] + 1, slices).item() == pytest.approx(case["value_step1"], rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_matches_the_reference_of_every_slice_and_gradient(reference, kind):
    arrays, every = (
        np.load(reference / "reference.npz"),
        json.loads((reference / "reference.json").read_text())["cases"],
    )
    cases = [case for case in every if (case["kind"], case["N"], case["D"]) == (kind, 256, 128)]
    assert [case["K"] for case in cases] == [256, 1024]
    directions = torch.from_numpy(arrays["A_D128_K256_step0"])
    torch.testing.assert_close(random_slices(128, 256, step=0), directions, rtol=1e-6, atol=0)
    z = torch.from_numpy(arrays[f"x_{kind}"]).requires_grad_()
    expected = torch.from_numpy(arrays[f"per_slice_{kind}"])
    torch.testing.assert_close(per_slice(z.detach() @ directions), expected, rtol=1e-4, atol=0)
    for case in cases:
        value, double = (256 * sigreg(rows, 0, case["K"]) for rows in (z, z.detach().double()))
        assert (value.dtype, double.dtype) == (torch.float32, torch.float64)
        assert value.item() == pytest.approx(case["value"], rel=1e-5)
        assert double.item() == pytest.approx(case["value_f64"], rel=1e-6)
        assert 256 * sigreg(z.detach(), 1, case["K"]).item() == pytest.approx(case["value_step1"], rel=1e-5)
    (256 * sigreg(z, step=0, num_slices=256)).backward()
    expected = torch.from_numpy(arrays[f"grad_{kind}"])
    assert (z.grad - expected).norm() <= 1e-5 * expected.norm()


def test_expectation_under_the_target():
    columns = 20_000
    generator = torch.Generator().manual_seed(0)
    statistic = per_slice(torch.randn(64, columns, generator=generator))
    standard_error = statistic.std().item() / math.sqrt(columns)
    assert abs(statistic.mean().item() - EXPECTED_UNDER_TARGET) < 5 * standard_error
    t, weights = abscissae("reference")
    assert (weights @ (1 - torch.exp(-t.square()))).item() == pytest.approx(EXPECTED_UNDER_TARGET, abs=1e-5)


@pytest.mark.parametrize("n", [1, 2, 300])
def test_total_collapse_at_the_origin(n):
    z = torch.zeros(n, 6, requires_grad=True)
    value = sigreg(z, step=3, num_slices=8)
    value.backward()
    assert value.item() == pytest.approx(ALL_ZERO, abs=1e-6)
    assert z.grad.eq(0).all()


def test_wide_knots_give_the_exact_integral():
    """The rest beyond |t| = 5 and the halved weights at its ends are below 5e-6; the rule itself errs less."""
    s = torch.linspace(-2, 2, 40, dtype=torch.float64).pow(3) / 4 + 0.1
    pairs = torch.exp(-(s[:, None] - s).square() / 2).mean()
    exact = (
        math.sqrt(2 * math.pi) * pairs
        - 2 * math.sqrt(math.pi) * torch.exp(-s.square() / 4).mean()
        + math.sqrt(2 * math.pi / 3)
    )
    assert (per_slice(s[:, None], "paper") / len(s)).item() == pytest.approx(exact.item(), abs=5e-6)


@pytest.mark.parametrize("knots", KNOTS)
@pytest.mark.parametrize("n", [1, 2, 30])
@pytest.mark.parametrize("elements", [1, 100, 2**17])
def test_value_and_gradient_match_the_definition_whatever_the_blocks(monkeypatch, elements, n, knots):
    monkeypatch.setitem(BLOCK_ELEMENTS, "cpu", elements)
    z = normal(n, 5).requires_grad_()
    directions = random_slices(5, 7, step=2).to(z)
    statistic = direct(z @ directions, knots)
    torch.testing.assert_close(per_slice((z @ directions).detach(), knots), statistic.detach())
    expected = statistic.mean() / n
    for value in (sigreg(z, 2, 7, knots), mean_epps_pulley(z, directions, knots)):
        torch.testing.assert_close(value, expected)
        gradients = (torch.autograd.grad(loss, z, retain_graph=True)[0] for loss in (value, expected))
        torch.testing.assert_close(*gradients)


def test_target_scores_below_collapse_spread_along_one_direction_and_unit_norm():
    z = torch.randn(256, 32, generator=torch.Generator().manual_seed(0))
    target = sigreg(z, 0)
    for worse in (torch.zeros_like(z), z[:, :1].expand(-1, 32), torch.nn.functional.normalize(z), 3 * z, z + 1):
        assert sigreg(worse, 0) > 10 * target


def test_evaluation_leaves_training_as_it_was():
    _quadrature.cache_clear()
    with torch.inference_mode():
        evaluated = sigreg(normal(16, 4), 0)
    z = normal(16, 4).requires_grad_()
    with torch.no_grad():
        assert not sigreg(z, 0).requires_grad
    trained = sigreg(z, 0)
    trained.backward(retain_graph=True)
    once = z.grad.clone()
    trained.backward()
    assert torch.equal(trained, evaluated)
    assert torch.equal(z.grad, 2 * once)


def test_what_is_kept_for_the_backward_pass_does_not_grow_with_slices_or_knots():
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        for slices, knots in product((16, 512), KNOTS):
            kept.clear()
            sigreg(normal(32, 8).requires_grad_(), 0, slices, knots)
            assert sum(kept) == 32 * 8 + 1


def test_slices_are_unit_vectors_that_depend_on_step_and_seed_alone(monkeypatch):
    """They carry no gradient, and a column of zeros stays."""
    before = torch.get_rng_state()
    drawn = [random_slices(40, 9, step, seed) for step, seed in ((0, 0), (1, 0), (0, 1), (1, 1))]
    assert torch.equal(torch.get_rng_state(), before)
    for i, slices in enumerate(drawn):
        assert not slices.requires_grad
        torch.testing.assert_close(slices.norm(dim=0), torch.ones(9))
        assert all(not torch.equal(slices, other) for other in drawn[:i])
    torch.manual_seed(7)
    assert torch.equal(random_slices(40, 9, step=1), drawn[1])
    monkeypatch.setattr(torch, "randn", lambda *shape, generator, dtype: torch.zeros(shape, dtype=dtype))
    assert random_slices(3, 2, step=0).eq(0).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sigreg(torch.zeros(0, 4), 0), r"at least 1 row and 1 column, got shape \(0, 4\)"),
        (lambda: sigreg(torch.zeros(4), 0), r"at least 1 row and 1 column, got shape \(4,\)"),
        (lambda: sigreg(torch.zeros(4, 0), 0), r"at least 1 row and 1 column, got shape \(4, 0\)"),
        (lambda: sigreg(torch.zeros(4, 2), 0, num_slices=0), "at least 1 slice, got 0"),
    ],
)
def test_wrong_calls_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
