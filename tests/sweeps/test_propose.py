"""Proposals: the whole grid, the same for the same seed, and no configuration twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from ragcun.sweeps.propose import distributions, propose
from ragcun.sweeps.read import read_space
from ragcun.sweeps.space import Space

WIDE = {
    "projection_learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
    "dropout": {"low": 0.0, "high": 0.3, "step": 0.1},
    "head_depth": {"low": 2, "high": 4},
    "activation": {"values": ["gelu", "relu", "tanh"]},
}
BASE = {"projection_learning_rate": None}


def finish(space: Space, chosen: dict[str, Any]) -> FrozenTrial:
    """Finish a trial with a score that is best near a rate of .01, without dropout; depth 4 fails."""
    if chosen["head_depth"] == 4:
        return optuna.create_trial(state=TrialState.FAIL, params=chosen, distributions=distributions(space))
    score = -abs(chosen["projection_learning_rate"] - 0.01) - chosen["dropout"]
    return optuna.create_trial(value=score, params=chosen, distributions=distributions(space))


def history(space: Space, length: int) -> list[FrozenTrial]:
    trials: list[FrozenTrial] = []
    while len(trials) < length and (chosen := propose(space, trials)) is not None:
        trials.append(finish(space, chosen))
    return trials


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_the_same_seed_makes_the_same_proposals(write_sweep: Callable[..., Path], sampler: str) -> None:
    parts = {"base": BASE, "parameters": WIDE, "sampler": sampler, "trials": 15}
    runs = [
        [trial.params for trial in history(read_space(write_sweep(**parts, sampler_seed=seed)), 15)]
        for seed in (3, 3, 4)
    ]
    assert runs[0] == runs[1]
    assert all(ours != theirs for ours, theirs in zip(runs[0], runs[2], strict=True))


def test_proposals_lie_in_the_space(write_sweep: Callable[..., Path]) -> None:
    space = read_space(write_sweep(base=BASE, parameters=WIDE, sampler="random", trials=30))
    for trial in history(space, 30):
        assert 1e-4 <= trial.params["projection_learning_rate"] <= 1e-1
        assert trial.params["dropout"] in (0.0, 0.1, 0.2, 0.3)
        assert trial.params["head_depth"] in (2, 3, 4)
        assert trial.params["activation"] in ("gelu", "relu", "tanh")
        assert list(trial.params) == list(WIDE)


def test_tpe_learns_from_the_trials(write_sweep: Callable[..., Path]) -> None:
    """After its random start TPE proposes rates near the best (.01) and small dropout more often than chance."""
    means = {}
    for sampler in ("random", "tpe"):
        space = read_space(write_sweep(base=BASE, parameters=WIDE, sampler=sampler, trials=40))
        scores = [trial.value for trial in history(space, 40)[20:] if trial.value is not None]
        means[sampler] = sum(scores) / len(scores)
    assert means["tpe"] > means["random"] / 2


@pytest.mark.parametrize("sampler", ["grid", "random", "tpe"])
def test_every_configuration_comes_once(write_sweep: Callable[..., Path], sampler: str) -> None:
    parameters = {"dropout": {"low": 0.0, "high": 0.1, "step": 0.1}, "head_depth": {"low": 2, "high": 4}}
    parameters |= {"projection_learning_rate": {"values": [0.01, 0.1]}}
    space = read_space(write_sweep(base=BASE, parameters=parameters, sampler=sampler, trials=99))
    tried = [trial.params for trial in history(space, 99)]
    assert len(tried) == space.limit == 12
    assert sorted(map(str, tried)) == sorted(map(str, space.grid()))
