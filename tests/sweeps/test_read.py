"""Reading a sweep's file: every mistake is found before anything runs, by the sentence that mends it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ragcun.config import TrainConfig
from ragcun.errors import InputError
from ragcun.sweeps.read import read_space
from ragcun.sweeps.space import Parameter

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs" / "sweeps").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_shipped_sweeps_are_valid(path: Path) -> None:
    space = read_space(path)
    assert space.limit > 1
    assert f"python scripts/sweep.py --config configs/sweeps/{path.name} --output_dir" in path.read_text()


def test_there_is_a_sweep_for_each_of_the_four_phases_and_for_lambda() -> None:
    assert [path.stem.split("_")[0] for path in CONFIGS] == ["lambda", "phase1", "phase2", "phase3", "phase4"]


def test_the_grid_is_the_product(write_sweep: Callable[..., Path]) -> None:
    parameters = {
        "lambda_isotropy": {"values": [0, "1e-1"]},
        "head_depth": {"low": 2, "high": 4},
        "dropout": {"low": 0.0, "high": 0.3, "step": 0.1},
        "normalize_embeddings": {"values": [True, False]},
    }
    space = read_space(write_sweep(parameters=parameters))
    wanted = itertools.product([0.0, 0.1], [2, 3, 4], [0.0, 0.1, 0.2, 0.3], [True, False])
    assert space.grid() == [dict(zip(parameters, point, strict=True)) for point in wanted]
    assert space.limit == 48


def test_values_take_their_fields_type(write_sweep: Callable[..., Path]) -> None:
    listed = {"output_dim": {"values": ["8", None]}, "freeze_early_layers": {"values": [True, 0]}}
    ranges = {"projection_learning_rate": {"low": "1e-4", "high": 1, "log": True}, "epochs": {"low": "1", "high": 3}}
    space = read_space(
        write_sweep(
            base={"epochs": None, "projection_learning_rate": None, "temperature": "5e-2"},
            sampler="random",
            trials=5,
            parameters=listed | ranges,
        )
    )
    assert space.parameters["output_dim"].values == (8, None)
    assert space.parameters["freeze_early_layers"].values == (4, 0)
    assert space.parameters["projection_learning_rate"] == Parameter(None, 1e-4, 1.0, None, True)
    assert space.parameters["epochs"].values == (1, 2, 3)
    assert space.base["temperature"] == 0.05
    assert space.limit == 5


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"lamda_isotropy": {"values": [1]}}, "parameters: unknown setting 'lamda_isotropy'; did you mean 'lambda_iso"),
        ({"head": {"values": ["residual", "conv"]}}, "head = 'conv' is not possible: must be one of residual, linear"),
        ({"epochs": {"values": [1, 1.5]}}, "epochs = 1.5 is not possible: must be a whole number"),
        ({"epochs": {"values": [3, 0]}}, "--epochs must be at least 1, got 0"),
        ({"dropout": {"low": 0.1}}, "parameters, dropout: must be {values"),
        ({"dropout": {"values": [0.1], "low": 0}}, "parameters, dropout: must be {values"),
        ({"dropout": {"low": 0.1, "high": 0.2, "step": 0.1, "log": True}}, "parameters, dropout: must be {values"),
        ({"dropout": {"low": 0.1, "hihg": 0.2}}, "unknown name 'hihg'; did you mean 'high'"),
        ({"dropout": {"low": 0.3, "high": 0.1, "step": 0.1}}, "dropout needs low below high"),
        ({"dropout": {"low": 0.0, "high": 0.25, "step": 0.1}}, "does not reach 0.25 from 0.0 in steps of 0.1"),
        ({"dropout": {"low": 0.0, "high": 0.2, "step": -0.1}}, "needs a step above 0"),
        ({"dropout": {"low": 0.0, "high": 0.2, "step": "big"}}, "has step 'big', which is not possible"),
        ({"head_depth": {"low": 2, "high": 4, "step": 0.5}}, "has step 0.5, which is not possible"),
        ({"dropout": {"low": 0.0, "high": 0.2, "log": True}}, "needs low above 0"),
        ({"dropout": {"low": 0.1, "high": 0.2, "log": "yes please"}}, "log must be true or false"),
        ({"dropout": {"low": 0.1, "high": 0.2}}, "sampler grid cannot list dropout"),
        ({"dropout": {"values": []}}, "at least one value"),
        ({"dropout": {"values": [0.1, "1e-1"]}}, "lists a value twice"),
        ({"dropout": [0.1]}, "parameters, dropout: must hold {values"),
        ({"isotropy": {"low": "covariance", "high": "gor"}}, "is not a number; list its values"),
        ({"output_dim": {"low": None, "high": 8}}, "is not a number; list its values"),
        ({"device": {"values": ["cpu"]}}, "device is under base and under parameters"),
        ({"seed": {"values": [1]}}, "seed is set by the sweep: list the seeds under seeds"),
        ({"dev_fraction": {"values": [0.1]}}, "dev_fraction must be the same for all"),
        ({}, "parameters: must hold settings"),
    ],
)
def test_wrong_parameters_are_named_with_the_remedy(
    write_sweep: Callable[..., Path], parameters: dict[str, Any], message: str
) -> None:
    path = write_sweep(base={"epochs": None}, parameters=parameters)
    with pytest.raises(InputError) as raised:
        read_space(path)
    assert message in str(raised.value)
    assert str(raised.value).startswith(str(path))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"paramters": {}}, "unknown name 'paramters'; did you mean 'parameters'"),
        ({"sampler": "bayes"}, "must be one of grid, random, tpe"),
        ({"sampler": "tpe"}, "sampler tpe needs a number of trials"),
        ({"trials": 0}, "trials must be at least 1"),
        ({"direction": "minimise"}, "must be one of maximise"),
        ({"study": None}, "study is missing"),
        ({"seeds": [1, 1]}, "different numbers"),
        ({"seeds": 3}, "different numbers"),
        ({"seeds": [-1]}, "--seed must be at least 0"),
        ({"base": {"epochs": 0}}, "base: --epochs must be at least 1"),
        ({"base": {"dev_fraction": 0.1}}, "--dev_fraction and --dev_beir both name a dev set"),
        ({"base": {"train_data": None}}, "--train_data is missing"),
        ({"base": {"epoch": 3}}, "base: unknown setting 'epoch'; did you mean 'epochs'"),
        ({"base": {"output_dir": "x"}}, "base: output_dir is set by the sweep"),
    ],
)
def test_wrong_parts_are_named_with_the_remedy(
    write_sweep: Callable[..., Path], parts: dict[str, Any], message: str
) -> None:
    path = write_sweep(**parts)
    with pytest.raises(InputError) as raised:
        read_space(path)
    assert message in str(raised.value)
    assert str(raised.value).startswith(str(path))


def test_dev_data_is_needed(write_sweep: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="no dev data to choose by; add dev_beir, dev_fraction or val_data"):
        read_space(write_sweep(base={"dev_beir": None}))


@pytest.mark.parametrize("split", ["test", "Test"])
def test_the_test_split_is_refused(write_sweep: Callable[..., Path], split: str) -> None:
    with pytest.raises(InputError, match="would choose settings by the test queries"):
        read_space(write_sweep(base={"dev_split": split}))


def test_training_data_are_no_judge(write_sweep: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="would choose by the training queries"):
        read_space(write_sweep(base={"dev_split": "train"}))
    pairs = {"dev_beir": None, "train_data": "p.jsonl", "val_data": "./p.jsonl"}
    with pytest.raises(InputError, match="val_data is the training data"):
        read_space(write_sweep(base=pairs))


def test_the_objective_judges_only_what_does_not_change_it(write_sweep: Callable[..., Path]) -> None:
    base = {"dev_beir": None, "val_data": "val.jsonl", "epochs": None}
    assert read_space(write_sweep(base=base, parameters={"epochs": {"values": [1, 2]}})).limit == 2
    for name in ("lambda_isotropy", "temperature"):
        with pytest.raises(InputError, match=f"{name} changes the objective"):
            read_space(write_sweep(base=base, parameters={name: {"values": [1.0, 2.0]}}))


def test_held_out_queries_do_not_come_from_varied_data(write_sweep: Callable[..., Path]) -> None:
    base = {"dev_beir": None, "dev_fraction": 0.2, "train_data": None}
    with pytest.raises(InputError, match="use dev_beir instead"):
        read_space(write_sweep(base=base, parameters={"train_data": {"values": ["a", "b"]}}))


def test_every_setting_with_choices_can_be_varied(write_sweep: Callable[..., Path]) -> None:
    fields = [field for field in dataclasses.fields(TrainConfig) if field.metadata["choices"]]
    assert fields
    for field in fields:
        choices = list(field.metadata["choices"])
        assert [*read_space(write_sweep(parameters={field.name: {"values": choices}})).grid()] == [
            {field.name: choice} for choice in choices
        ]
