"""The report: its figures by hand, its best settings, and importances whose truth is known."""

from __future__ import annotations

import itertools
import shlex
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from ragcun.cli.parser import parse_config
from ragcun.config import TrainConfig
from ragcun.sweeps.folder import SweepFolder
from ragcun.sweeps.propose import distributions
from ragcun.sweeps.read import read_space
from ragcun.sweeps.report import importance, markdown, summarise
from ragcun.sweeps.space import Space

SCORES = [[0.2, 0.4], [0.5, 0.3], None, [0.6, 0.1], [0.4, 0.4], [0.1, 0.1]]


@pytest.fixture
def space(write_sweep: Callable[..., Path]) -> Space:
    return read_space(write_sweep(base={"output_dim": "none", "freeze_base": True, "train_data": "my pairs.jsonl"}))


@pytest.fixture
def trials(space: Space) -> list[FrozenTrial]:
    """Six trials with known scores; the third one failed."""
    study = optuna.create_study(direction="maximize")
    for chosen, scores in zip(space.grid(), SCORES, strict=True):
        known: dict[str, Any] = {"state": TrialState.FAIL, "user_attrs": {"message": "diverged", "seconds": 1.0}}
        if scores is not None:
            figures = {"scores": scores, "base_scores": [0.3, 0.2], "best_epochs": [1, 0], "steps": 8, "seconds": 2.0}
            known = {"value": statistics.fmean(scores), "user_attrs": figures}
        study.add_trial(optuna.create_trial(params=chosen, distributions=distributions(space), **known))
    return study.get_trials()


def test_the_best_is_the_largest_mean_the_first_of_equals(
    space: Space, trials: list[FrozenTrial], tmp_path: Path
) -> None:
    figures = summarise(space, trials, SweepFolder(tmp_path / "out"))
    means = [-1.0 if scores is None else sum(scores) / 2 for scores in SCORES]
    first = max(range(len(means)), key=means.__getitem__)
    best = figures["best"]
    assert (best["trial"], best["parameters"]) == (first, space.grid()[first])
    assert best["score"] == pytest.approx(0.4)
    assert best["sd"] == pytest.approx(statistics.stdev([0.5, 0.3]))
    assert best["base_score"] == pytest.approx(0.25)
    assert best["difference"] == pytest.approx(0.15)
    assert best["difference_sd"] == pytest.approx(statistics.stdev([0.5 - 0.3, 0.3 - 0.2]))
    assert [row["trial"] for row in figures["rows"]] == [1, 4, 3, 0, 5, 2]
    assert (figures["trials"], figures["failed"], figures["seconds"]) == (6, 1, 11.0)


def test_the_markdown_shows_every_trial(space: Space, trials: list[FrozenTrial], tmp_path: Path) -> None:
    text = markdown(summarise(space, trials, SweepFolder(tmp_path / "out")))
    rows = [line.split("|") for line in text.splitlines() if line.startswith("|")]
    cells = {row[1].strip(): [cell.strip() for cell in row[2:-1]] for row in rows}
    assert cells["1"] == ["0", "gor", "0.4000 ± 0.1414", "0.2500", "+0.1500 ± 0.0707", "1, 0"]
    assert cells["2"] == ["1", "covariance", "failed", "–", "–", "–"]
    assert {str(trial.number) for trial in trials} <= cells.keys()
    assert "- 2: diverged" in text
    assert "6 configurations (1 failed), sampler grid, seeds 1, 2, 11 s" in text


def test_the_command_and_the_settings_are_the_best_run(space: Space, trials: list[FrozenTrial], tmp_path: Path) -> None:
    best = summarise(space, trials, SweepFolder(tmp_path / "out"))["best"]
    words = shlex.split(best["command"])
    assert words[:2] == ["python", "scripts/train.py"]
    ours = space.config(trials[1].params, seed=1, output_dir=str(tmp_path / "out" / "best"))
    assert parse_config(TrainConfig, "", words[2:]) == TrainConfig(**best["settings"]) == ours


def test_nothing_succeeded(space: Space, trials: list[FrozenTrial], tmp_path: Path) -> None:
    figures = summarise(space, trials[2:3], SweepFolder(tmp_path / "out"))
    assert (figures["best"], figures["importance"]) == (None, None)
    assert "No configuration succeeded." in markdown(figures)


def known_trials(weights: dict[str, float]) -> list[FrozenTrial]:
    """Return a full grid of −1, 0, 1 for each parameter, the score being the weighted sum."""
    study = optuna.create_study(direction="maximize")
    each = optuna.distributions.CategoricalDistribution((-1.0, 0.0, 1.0))
    for point in itertools.product((-1.0, 0.0, 1.0), repeat=len(weights)):
        chosen = dict(zip(weights, point, strict=True))
        score = sum(weights[name] * value for name, value in chosen.items())
        study.add_trial(optuna.create_trial(params=chosen, distributions=dict.fromkeys(weights, each), value=score))
    return study.get_trials()


def test_importance_is_the_share_of_variance() -> None:
    """Of a weighted sum each part has the variance weight²·2/3, so its share is weight² / Σ weight²."""
    shares = importance(known_trials({"a": 1.0, "b": 3.0, "c": 0.0}))
    assert shares is not None
    assert list(shares) == ["b", "a", "c"]
    assert shares == pytest.approx({"b": 0.9, "a": 0.1, "c": 0.0}, abs=0.05)
    assert shares == importance(known_trials({"a": 1.0, "b": 3.0, "c": 0.0}))


def test_importance_needs_different_scores() -> None:
    assert importance(known_trials({"a": 0.0, "b": 0.0})) is None
