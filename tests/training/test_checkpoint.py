"""Resume points: everything comes back, two are kept, and a damaged one gives way to the one before."""

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from ragcun import InputError, IsotropicGaussianEncoder, TextBase
from ragcun.models.checkpoint import description_digest
from ragcun.training.checkpoint import CheckpointManager, Progress
from ragcun.training.weights import WeightAverage
from tests.training.runs import assert_equal, cut

SETTINGS: dict[str, Any] = {"seed": 1, "rate": 1e-5, "data": {"train": "abc"}, "nothing": None}
PROGRESS = Progress(epoch=2, batches_done=3, step=17, best_score=0.5, best_epoch=1, metric_rows=9, seconds=1.25)
PARTS = ("model", "average", "optimizer", "random")
FILES = (*(f"{part}.safetensors" for part in PARTS), "state.json")


class Run(NamedTuple):
    """What a resume point holds of a run."""

    encoder: IsotropicGaussianEncoder
    optimizer: torch.optim.AdamW
    average: WeightAverage

    def step(self, number: int) -> None:
        self.encoder.predictor(self.encoder.embed_query(torch.randn(4, 16))).square().sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update(number)

    def manager(self, folder: Path, scale: float = 1.0, **changes: Any) -> CheckpointManager:
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        return CheckpointManager(folder, SETTINGS | changes, *self, scaler)


Make = Callable[..., Run]


@pytest.fixture(scope="module")
def make(tiny_bert: str) -> Make:
    """Make an encoder and an optimiser that took three steps; the best weights are those of the second."""

    def run(seed: int, decay: float = 0.9, share: float = 0.3) -> Run:
        torch.manual_seed(seed)
        base = TextBase.load(tiny_bert, device="cpu")
        base.freeze(False, 2)
        encoder = IsotropicGaussianEncoder(base, output_dim=6, head="residual", use_predictor=True)
        groups = encoder.parameter_groups({"base": 1e-4, "head": 1e-3, "predictor": 1e-2}, 0.1)
        made = Run(encoder, torch.optim.AdamW(groups), WeightAverage(encoder, decay, share))
        for step in (1, 2):
            made.step(step)
        made.average.keep_best(encoder)
        made.step(3)
        return made

    return run


@pytest.fixture(scope="module")
def saved(make: Make, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run, Tensor]:
    """A folder with one point, what is in it, and the random numbers that come next."""
    run, folder = make(0), tmp_path_factory.mktemp("run") / "state"
    run.manager(folder, scale=2.0).save(PROGRESS)
    return folder, run, torch.rand(5)


def test_everything_comes_back(saved, make):
    folder, run, drawn = saved
    other = make(1)
    manager = other.manager(folder)
    assert manager.load() == PROGRESS
    assert torch.equal(torch.rand(5), drawn)
    assert manager.scaler.get_scale() == 2.0
    now = run.encoder.trained_state()
    for part in ("initial", "average", "best"):
        assert_equal(getattr(run.average, part), getattr(other.average, part))
        assert not all(torch.equal(value, now[name]) for name, value in getattr(run.average, part).items())
    one, two = run.optimizer.state_dict(), other.optimizer.state_dict()
    assert one["state"].keys() == two["state"].keys() != set()
    for index, values in one["state"].items():
        assert_equal(values, two["state"][index])
    assert json.dumps(one["param_groups"]) == json.dumps(two["param_groups"])
    assert_equal(run.encoder.state_dict(), other.encoder.state_dict())
    for each in (run, other):
        torch.manual_seed(9)
        each.step(4)
    assert_equal(run.encoder.state_dict(), other.encoder.state_dict())
    assert_equal(run.average.weights(), other.average.weights())


@pytest.mark.parametrize("changes", [{"seed": 2}, {"data": {"train": "x"}}, {"new": 3}, {"nothing": 0}], ids=str)
def test_settings_must_be_the_same(saved, make, changes):
    with pytest.raises(InputError, match=next(iter(changes))):
        make(1).manager(saved[0], **changes).load()


@pytest.mark.parametrize(("decay", "share"), [(0.0, 0.3), (0.9, 1.0), (0.0, 1.0)])
def test_a_run_that_averages_otherwise_does_not_load(saved, make, decay, share):
    with pytest.raises(InputError, match="is corrupt"):
        make(1, decay, share).manager(saved[0]).load()


def flip(path: Path) -> None:
    """Change one bit where safetensors holds numbers and notices nothing, or of a digit in JSON."""
    content = bytearray(path.read_bytes())
    content[content.index(b'"step": ') + 8 if path.suffix == ".json" else -9] ^= 1
    path.write_bytes(bytes(content))


def edit(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Return what changes the JSON of a point, and its checksum with it."""

    def damage(path: Path) -> None:
        values = json.loads(path.read_text())
        change(values)
        values["description_blake2b"] = description_digest(values)
        path.write_text(json.dumps(values))

    return damage


BYTES: dict[str, Callable[[Path], Any]] = {"cut": cut, "flipped": flip, "missing": os.unlink}
DAMAGE: dict[str, tuple[str, Callable[[Path], Any]]] = {
    **{f"{name} {how}": (name, damage) for name in FILES for how, damage in BYTES.items()},
    "no groups": ("state.json", edit(lambda values: values.pop("groups"))),
    "a group less": ("state.json", edit(lambda values: values["groups"].pop())),
    "unknown progress": ("state.json", edit(lambda values: values["progress"].update(more=1))),
    "null": ("state.json", lambda path: path.write_text("null")),
    "empty": ("model.safetensors", lambda path: path.write_bytes(b"")),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_point_gives_way_to_the_one_before_or_is_one_sentence(name, saved, make, tmp_path, caplog):
    """The one before is named in a warning, and the damaged one goes with the next save."""
    file, damage = DAMAGE[name]
    for number in ("000001", "000002"):
        shutil.copytree(saved[0] / "000001", tmp_path / number)
    manager = make(1).manager(tmp_path)
    damage(tmp_path / "000002" / file)
    with caplog.at_level(logging.INFO):
        assert manager.load() == PROGRESS
    (warning,) = [each.message for each in caplog.records if each.levelno == logging.WARNING]
    assert str(tmp_path / "000001") in warning
    assert str(tmp_path / "000002") in warning
    assert manager.save(PROGRESS).name == "000003"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000001", "000003"]
    for point in tmp_path.iterdir():
        damage(point / file)
    with pytest.raises(InputError, match=r"000001 is corrupt .*--overwrite") as caught:
        manager.load()
    assert "\n" not in str(caught.value)


def test_the_two_newest_are_kept_and_leftovers_of_a_killed_save_go(make, tmp_path):
    manager = make(0).manager(tmp_path)
    assert manager.load() is None
    half = tmp_path / ".000002.abcd_123.tmp"
    half.mkdir(parents=True)
    os.utime(half, (0, 0))
    for _ in range(3):
        manager.save(PROGRESS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000002", "000003"]
    assert {path.name for path in (tmp_path / "000003").iterdir()} == set(FILES)
