"""The weights that are evaluated and saved: closed forms, and an encoder that is left as it was."""

import contextlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ragcun import AsymmetricProjectionModel, TextBase
from ragcun.training.weights import WeightAverage
from tests.training.runs import assert_equal

Make = Callable[[], AsymmetricProjectionModel]
Named = dict[str, Tensor]


@pytest.fixture
def make(base: TextBase) -> Make:
    """Encoders with two linear heads on a frozen base, alike."""
    return lambda: AsymmetricProjectionModel(base, head="linear", normalize_output=True)


def trained(encoder: AsymmetricProjectionModel) -> Named:
    return {name: value for name, value in encoder.named_parameters() if value.requires_grad}


def copies(named: Named) -> Named:
    return {name: value.detach().clone() for name, value in named.items()}


@torch.no_grad()
def run(average: WeightAverage, encoder: AsymmetricProjectionModel, steps: int) -> list[Named]:
    """Move all trained weights by something random at each step; return them after each."""
    after, generator = [], torch.Generator().manual_seed(0)
    for step in range(1, steps + 1):
        for value in trained(encoder).values():
            value.add_(torch.randn(value.shape, generator=generator))
        average.update(step)
        after.append(copies(trained(encoder)))
    return after


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_weights_follow_the_recurrence_and_the_interpolation(make, decay, share):
    """By hand over 20 steps, in float64; share 0 is the initial weights and share 1 without decay the last, exactly."""
    encoder = make()
    initial = copies(trained(encoder))
    average = WeightAverage(encoder, decay, share)
    steps = run(average, encoder, 20)
    mean = {name: value.double() for name, value in initial.items()}
    for step, weights in enumerate(steps, 1):
        m = min(decay, (1 + step) / (10 + step)) if decay else 0.0
        mean = {name: m * mean[name] + (1 - m) * value.double() for name, value in weights.items()}
    found = average.weights()
    assert found.keys() == mean.keys()
    for name, value in found.items():
        expected = (1 - share) * initial[name].double() + share * mean[name]
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-5, msg=name)
    if share == 0:
        assert_equal(found, initial)
    if share == 1 and decay == 0:
        assert_equal(found, steps[-1])


@pytest.mark.parametrize(("decay", "share"), [(0.9, 0.5), (0.0, 0.5), (0.9, 1.0), (0.0, 1.0)])
@pytest.mark.parametrize("interrupted", [False, True])
def test_applied_shows_the_averaged_weights_and_restores_bit_for_bit(make, decay, share, interrupted):
    """What is frozen, here documents and base, is neither held nor touched."""
    encoder = make()
    encoder.freeze_side("document")
    average = WeightAverage(encoder, decay, share)
    assert average.weights().keys() == {"head.layers.0.weight", "head.layers.0.bias"}
    run(average, encoder, 4)
    parameters = dict(encoder.named_parameters())
    before, averaged, state = copies(parameters), copies(average.weights()), copies(average.state())
    places = {name: value.data_ptr() for name, value in parameters.items()}
    inside: Named = {}
    with contextlib.suppress(KeyboardInterrupt), average.applied():
        inside.update(copies(parameters))
        if interrupted:
            raise KeyboardInterrupt
    assert_equal(inside, before | averaged)
    assert (decay, share) == (0.0, 1.0) or any(not torch.equal(averaged[name], before[name]) for name in averaged)
    assert_equal(dict(encoder.named_parameters()), before)
    assert places == {name: value.data_ptr() for name, value in encoder.named_parameters()}
    assert_equal(average.state(), state)


def test_the_best_weights_do_not_follow_and_come_back(make):
    encoder = make()
    average = WeightAverage(encoder, 0.9, 0.5)
    run(average, encoder, 2)
    with average.applied():
        expected = copies(encoder.trained_state())
        average.keep_best(encoder)
    run(average, encoder, 2)
    assert_equal(average.best, expected)
    average.restore_best(encoder)
    assert_equal(encoder.trained_state(), expected)
