"""The file of a sweep: every mistake is found before anything runs, and named with the file."""

import dataclasses
from pathlib import Path

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from ragcun import InputError, TrainConfig
from ragcun.options import choices_of
from ragcun.sweeps.space import read_space

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs" / "sweeps").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_shipped_sweeps_are_valid(path):
    assert read_space(path).parameters
    assert f"ragcun sweep --config configs/sweeps/{path.name} --output_dir" in path.read_text()


def test_values_take_their_fields_type(write_sweep):
    parameters = {
        "output_dim": {"values": ["8", None]},
        "freeze_early_layers": {"values": [True, 0]},
        "projection_learning_rate": {"low": "1e-4", "high": 1, "log": True},
        "dropout": {"low": 0, "high": 0.3, "step": "1e-1"},
        "epochs": {"low": "1", "high": 3},
    }
    base = {"epochs": None, "projection_learning_rate": None, "temperature": "5e-2"}
    space = read_space(write_sweep(base=base, sampler="random", trials=5, parameters=parameters))
    assert space.base["temperature"] == 0.05
    assert space.parameters == {
        "output_dim": CategoricalDistribution((8, None)),
        "freeze_early_layers": CategoricalDistribution((4, 0)),
        "projection_learning_rate": FloatDistribution(1e-4, 1.0, log=True),
        "dropout": FloatDistribution(0.0, 0.3, step=0.1),
        "epochs": IntDistribution(1, 3),
    }


def test_every_setting_with_choices_can_be_varied_and_pairs_judge_what_is_not_of_the_objective(write_sweep):
    fields = [field for field in dataclasses.fields(TrainConfig) if choices_of(field)]
    assert fields
    entries = {field.name: {"values": list(choices_of(field))} for field in fields}
    assert read_space(write_sweep(parameters=entries)).parameters.keys() == entries.keys()
    base = JUDGED_BY_PAIRS | {"epochs": None}
    assert read_space(write_sweep(base=base, parameters={"epochs": {"values": [1, 2]}})).parameters


ACROSS = {"train_data": {"values": ["a", "b"]}}
WEIGHTS = {"lambda_isotropy": {"values": [1.0, 2.0]}}
JUDGED_BY_PAIRS = {"dev_beir": None, "val_data": "val.jsonl"}


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"lamda_isotropy": {"values": [1]}}, ["lamda_isotropy", "'lambda_isotropy'"]),
        ({"epochs": {"values": [1, 1.5]}}, ["epochs", "1.5", "whole number"]),
        ({"dropout": {"values": [0.1], "low": 0}}, ["dropout", "low", "{low, high, step}"]),
        ({"dropout": {"low": 0.1, "high": 0.2, "step": 0.1, "log": True}}, ["dropout", "step", "log"]),
        ({"dropout": {"low": 0.1, "hihg": 0.2}}, ["dropout", "high"]),
        ({"dropout": {"low": 0.0, "high": 0.25, "step": 0.1}}, ["dropout", "0.25", "0.1"]),
        ({"head_depth": {"low": 2, "high": 4, "step": 0.5}}, ["head_depth", "0.5"]),
        ({"dropout": {"low": 0.1, "high": 0.2, "log": "yes please"}}, ["dropout", "log", "yes please"]),
        ({"dropout": {"low": 0.1, "high": 0.2}}, ["dropout", "grid", "step"]),
        ({"dropout": {"values": [0.1, "1e-1"]}}, ["dropout", "twice"]),
        ({"dropout": [0.1]}, ["dropout", "{low, high, step}"]),
        ({"isotropy": {"low": "covariance", "high": "gor"}}, ["isotropy", "covariance", "values"]),
        ({"output_dim": {"low": None, "high": 8}}, ["output_dim", "None", "values"]),
        ({"device": {"values": ["cpu"]}}, ["device", "base"]),
        ({"seed": {"values": [1]}}, ["seed", "seeds"]),
        ({"dev_fraction": {"values": [0.1]}}, ["dev_fraction", "same for all"]),
        ({}, ["parameters"]),
    ],
)
def test_wrong_parameters_are_named(write_sweep, parameters, named):
    fails_naming(write_sweep(base={"epochs": None}, parameters=parameters), named)


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        ({"paramters": {}}, ["paramters"]),
        ({"sampler": "bayes"}, ["grid, random, tpe"]),
        ({"sampler": "tpe"}, ["tpe", "trials"]),
        ({"direction": "minimise"}, ["maximise"]),
        ({"study": None}, ["study"]),
        ({"seeds": [1, 1]}, ["seeds"]),
        ({"seeds": 3}, ["seeds"]),
        ({"base": {"train_data": None}}, ["--train_data"]),
        ({"base": {"output_dir": "x"}}, ["base", "output_dir"]),
        ({"base": {"dev_beir": None}}, ["dev_beir, dev_fraction or val_data"]),
        # never chosen by test or training data
        ({"base": {"dev_split": "test"}}, ["dev_split", "test queries"]),
        ({"base": {"dev_split": "Test"}}, ["dev_split", "test queries"]),
        ({"base": {"dev_split": "train"}}, ["dev_split", "training queries"]),
        ({"base": {"dev_beir": None, "train_data": "p.jsonl", "val_data": "./p.jsonl"}}, ["val_data", "training data"]),
        # never by scores that differ in what they measure
        ({"base": JUDGED_BY_PAIRS, "parameters": WEIGHTS}, ["lambda_isotropy", "objective"]),
        ({"base": JUDGED_BY_PAIRS, "parameters": {"temperature": {"values": [1.0, 2.0]}}}, ["temperature"]),
        ({"base": {"dev_beir": None, "dev_fraction": 0.2, "train_data": None}, "parameters": ACROSS}, ["use dev_beir"]),
    ],
)
def test_wrong_parts_are_named(write_sweep, parts, named):
    fails_naming(write_sweep(**parts), named)


def fails_naming(path, named):
    with pytest.raises(InputError) as raised:
        read_space(path)
    assert str(raised.value).startswith(str(path))
    assert [part for part in named if part not in str(raised.value)] == [], str(raised.value)
