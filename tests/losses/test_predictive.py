"""Predictive losses against loops, and who receives their gradient."""

from __future__ import annotations

import pytest
import torch

from ragcun.losses.objective import predictive_error, residual_penalty


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    predicted, target = torch.randn(2, 6, 4, generator=generator, dtype=torch.float64)
    return predicted.requires_grad_(), target.requires_grad_()


def test_predictive_error_matches_a_loop(pair):
    rows = zip(*(tensor.tolist() for tensor in pair), strict=True)
    expected = sum((a - b) ** 2 for x, y in rows for a, b in zip(x, y, strict=True)) / 24
    assert predictive_error(*pair).item() == pytest.approx(expected)


def test_residual_penalty_matches_a_loop(pair):
    expected = sum(sum(a * a for a in row) for row in pair[0].tolist()) / 6
    assert residual_penalty(pair[0]).item() == pytest.approx(expected)


def test_gradients(pair):
    predicted, target = pair
    assert torch.autograd.gradcheck(lambda p, t: predictive_error(p, t, stop_gradient=False), pair)
    assert torch.autograd.gradcheck(lambda p: predictive_error(p, target), predicted)
    assert torch.autograd.gradcheck(residual_penalty, predicted)


def test_the_target_is_held_constant_by_default(pair):
    predicted, target = pair
    predictive_error(predicted, target).backward()
    assert target.grad is None
    assert predicted.grad.abs().sum() > 0


def test_without_stop_gradient_both_sides_move_towards_each_other(pair):
    predicted, target = pair
    predictive_error(predicted, target, stop_gradient=False).backward()
    assert target.grad.abs().sum() > 0
    torch.testing.assert_close(target.grad, -predicted.grad)


def test_shapes_that_would_broadcast_are_refused(pair):
    with pytest.raises(ValueError, match=r"\(6, 4\).*\(1, 4\)"):
        predictive_error(pair[0], pair[1][:1])


def test_half_precision_is_averaged_in_float32():
    predicted, target = torch.full((64, 8), 300.0).half(), torch.zeros(64, 8).half()
    assert predictive_error(predicted, target).item() == 90000.0
    assert residual_penalty(predicted).item() == 720000.0
