"""The folder of a run."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from ragcun.config import TrainConfig
from ragcun.errors import InputError
from ragcun.options import from_mapping, read_yaml
from ragcun.training.run_dir import PACKAGES, RunFolder, environment


def filled(path: Path) -> RunFolder:
    run = RunFolder.create(path)
    run.write_config({"epochs": 3})
    run.write_manifest({"seed": 1})
    run.log({"a": 1})
    run.loss_curve.write_bytes(b"x")
    for folder in (run.state, run.best_model, run.epoch_model(2), run.epoch_model(10)):
        folder.mkdir()
        (folder / "weights").write_text("w")
    (path / "epoch-notes.txt").write_text("mine")
    return run


def test_an_earlier_run_is_kept(tmp_path: Path) -> None:
    filled(tmp_path / "run")
    before = sorted((tmp_path / "run").rglob("*"))
    with pytest.raises(InputError, match="--resume, or --overwrite"):
        RunFolder.create(tmp_path / "run")
    RunFolder.create(tmp_path / "run", resume=True)
    assert sorted((tmp_path / "run").rglob("*")) == before


def test_overwriting_removes_the_run_and_nothing_else(tmp_path: Path) -> None:
    filled(tmp_path / "run")
    run = RunFolder.create(tmp_path / "run", overwrite=True)
    assert [path.name for path in run.path.iterdir()] == ["epoch-notes.txt"]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        RunFolder.create(tmp_path / "run")


def test_a_folder_with_other_things_is_used(tmp_path: Path) -> None:
    (tmp_path / "run" / "deep").mkdir(parents=True)
    assert RunFolder.create(tmp_path / "run").path.is_dir()
    assert RunFolder.create(tmp_path / "a" / "b" / "c").path.is_dir()


def test_metrics_are_lines_that_can_be_cut(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    assert run.count_rows() == 0
    run.keep_rows(0)
    for i in range(5):
        run.log({"step": i})
    assert run.count_rows() == 5
    run.keep_rows(3)
    run.log({"step": 9})
    assert [json.loads(line)["step"] for line in run.metrics.read_text().splitlines()] == [0, 1, 2, 9]


def test_a_torn_row_is_cut(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    run.log({"step": 0})
    with run.metrics.open("a") as file:
        file.write('{"ste')
    run.keep_rows(1)
    run.log({"step": 1})
    assert [json.loads(line)["step"] for line in run.metrics.read_text().splitlines()] == [0, 1]


def test_configuration_is_taken_again(tmp_path: Path) -> None:
    config = TrainConfig("daten/ü.jsonl", freeze_early_layers=2, learning_rate=1e-5, mixed_precision="no")
    run = RunFolder.create(tmp_path / "run")
    run.write_config(config.to_dict())
    assert from_mapping(TrainConfig, read_yaml(run.config), "saved") == config
    assert "ü" in run.config.read_text(encoding="utf-8")


def test_environment_says_what_decides_a_result() -> None:
    found = environment("cpu")
    assert found["device"] == "cpu"
    assert set(found["packages"]) == set(PACKAGES)
    assert found["packages"]["torch"].startswith("2.")
    assert json.loads(json.dumps(found)) == found
    here = Path(__file__).resolve().parent
    git = subprocess.run(["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if git.returncode == 0:
        assert found["git_commit"] == git.stdout.strip()
        assert isinstance(found["git_dirty"], bool)
