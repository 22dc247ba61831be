"""The weights that are kept: closed forms of average and share, and an encoder that is left as it was."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from ragcun.embeddings.text_base import TextBase
from ragcun.models.systems import AsymmetricProjectionModel
from ragcun.training.averaging import FULL_SHARE, HALF_AT, Keeper, share_of_trained

Make = Callable[[], AsymmetricProjectionModel]
Named = dict[str, Tensor]


@pytest.fixture
def make(tiny_bert: str) -> Make:
    """Encoders with two linear heads on a frozen base, alike."""
    base = TextBase(SentenceTransformer(tiny_bert, device="cpu"), "tiny")

    def encoder() -> AsymmetricProjectionModel:
        model = AsymmetricProjectionModel(base, head="linear", normalize_output=True)
        model.freeze_base()
        return model

    return encoder


def trained(encoder: AsymmetricProjectionModel) -> Named:
    return {name: value for name, value in encoder.named_parameters() if value.requires_grad}


def copies(named: Named) -> Named:
    return {name: value.detach().clone() for name, value in named.items()}


@torch.no_grad()
def walk(encoder: AsymmetricProjectionModel, step: int) -> None:
    """Move all trained weights by something random."""
    generator = torch.Generator().manual_seed(step)
    for value in trained(encoder).values():
        value.add_(torch.randn(value.shape, generator=generator))


def assert_close(found: Named, expected: Named) -> None:
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value.double(), expected[name].double(), rtol=1e-5, atol=1e-5, msg=name)


def run(keeper: Keeper, encoder: AsymmetricProjectionModel, steps: int, first: int = 1) -> None:
    for step in range(first, first + steps):
        walk(encoder, step)
        keeper.update(step)


def test_share_0_is_the_start(make: Make) -> None:
    encoder = make()
    start = copies(trained(encoder))
    keeper = Keeper(encoder, decay=0.9, share=0.0)
    run(keeper, encoder, 5)
    assert all(torch.equal(value, start[name]) for name, value in keeper.kept().items())


def test_share_1_without_decay_is_the_weights_themselves(make: Make) -> None:
    encoder = make()
    keeper = Keeper(encoder, decay=0.0, share=1.0)
    run(keeper, encoder, 5)
    kept, now = keeper.kept(), trained(encoder)
    assert kept.keys() == now.keys()
    assert all(torch.equal(value, now[name]) for name, value in kept.items())


@pytest.mark.parametrize("decay", [0.3, 0.9, 0.999])
@pytest.mark.parametrize("share", [0.25, 1.0])
def test_the_average_follows_its_recurrence(make: Make, decay: float, share: float) -> None:
    """By hand over 20 steps, in float64."""
    encoder = make()
    keeper = Keeper(encoder, decay, share)
    start = {name: value.double() for name, value in copies(trained(encoder)).items()}
    average = dict(start)
    for step in range(1, 21):
        walk(encoder, step)
        keeper.update(step)
        m = min(decay, (1 + step) / (10 + step))
        average = {name: m * average[name] + (1 - m) * value.double() for name, value in trained(encoder).items()}
    assert_close(keeper.kept(), {name: (1 - share) * start[name] + share * average[name] for name in start})


def test_share_without_decay_lies_between_start_and_weights(make: Make) -> None:
    encoder = make()
    start = copies(trained(encoder))
    keeper = Keeper(encoder, decay=0.0, share=0.3)
    run(keeper, encoder, 3)
    assert_close(keeper.kept(), {name: 0.7 * start[name] + 0.3 * value for name, value in trained(encoder).items()})


@pytest.mark.parametrize(("decay", "share"), [(0.9, 0.5), (0.0, 0.5), (0.9, 1.0), (0.0, 1.0)])
def test_applied_shows_the_kept_weights_and_restores_bit_for_bit(make: Make, decay: float, share: float) -> None:
    encoder = make()
    keeper = Keeper(encoder, decay, share)
    run(keeper, encoder, 4)
    before, kept = copies(dict(encoder.named_parameters())), copies(keeper.kept())
    places = {name: value.data_ptr() for name, value in trained(encoder).items()}
    with keeper.applied():
        inside = copies(trained(encoder))
    assert all(torch.equal(value, kept[name]) for name, value in inside.items())
    assert all(torch.equal(value, before[name]) for name, value in encoder.named_parameters())
    assert places == {name: value.data_ptr() for name, value in trained(encoder).items()}
    assert all(torch.equal(value, kept[name]) for name, value in keeper.kept().items())


def test_applied_restores_after_an_exception(make: Make) -> None:
    encoder = make()
    keeper = Keeper(encoder, 0.9, 0.5)
    run(keeper, encoder, 4)
    before = copies(trained(encoder))

    def fail() -> None:
        with keeper.applied():
            assert any(not torch.equal(value, before[name]) for name, value in trained(encoder).items())
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        fail()
    assert all(torch.equal(value, before[name]) for name, value in trained(encoder).items())


@pytest.mark.parametrize(("decay", "share"), [(0.9, 0.5), (0.0, 0.5), (0.9, 1.0)])
def test_a_fresh_keeper_goes_on_from_the_state(make: Make, decay: float, share: float) -> None:
    """6 steps in one go equal 3, a fresh encoder whose start was another, and 3 more."""
    whole, first, fresh = make(), make(), make()
    unbroken = Keeper(whole, decay, share)
    run(unbroken, whole, 3)
    unbroken.keep(whole)
    run(unbroken, whole, 3, first=4)
    stopped = Keeper(first, decay, share)
    run(stopped, first, 3)
    stopped.keep(first)
    state = copies(stopped.state())
    walk(fresh, 77)
    resumed = Keeper(fresh, decay, share)
    resumed.load(state)
    fresh.load_state_dict(first.state_dict())
    run(resumed, fresh, 3, first=4)
    for one, other in ((unbroken.kept(), resumed.kept()), (unbroken.best, resumed.best)):
        assert one.keys() == other.keys()
        assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_state_of_another_run_is_refused(make: Make) -> None:
    keeper = Keeper(make(), 0.9, 0.5)
    with pytest.raises(ValueError, match="missing or unknown"):
        keeper.load(Keeper(make(), 0.0, 0.5).state())
    wrong = {name: value.flatten() for name, value in keeper.state().items()}
    with pytest.raises(ValueError, match="shape"):
        keeper.load(wrong)


def test_a_loaded_state_is_no_alias_of_its_source(make: Make) -> None:
    encoder = make()
    keeper = Keeper(encoder, 0.9, 0.5)
    state = copies(keeper.state())
    before = copies(state)
    keeper.load(state)
    run(keeper, encoder, 3)
    assert all(torch.equal(value, before[name]) for name, value in state.items())


def test_frozen_parameters_are_neither_held_nor_touched(make: Make) -> None:
    encoder = make()
    encoder.freeze_side("document")
    keeper = Keeper(encoder, 0.9, 0.5)
    frozen = copies({name: value for name, value in encoder.named_parameters() if not value.requires_grad})
    assert any(name.startswith("documents.") for name in frozen)
    assert any(name.startswith("base.") for name in frozen)
    assert keeper.kept().keys() == {"head.layers.0.weight", "head.layers.0.bias"}
    run(keeper, encoder, 4)
    with keeper.applied():
        now = dict(encoder.named_parameters())
        assert all(torch.equal(now[name], value) for name, value in frozen.items())
    assert all(torch.equal(now[name], value) for name, value in frozen.items())


def test_what_is_remembered_as_best_does_not_follow_the_weights(make: Make) -> None:
    encoder = make()
    keeper = Keeper(encoder, 0.9, 0.5)
    run(keeper, encoder, 2)
    with keeper.applied():
        expected = copies(encoder.trained_state())
        keeper.keep(encoder)
    run(keeper, encoder, 2, first=3)
    assert keeper.best.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in keeper.best.items())


def test_the_share_rises_with_the_number_of_queries() -> None:
    shares = [share_of_trained(queries) for queries in range(5000)]
    assert shares[0] == 0
    assert all(earlier < later < FULL_SHARE for earlier, later in pairwise(shares))
    assert shares[HALF_AT] == pytest.approx(FULL_SHARE / 2)
    assert share_of_trained(10**9) == pytest.approx(0.7)
