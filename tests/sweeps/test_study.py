"""Running a sweep on the toy collection: what is run, what is kept, and going on after a kill."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from optuna.trial import FrozenTrial, TrialState

import ragcun.sweeps.study
from ragcun.config import TrainConfig
from ragcun.errors import InputError
from ragcun.sweeps.folder import SweepFolder
from ragcun.sweeps.read import read_space
from ragcun.sweeps.report import summarise
from ragcun.sweeps.rules import check_inputs
from ragcun.sweeps.study import run_sweep
from ragcun.training.loop import fit

KILLED = """
import os, signal, sys
import ragcun.sweeps.study as study
from ragcun.cli.sweep import parse_sweep, sweep
real, calls = study.fit, []
def fit(config):
    calls.append(config)
    if len(calls) == {call}:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(config)
study.fit = fit
sweep(parse_sweep(None))
"""


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[TrainConfig]:
    """Collect the configurations that are really trained."""
    seen: list[TrainConfig] = []

    def recorded(config: TrainConfig) -> Any:
        seen.append(config)
        return fit(config)

    monkeypatch.setattr(ragcun.sweeps.study, "fit", recorded)
    return seen


def run(path: Path, output: Path, trials: int | None = None, keep: bool = False, **how: bool) -> list[FrozenTrial]:
    space = read_space(path, trials)
    return run_sweep(space, SweepFolder(output, **how), check_inputs(space), keep)


def table(path: Path, output: Path, trials: list[FrozenTrial]) -> list[dict[str, Any]]:
    """Return all figures of the trials, times apart."""
    rows = summarise(read_space(path), trials, SweepFolder(output, resume=True))["rows"]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def test_the_grid_is_run_once_for_each_seed(
    write_sweep: Callable[..., Path], runs: list[TrainConfig], tmp_path: Path
) -> None:
    path = write_sweep()
    trials = run(path, tmp_path / "out")
    wanted = [
        (point["lambda_isotropy"], point["isotropy"], seed) for point in read_space(path).grid() for seed in (1, 2)
    ]
    assert [(config.lambda_isotropy, config.isotropy, config.seed) for config in runs] == wanted
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 6
    assert not (tmp_path / "out" / "runs").exists()
    assert run(path, tmp_path / "out", resume=True)[-1].number == 5
    assert len(runs) == 12


def test_scores_are_those_of_fit(write_sweep: Callable[..., Path], tmp_path: Path) -> None:
    path = write_sweep()
    trial = run(path, tmp_path / "out", trials=1, keep=True)[0]
    space = read_space(path)
    alone = [fit(space.config(trial.params, seed=seed, output_dir=str(tmp_path / f"{seed}"))) for seed in (1, 2)]
    assert trial.user_attrs["scores"] == [result.score for result in alone]
    assert trial.user_attrs["base_scores"] == [result.base_score for result in alone]
    assert trial.value == sum(trial.user_attrs["scores"]) / 2
    assert (tmp_path / "out" / "runs" / "trial-0000" / "seed-2" / "best_model").is_dir()


@pytest.mark.parametrize("sampler", ["grid", "tpe"])
def test_going_on_after_a_kill_equals_an_uninterrupted_sweep(
    write_sweep: Callable[..., Path], runs: list[TrainConfig], tmp_path: Path, sampler: str
) -> None:
    """Killed in the second seed of the third trial: two trials are kept, the third is run again from its start."""
    ranges = {"projection_learning_rate": {"low": 1e-3, "high": 1e-1, "log": True}}
    parts = {"base": {"projection_learning_rate": None}, "parameters": ranges} if sampler == "tpe" else {}
    path = write_sweep(**parts, sampler=sampler, trials=4)
    whole = table(path, tmp_path / "whole", run(path, tmp_path / "whole"))
    runs.clear()
    flags = ["--config", str(path), "--output_dir", str(tmp_path / "cut")]
    done = subprocess.run([sys.executable, "-c", KILLED.format(call=6), *flags], capture_output=True, check=False)
    assert done.returncode == -9, done.stderr
    assert (tmp_path / "cut" / "runs" / "trial-0002").is_dir()
    trials = run(path, tmp_path / "cut", resume=True)
    assert len(runs) == 4
    assert table(path, tmp_path / "cut", trials) == whole
    assert not (tmp_path / "cut" / "runs").exists()


def test_more_trials_go_on_from_those_there_are(
    write_sweep: Callable[..., Path], runs: list[TrainConfig], tmp_path: Path
) -> None:
    path = write_sweep(seeds=[1])
    run(path, tmp_path / "out", trials=2)
    assert len(run(path, tmp_path / "out", trials=3, resume=True)) == len(runs) == 3


def test_a_torn_last_line_is_dropped(write_sweep: Callable[..., Path], runs: list[TrainConfig], tmp_path: Path) -> None:
    path = write_sweep(seeds=[1])
    run(path, tmp_path / "out", trials=2)
    log = tmp_path / "out" / "study.log"
    log.write_bytes(log.read_bytes()[:-20])
    assert len(run(path, tmp_path / "out", trials=2, resume=True)) == 2
    assert len(runs) == 3
    assert len(run(path, tmp_path / "out", trials=2, resume=True)) == 2


def test_a_trial_that_diverges_is_recorded_and_passed_over(write_sweep: Callable[..., Path], tmp_path: Path) -> None:
    rates = {"projection_learning_rate": {"values": [1e30, 1e-2]}}
    path = write_sweep(base={"projection_learning_rate": None, "max_grad_norm": 0}, parameters=rates)
    failed, fine = run(path, tmp_path / "out")
    assert (failed.state, fine.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert "lower --learning_rate" in failed.user_attrs["message"]
    assert not (tmp_path / "out" / "runs").exists()


def test_other_errors_stop_the_sweep(
    write_sweep: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(config: TrainConfig) -> Any:
        raise OSError("no space left on device")

    monkeypatch.setattr(ragcun.sweeps.study, "fit", broken)
    with pytest.raises(OSError, match="no space left"):
        run(write_sweep(), tmp_path / "out")


def test_an_earlier_sweep_is_kept_unless_it_is_to_go(write_sweep: Callable[..., Path], tmp_path: Path) -> None:
    run(write_sweep(seeds=[1]), tmp_path / "out", trials=1)
    with pytest.raises(InputError, match="holds an earlier sweep"):
        run(write_sweep(seeds=[1]), tmp_path / "out", trials=1)
    with pytest.raises(InputError, match="another seeds than"):
        run(write_sweep(seeds=[2]), tmp_path / "out", trials=1, resume=True)
    trials = run(write_sweep(seeds=[2]), tmp_path / "out", trials=1, overwrite=True)
    assert len(trials) == len(trials[0].user_attrs["scores"]) == 1


def test_changed_data_are_another_sweep(write_sweep: Callable[..., Path], tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    lines = [f'{{"query": "word{i}", "positive": "word{i} word{i + 1}"}}\n' for i in range(20)]
    pairs.write_text("".join(lines))
    path = write_sweep(base={"train_data": str(pairs)}, seeds=[1])
    run(path, tmp_path / "out", trials=1)
    pairs.write_text("".join(lines[1:]))
    with pytest.raises(InputError, match="another data than"):
        run(path, tmp_path / "out", trials=2, resume=True)


def test_two_processes_do_not_share_a_sweep(write_sweep: Callable[..., Path], tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path / "out")
    with FileLock(folder.lock), pytest.raises(InputError, match="another process runs the sweep"):
        run(write_sweep(), tmp_path / "out")
