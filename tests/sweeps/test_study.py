"""A sweep of the toy collection: what is proposed and run, what resumes, and what the report says."""

import itertools
import operator
import shlex
import statistics
from typing import Any

import optuna
import pytest
from filelock import FileLock
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

import ragcun.sweeps.study
from ragcun import InputError, TrainConfig, fit
from ragcun.cli.parser import parse_config
from ragcun.sweeps.space import check_inputs, read_space
from ragcun.sweeps.study import importance, markdown, propose, run_sweep, summarise

WIDE = {
    "projection_learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
    "dropout": {"low": 0.0, "high": 0.3, "step": 0.1},
    "head_depth": {"low": 2, "high": 4},
    "activation": {"values": ["gelu", "relu", "tanh"]},
}
BASE = {"projection_learning_rate": None}


def finish(space, chosen):
    """Finish a trial with a score that is best near a rate of .01, without dropout; depth 4 fails."""
    score = -abs(chosen["projection_learning_rate"] - 0.01) - chosen["dropout"]
    outcome = {"state": TrialState.FAIL} if chosen["head_depth"] == 4 else {"value": score}
    return optuna.create_trial(params=chosen, distributions=space.parameters, **outcome)


def history(space, length):
    trials: list[FrozenTrial] = []
    while len(trials) < length and (chosen := propose(space, trials)) is not None:
        trials.append(finish(space, chosen))
    return trials


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_proposals_follow_the_seed(write_sweep, sampler):
    parts = {"base": BASE, "parameters": WIDE, "sampler": sampler, "trials": 15}
    first, again, other = (history(read_space(write_sweep(**parts, sampler_seed=seed)), 15) for seed in (3, 3, 4))
    assert [trial.params for trial in first] == [trial.params for trial in again]
    assert all(ours.params != theirs.params for ours, theirs in zip(first, other, strict=True))
    worse = [optuna.create_trial(params=t.params, distributions=t.distributions, value=-i) for i, t in enumerate(first)]
    space = read_space(write_sweep(**parts))
    assert (propose(space, worse) != propose(space, first)) == (sampler == "tpe"), "only tpe learns from the scores"


@pytest.mark.parametrize("sampler", ["grid", "random", "tpe"])
def test_every_configuration_comes_once(write_sweep, sampler):
    parameters = {"dropout": {"low": 0.0, "high": 0.1, "step": 0.1}, "head_depth": {"low": 2, "high": 4}}
    parameters |= {"projection_learning_rate": {"values": [0.01, 0.1]}}
    space = read_space(write_sweep(base=BASE, parameters=parameters, sampler=sampler, trials=99))
    tried = [tuple(trial.params.values()) for trial in history(space, 99)]
    assert sorted(tried) == sorted(itertools.product([0.0, 0.1], [2, 3, 4], [0.01, 0.1]))


@pytest.fixture
def runs(monkeypatch):
    """Collect the configurations that are really trained."""
    seen: list[TrainConfig] = []
    monkeypatch.setattr(ragcun.sweeps.study, "fit", lambda config: seen.append(config) or fit(config))
    return seen


def run(path, output, trials=None, keep=False):
    space = read_space(path, trials)
    output.mkdir(exist_ok=True)
    return run_sweep(space, output, check_inputs(space), keep)


def test_the_grid_is_run_once_for_each_seed(write_sweep, runs, tmp_path):
    path = write_sweep(parameters={"isotropy": {"values": ["covariance", "gor"]}})
    trials = run(path, tmp_path / "out")
    wanted = itertools.product(["covariance", "gor"], [1, 2])
    assert sorted((config.isotropy, config.seed) for config in runs) == list(wanted)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 2
    assert not (tmp_path / "out" / "runs").exists()
    assert len(run(path, tmp_path / "out")) == len(run(path, tmp_path / "out", trials=1)) == 2
    assert len(runs) == 4


@pytest.mark.slow
def test_an_interrupted_sweep_resumes_as_if_it_were_not(write_sweep, runs, monkeypatch, tmp_path):
    """Stopped in the second seed of the third trial, the journal's last line torn: that trial runs again, whole."""
    ranges = {"projection_learning_rate": {"low": 1e-3, "high": 1e-1, "log": True}}
    path = write_sweep(base=BASE, parameters=ranges, sampler="tpe", trials=3)

    def table(trials):
        rows = summarise(read_space(path), trials, tmp_path)["rows"]
        return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]

    whole = table(run(path, tmp_path / "whole"))
    recorded = ragcun.sweeps.study.fit

    def full(config):
        if len(runs) == 11:
            raise OSError("no space left on device")
        return recorded(config)

    monkeypatch.setattr(ragcun.sweeps.study, "fit", full)
    with pytest.raises(OSError, match="no space left"):
        run(path, tmp_path / "cut")
    with (tmp_path / "cut" / "study.log").open("ab") as log:
        log.write(b'{"op_code": 4, "worker')
    monkeypatch.setattr(ragcun.sweeps.study, "fit", recorded)
    assert table(run(path, tmp_path / "cut")) == whole
    assert len(runs) == 6 + 5 + 2
    assert not (tmp_path / "cut" / "runs").exists()


def test_a_trial_that_diverges_is_recorded_as_failed(write_sweep, tmp_path):
    rates = {"projection_learning_rate": {"values": [1e30, 1e-2]}}
    path = write_sweep(base=BASE | {"max_grad_norm": 0}, parameters=rates)
    failed, fine = sorted(run(path, tmp_path / "out"), key=lambda trial: -trial.params["projection_learning_rate"])
    assert (failed.state, fine.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert "lower --learning_rate" in failed.user_attrs["message"]


def test_other_settings_or_data_are_another_sweep(write_sweep, tmp_path):
    pairs = tmp_path / "pairs.jsonl"
    lines = [f'{{"query": "word{i}", "positive": "word{i} word{i + 1}"}}\n' for i in range(20)]
    pairs.write_text("".join(lines))
    parts = {"base": {"train_data": str(pairs)}}
    run(write_sweep(**parts, seeds=[1]), tmp_path / "out", trials=1)
    with pytest.raises(InputError, match="another seeds"):
        run(write_sweep(**parts, seeds=[2]), tmp_path / "out", trials=1)
    pairs.write_text("".join(lines[1:]))
    with pytest.raises(InputError, match="another data"):
        run(write_sweep(**parts, seeds=[1]), tmp_path / "out", trials=2)
    with FileLock(tmp_path / "out" / ".sweep.lock"), pytest.raises(InputError, match="another process"):
        run(write_sweep(), tmp_path / "out")


SCORES = [[0.2, 0.4], [0.5, 0.3], None, [0.6, 0.1], [0.4, 0.4], [0.1, 0.1]]
POINTS = list(itertools.product([0.0, 1.0, 10.0], ["covariance", "gor"]))


def test_the_report_by_hand(write_sweep, tmp_path):
    space = read_space(write_sweep(base={"output_dim": "none", "train_data": "my pairs.jsonl"}))
    study = optuna.create_study(direction="maximize")
    for point, scores in zip(POINTS, SCORES, strict=True):
        known: dict[str, Any] = {"state": TrialState.FAIL, "user_attrs": {"message": "diverged", "seconds": 1.0}}
        if scores is not None:
            figures = {"scores": scores, "base_scores": [0.3, 0.2], "best_epochs": [1, 0], "steps": 8, "seconds": 2.0}
            known = {"value": statistics.fmean(scores), "user_attrs": figures}
        chosen = dict(zip(space.parameters, point, strict=True))
        study.add_trial(optuna.create_trial(params=chosen, distributions=space.parameters, **known))
    trials = study.get_trials()
    figures = summarise(space, trials, tmp_path)
    best = figures["best"]
    assert [row["trial"] for row in figures["rows"]] == [1, 4, 3, 0, 5, 2], "largest mean first, equals as they ran"
    assert (figures["trials"], figures["failed"], figures["seconds"]) == (6, 1, 11.0)
    wanted = {"score": 0.4, "sd": statistics.stdev([0.5, 0.3]), "base_score": 0.25, "difference": 0.15}
    wanted |= {"difference_sd": statistics.stdev([0.5 - 0.3, 0.3 - 0.2])}
    assert {name: best[name] for name in wanted} == pytest.approx(wanted)

    words = shlex.split(best["command"])
    ours = space.config(trials[1].params, seed=1, output_dir=str(tmp_path / "best"))
    assert parse_config(TrainConfig, "", words[2:]) == TrainConfig(**best["settings"]) == ours

    rows = [line.split("|") for line in markdown(figures).splitlines() if line.startswith("|")]
    cells = {row[1].strip(): [cell.strip() for cell in row[2:-1]] for row in rows}
    assert cells["1"] == ["0", "gor", "0.4000 ± 0.1414", "0.2500", "+0.1500 ± 0.0707", "1, 0"]
    assert cells["2"] == ["1", "covariance", "failed", "–", "–", "–"]
    assert {str(trial.number) for trial in trials} <= cells.keys()
    assert "- 2: diverged" in markdown(figures)

    nothing = summarise(space, trials[2:3], tmp_path)
    assert (nothing["best"], nothing["importance"]) == (None, None)
    assert "diverged" in markdown(nothing)


def test_importance_is_the_share_of_variance():
    """Of a weighted sum each part has the variance weight²·2/3, so its share is weight² / Σ weight²."""
    each = CategoricalDistribution((-1.0, 0.0, 1.0))
    for weights, wanted in (((1.0, 3.0), {"b": 0.9, "a": 0.1}), ((0.0, 0.0), None)):
        grid = [
            optuna.create_trial(
                params=dict(zip("ab", point, strict=True)), distributions=dict.fromkeys("ab", each),
                value=sum(map(operator.mul, weights, point)),
            )
            for point in itertools.product(each.choices, repeat=2)
        ]  # fmt: skip
        found = importance(grid)
        assert found == (wanted and pytest.approx(wanted, abs=0.05))
