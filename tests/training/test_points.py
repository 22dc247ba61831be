"""Resume points: numbered, two of them kept, and a damaged one passed over with a warning."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from ragcun.config import TrainConfig
from ragcun.errors import InputError
from ragcun.training.loop import fit
from ragcun.training.saving import FitResult

Train = Callable[..., FitResult]
FILES = ("model.safetensors", "kept.safetensors", "optimizer.safetensors", "random.safetensors", "state.json")


@pytest.fixture
def train(collection_folder: Path, tiny_bert: str, tmp_path: Path) -> Train:
    """Train on 30 pairs in 4 batches an epoch, with a resume point after each."""

    def run(out: str, **changes: Any) -> FitResult:
        found: dict[str, Any] = {"train_data": str(collection_folder), "base_model": tiny_bert, "device": "cpu"}
        found |= {"epochs": 2, "batch_size": 8, "state_interval": 1, "dropout": 0.3, "log_interval": 1}
        return fit(TrainConfig(**found | {"output_dir": str(tmp_path / out)} | changes))

    return run


def points(run: Path) -> list[Path]:
    return sorted((run / "state").iterdir())


def step_of(point: Path) -> int:
    return int(json.loads((point / "state.json").read_text())["progress"]["step"])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def flip(path: Path) -> None:
    """Change one bit where safetensors holds numbers and notices nothing, or of a digit in JSON."""
    content = bytearray(path.read_bytes())
    content[content.index(b'"step": ') + 8 if path.suffix == ".json" else -9] ^= 1
    path.write_bytes(bytes(content))


def test_the_two_newest_are_kept(train: Train, tmp_path: Path) -> None:
    train("run")
    assert [path.name for path in points(tmp_path / "run")] == ["000007", "000008"]
    assert [step_of(path) for path in points(tmp_path / "run")] == [7, 8]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "damage", [cut, flip, os.unlink, lambda path: path.write_bytes(b"")], ids=["cut", "flipped", "missing", "empty"]
)
def test_a_damaged_newest_point_gives_way_to_the_one_before(
    train: Train,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
    name: str,
) -> None:
    """Named in a warning, gone after the next point, and the run ends as it would have."""
    train("run")
    before, newest = points(tmp_path / "run")
    expected = {file.name: load(file.read_bytes()) for file in newest.glob("*.safetensors")}
    damage(newest / name)
    with caplog.at_level(logging.INFO):
        train("run", resume=True)
    (warning,) = [
        each.message for each in caplog.records if each.levelno == logging.WARNING and "corrupt" in each.message
    ]
    assert str(newest) in warning
    assert str(before) in warning
    assert f"resuming from {before}: after step 7" in caplog.text
    left = points(tmp_path / "run")
    assert [step_of(path) for path in left] == [7, 8]
    assert newest not in left
    for file, tensors in expected.items():
        found = load((left[-1] / file).read_bytes())
        assert all(torch.equal(found[key], value) for key, value in tensors.items()), file


def test_all_points_damaged_is_one_sentence_and_a_point_of_other_settings_is_not_passed_over(
    train: Train, tmp_path: Path
) -> None:
    train("run")
    before, newest = points(tmp_path / "run")
    with pytest.raises(InputError, match=f"{newest.name} was made with seed = 42"):
        train("run", resume=True, seed=1)
    for point in (before, newest):
        cut(point / "model.safetensors")
    with pytest.raises(InputError, match=rf"{before.name} is corrupt .*; delete it or start with --overwrite"):
        train("run", resume=True)
    shutil.rmtree(tmp_path / "run" / "state")
    train("run", resume=True)


def test_what_may_change_on_resuming(train: Train) -> None:
    train("run")
    train("run", resume=True, on_nan="skip", max_skipped=3, state_interval=2, log_interval=5)


def test_an_unfinished_save_is_no_point_and_does_not_stay(train: Train, tmp_path: Path) -> None:
    train("run", epochs=1)
    half = tmp_path / "run" / "state" / ".000005.abcd_123.tmp"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    os.utime(half, (0, 0))
    shutil.rmtree(tmp_path / "run" / "state" / "000004")
    train("run", epochs=1, resume=True)
    assert [path.name for path in points(tmp_path / "run")] == ["000003", "000004"]
