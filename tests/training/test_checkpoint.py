"""Resume points: everything comes back, and a damaged one is refused in one sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ragcun.errors import InputError
from ragcun.models.base import TextBase
from ragcun.models.isotropic_gaussian import IsotropicGaussianEncoder
from ragcun.training.checkpoint import Progress, load_state, save_state

SETTINGS = {"seed": 1, "rate": 1e-5, "data": {"train": "abc"}, "nothing": None}
PROGRESS = Progress(epoch=2, batches_done=3, step=17, best_score=0.5, best_epoch=1, metric_rows=9, seconds=1.25)


def made(tiny_bert: str, seed: int) -> tuple[IsotropicGaussianEncoder, torch.optim.AdamW]:
    """Return an encoder and an optimiser that took three steps."""
    torch.manual_seed(seed)
    base = TextBase.load(tiny_bert, device="cpu")
    base.freeze(False, 2)
    encoder = IsotropicGaussianEncoder(base, output_dim=6, head="residual", use_predictor=True)
    optimizer = torch.optim.AdamW(encoder.parameter_groups(1e-4, {"head": 1e-3, "predictor": 1e-2}, 0.1))
    for _ in range(3):
        encoder.predictor(encoder.embed_query(torch.randn(4, 16))).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return encoder, optimizer


@pytest.fixture(scope="module")
def saved(
    tiny_bert: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, IsotropicGaussianEncoder, torch.optim.AdamW, torch.Tensor]:
    """Folder, what is in it, and the random numbers that come next."""
    encoder, optimizer = made(tiny_bert, 0)
    folder = tmp_path_factory.mktemp("run") / "state"
    best = {name: tensor + 1 for name, tensor in encoder.trained_state().items()}
    save_state(folder, encoder, optimizer, PROGRESS, best, SETTINGS, {"scale": 2.0})
    return folder, encoder, optimizer, torch.rand(5)


def test_everything_comes_back(
    saved: tuple[Path, IsotropicGaussianEncoder, torch.optim.AdamW, torch.Tensor], tiny_bert: str
) -> None:
    folder, encoder, optimizer, drawn = saved
    other, fresh = made(tiny_bert, 1)
    progress, best, scaler = load_state(folder, other, fresh, dict(SETTINGS))
    assert torch.equal(torch.rand(5), drawn)
    assert progress == PROGRESS
    assert scaler == {"scale": 2.0}
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name
    for name, tensor in encoder.trained_state().items():
        assert torch.equal(best[name], tensor + 1)
    one, two = optimizer.state_dict(), fresh.state_dict()
    assert one["state"].keys() == two["state"].keys()
    for index, values in one["state"].items():
        for name, value in values.items():
            assert torch.equal(two["state"][index][name], value)
    for first, second in zip(one["param_groups"], two["param_groups"], strict=True):
        assert json.dumps(first) == json.dumps(second)
    for model, steps in ((encoder, optimizer), (other, fresh)):
        torch.manual_seed(9)
        model.embed_query(torch.randn(4, 16)).square().sum().backward()
        steps.step()
    assert torch.equal(encoder.head.layers[-1].weight, other.head.layers[-1].weight)


def test_settings_must_be_the_same(
    saved: tuple[Path, IsotropicGaussianEncoder, torch.optim.AdamW, torch.Tensor], tiny_bert: str
) -> None:
    other, fresh = made(tiny_bert, 1)
    for changes in ({"seed": 2}, {"data": {"train": "x"}}, {"new": 3}, {"nothing": 0}):
        with pytest.raises(InputError, match=next(iter(changes))):
            load_state(saved[0], other, fresh, SETTINGS | changes)


def _truncate(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / name
        path.write_bytes(path.read_bytes()[:-40])

    return damage


def _edit(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        values = json.loads((folder / "state.json").read_text())
        change(values)
        (folder / "state.json").write_text(json.dumps(values))

    return damage


FILES = ("model", "best", "optimizer", "random")
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
def test_damage_is_one_sentence(
    name: str,
    saved: tuple[Path, IsotropicGaussianEncoder, torch.optim.AdamW, torch.Tensor],
    tiny_bert: str,
    tmp_path: Path,
) -> None:
    shutil.copytree(saved[0], tmp_path / "state")
    DAMAGE[name](tmp_path / "state")
    other, fresh = made(tiny_bert, 1)
    with pytest.raises(InputError) as caught:
        load_state(tmp_path / "state", other, fresh, dict(SETTINGS))
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "state") in str(caught.value)


def test_best_weights_of_another_shape_are_refused(
    saved: tuple[Path, IsotropicGaussianEncoder, torch.optim.AdamW, torch.Tensor], tiny_bert: str, tmp_path: Path
) -> None:
    """What would fail only after the last epoch is found at the start."""
    from safetensors.torch import save_file

    shutil.copytree(saved[0], tmp_path / "state")
    save_file({"other": torch.zeros(1)}, tmp_path / "state" / "best.safetensors")
    other, fresh = made(tiny_bert, 1)
    with pytest.raises(InputError):
        load_state(tmp_path / "state", other, fresh, dict(SETTINGS))


def test_no_pickle(saved: tuple[Path, IsotropicGaussianEncoder, torch.optim.AdamW, torch.Tensor]) -> None:
    assert {path.suffix for path in saved[0].iterdir()} == {".safetensors", ".json"}
