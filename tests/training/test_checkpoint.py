"""Resume points: everything comes back, and a damaged one is refused in one sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import save_file

from ragcun.embeddings.text_base import TextBase
from ragcun.errors import InputError
from ragcun.models.checkpoint import description_digest
from ragcun.models.systems import IsotropicGaussianEncoder
from ragcun.tensors import contiguous
from ragcun.training.averaging import WeightAverage
from ragcun.training.checkpoint import Progress, load_state, save_state

SETTINGS = {"seed": 1, "rate": 1e-5, "data": {"train": "abc"}, "nothing": None}
PROGRESS = Progress(epoch=2, batches_done=3, step=17, best_score=0.5, best_epoch=1, metric_rows=9, seconds=1.25)


class Run(NamedTuple):
    """What a resume point holds of a run."""

    encoder: IsotropicGaussianEncoder
    optimizer: torch.optim.AdamW
    keeper: Keeper


Saved = tuple[Path, Run, torch.Tensor]


def made(tiny_bert: str, seed: int, decay: float = 0.9, share: float = 0.3) -> Run:
    """Return an encoder and an optimiser that took three steps, and a keeper whose best is the second."""
    torch.manual_seed(seed)
    base = TextBase.load(tiny_bert, device="cpu")
    base.freeze(False, 2)
    encoder = IsotropicGaussianEncoder(base, output_dim=6, head="residual", use_predictor=True)
    optimizer = torch.optim.AdamW(encoder.parameter_groups(1e-4, {"head": 1e-3, "predictor": 1e-2}, 0.1))
    keeper = Keeper(encoder, decay, share)
    for step in range(1, 4):
        encoder.predictor(encoder.embed_query(torch.randn(4, 16))).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        keeper.update(step)
        if step == 2:
            keeper.keep(encoder)
    return Run(encoder, optimizer, keeper)


@pytest.fixture(scope="module")
def saved(tiny_bert: str, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """Folder, what is in it, and the random numbers that come next."""
    run = made(tiny_bert, 0)
    folder = tmp_path_factory.mktemp("run") / "state"
    save_state(folder, *run, PROGRESS, SETTINGS, torch.amp.GradScaler("cpu", init_scale=2.0))
    return folder, run, torch.rand(5)


def test_everything_comes_back(saved: Saved, tiny_bert: str) -> None:
    folder, (encoder, optimizer, keeper), drawn = saved
    other, fresh, kept = made(tiny_bert, 1)
    scaler = torch.amp.GradScaler("cpu")
    progress = load_state(folder, other, fresh, kept, dict(SETTINGS), scaler)
    assert torch.equal(torch.rand(5), drawn)
    assert progress == PROGRESS
    assert scaler.get_scale() == 2.0
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name
    now = encoder.trained_state()
    for of_keeper in ("start", "average", "best"):
        there, back = getattr(keeper, of_keeper), getattr(kept, of_keeper)
        assert there.keys() == back.keys()
        assert all(torch.equal(back[name], there[name]) for name in there)
        assert not all(torch.equal(there[name], now[name]) for name in there)
    one, two = optimizer.state_dict(), fresh.state_dict()
    assert one["state"].keys() == two["state"].keys()
    for index, values in one["state"].items():
        for name, value in values.items():
            assert torch.equal(two["state"][index][name], value)
    for first, second in zip(one["param_groups"], two["param_groups"], strict=True):
        assert json.dumps(first) == json.dumps(second)
    for model, steps, keeps in ((encoder, optimizer, keeper), (other, fresh, kept)):
        torch.manual_seed(9)
        model.embed_query(torch.randn(4, 16)).square().sum().backward()
        steps.step()
        keeps.update(4)
    assert torch.equal(encoder.head.layers[-1].weight, other.head.layers[-1].weight)
    assert all(torch.equal(kept.kept()[name], value) for name, value in keeper.kept().items())


def test_settings_must_be_the_same(saved: Saved, tiny_bert: str) -> None:
    other = made(tiny_bert, 1)
    for changes in ({"seed": 2}, {"data": {"train": "x"}}, {"new": 3}, {"nothing": 0}):
        with pytest.raises(InputError, match=next(iter(changes))):
            load_state(saved[0], *other, SETTINGS | changes)


def _truncate(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / name
        path.write_bytes(path.read_bytes()[:-40])

    return damage


def _edit(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        values = json.loads((folder / "state.json").read_text())
        change(values)
        values["description_blake2b"] = description_digest(values)
        (folder / "state.json").write_text(json.dumps(values))

    return damage


FILES = ("model", "kept", "optimizer", "random")
DAMAGE: dict[str, Callable[[Path], None]] = {
    **{f"{name} truncated": _truncate(f"{name}.safetensors") for name in FILES},
    **{f"{name} missing": lambda folder, name=name: (folder / f"{name}.safetensors").unlink() for name in FILES},
    "state missing": lambda folder: (folder / "state.json").unlink(),
    "state truncated": _truncate("state.json"),
    "no groups": _edit(lambda values: values.pop("groups")),
    "a group less": _edit(lambda values: values["groups"].pop()),
    "unknown progress": _edit(lambda values: values["progress"].update(more=1)),
    "null": lambda folder: (folder / "state.json").write_text("null"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_one_sentence(name: str, saved: Saved, tiny_bert: str, tmp_path: Path) -> None:
    shutil.copytree(saved[0], tmp_path / "state")
    DAMAGE[name](tmp_path / "state")
    with pytest.raises(InputError) as caught:
        load_state(tmp_path / "state", *made(tiny_bert, 1), dict(SETTINGS))
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "state") in str(caught.value)


@pytest.mark.parametrize("part", ["best", "average", "start"])
def test_kept_weights_of_another_shape_are_refused(part: str, saved: Saved, tiny_bert: str, tmp_path: Path) -> None:
    """What would fail only after the last epoch is found at the start."""
    folder, (_, _, keeper), _ = saved
    shutil.copytree(folder, tmp_path / "state")
    name = next(name for name in keeper.state() if name.startswith(f"{part}."))
    for state in ({}, {name: torch.zeros(1)}, {"other": torch.zeros(1)}):
        whole = {other: value for other, value in keeper.state().items() if other != name}
        save_file(contiguous(whole | state), tmp_path / "state" / "kept.safetensors")
        with pytest.raises(InputError, match="is corrupt"):
            load_state(tmp_path / "state", *made(tiny_bert, 1), dict(SETTINGS))


@pytest.mark.parametrize(("decay", "share"), [(0.0, 0.3), (0.9, 1.0), (0.0, 1.0)])
def test_a_run_that_keeps_otherwise_does_not_load(saved: Saved, tiny_bert: str, decay: float, share: float) -> None:
    with pytest.raises(InputError, match="is corrupt"):
        load_state(saved[0], *made(tiny_bert, 1, decay, share), dict(SETTINGS))


@pytest.mark.parametrize(("decay", "share"), [(0.9, 0.3), (0.0, 0.3), (0.9, 1.0), (0.0, 1.0)])
def test_judging_leaves_the_weights_in_training_as_they_were(tiny_bert: str, decay: float, share: float) -> None:
    encoder, _, keeper = made(tiny_bert, 0, decay, share)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    state = {name: tensor.clone() for name, tensor in keeper.state().items()}
    kept = {name: tensor.clone() for name, tensor in keeper.kept().items()}

    def judge() -> None:
        for name, parameter in encoder.named_parameters():
            assert torch.equal(parameter, kept.get(name, before[name]))
        assert (decay, share) == (0.0, 1.0) or any(not torch.equal(kept[name], before[name]) for name in kept)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), keeper.applied():
        judge()
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    assert all(torch.equal(tensor, state[name]) for name, tensor in keeper.state().items())


def test_no_pickle(saved: Saved) -> None:
    assert {path.suffix for path in saved[0].iterdir()} == {".safetensors", ".json"}
