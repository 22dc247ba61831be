"""TrainConfig: every setting once, and impossible ones refused."""

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ragcun import InputError, TrainConfig
from ragcun.cli.parser import parse_config
from ragcun.models.projection import QUERY_EMBEDDINGS
from ragcun.options import choices_of, from_mapping, read_yaml
from ragcun.training.step import EMA_SCHEDULES

COMMON = "--train_data T --val_data V --base_model B --output_dir O"
FOUNDING: list[tuple[str, str]] = [
    ("--no_normalize_embeddings", "normalize_embeddings: false, freeze_base: true"),
    ("--freeze_base False --base_learning_rate 1e-5", "freeze_base: false, freeze_early_layers: 0"),
    (
        "--freeze_early_layers --mixed_precision --log_interval 100 --save_interval 1",
        "freeze_early_layers: 4, freeze_base: false, mixed_precision: auto, save_interval: 1",
    ),
    ("--use_predictor --lambda_predictive 1.2 --lambda_contrastive 0", "use_predictor: true, lambda_contrastive: 0.0"),
    ("--lora_rank 2 --lora_layers 1", "freeze_base: false, freeze_early_layers: 0"),
    ("--no_freeze_base", "freeze_base: false, freeze_early_layers: 0, mixed_precision: 'no'"),
    ("--freeze_early_layers 2 --mixed_precision bf16", "freeze_early_layers: 2, mixed_precision: bf16"),
    ("--freeze_early_layers 0 --no_mixed_precision", "freeze_base: true, mixed_precision: 'no'"),
    ("--freeze_base --freeze_early_layers", "freeze_base: true, freeze_early_layers: 4"),
    ("--freeze_base False --freeze_early_layers", "freeze_base: false, freeze_early_layers: 4"),
]
"""Flags of the founding notes' commands that freeze, round or have a value by default, and what they set."""


@pytest.mark.parametrize(("line", "expected"), FOUNDING)
def test_founding_commands_parse_and_come_back_from_yaml(line: str, expected: str, tmp_path: Path) -> None:
    config = parse_config(TrainConfig, "Train.", f"{COMMON} {line}".split())
    for field, value in yaml.safe_load(f"{{{expected}}}").items():
        assert getattr(config, field) == value, field
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.to_dict(), sort_keys=False))
    assert from_mapping(TrainConfig, read_yaml(tmp_path / "config.yaml"), "file") == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_data": ""}, "--train_data is missing"),
        ({"train_data": {"query": "positive"}}, "--train_data = .* must be one text"),
        ({"epochs": np.float32(2.5)}, r"--epochs = .*2\.5.* must be a whole number"),
        ({"system": "nothing"}, "--system = 'nothing' .* must be one of "),
        ({"freeze_base": False, "base_dtype": "auto"}, "--base_dtype and --base_backend are for a frozen base"),
        ({"lora_rank": 1, "base_backend": "openvino"}, "--base_dtype and --base_backend are for a frozen base"),
        ({"freeze_early_layers": 1, "base_dtype": "bfloat16"}, "--base_dtype and --base_backend are for a frozen base"),
        ({"freeze_base": True, "lora_rank": 1}, "--lora_rank trains the base"),
        ({"freeze_early_layers": 1, "lora_rank": 1}, "--freeze_early_layers"),
        ({"max_grad_norm": float("nan")}, "= nan .* must be at least 0"),
        ({"dev_fraction": 0.1, "dev_beir": "x"}, "one of them"),
        ({"documents": "x"}, "one of them"),
        ({"ema_decay": 1.5}, r"= 1\.5 .* must be at most 1"),
        ({"resume": True, "overwrite": True}, "contradict"),
        ({"mined_first": 5, "mined_last": 5}, "--mined_last must be above --mined_first, 5, got 5"),
        ({"mine_every": 1, "mined_negatives": 0}, "--mine_every needs mined"),
        ({"mine_every": 1, "freeze_base": False}, "--mine_every needs mined"),
        ({"mine_every": 1, "contrastive": "kl"}, "--mine_every: .*teacher"),
        ({"average_decay": 1.0}, r"--average_decay = 1\.0 .* must be below 1"),
        ({"documents": "x", "train_data": None, "hold_out_documents": 0.1}, "not with --documents"),
        *(
            ({"lexical_dim": 8} | changes, "--lexical_dim needs a new and normalised base")
            for changes in ({"load_checkpoint": "x"}, {"normalize_embeddings": False})
        ),
        ({"vectors": "v", "base_model": "other"}, "--vectors and --base_model both"),
        ({"vectors": "v", "freeze_base": False}, "cannot be trained"),
        ({"vectors": "v", "corpus": "corpus.jsonl"}, "no vectors for --corpus"),
    ],
)
def test_impossible_settings(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        TrainConfig(**({"train_data": "t"} | changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (2e-5, 1e-3, 1e-3)),
        ({"learning_rate": 3.0}, (3.0, 3.0, 3.0)),
        ({"base_learning_rate": 5.0}, (5.0, 1e-3, 1e-3)),
        ({"predictor_learning_rate": 0.0}, (2e-5, 1e-3, 0.0)),
        ({"learning_rate": 3.0, "base_learning_rate": 0.0, "predictor_learning_rate": 6.0}, (0.0, 3.0, 6.0)),
    ],
)
def test_rates(given: dict[str, float], expected: tuple[float, float, float]) -> None:
    assert tuple(TrainConfig("t", **given).rates.values()) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "start", "mines"),
    [
        ({}, "calibrated", 4),
        ({"head": "mlp"}, "random", 4),
        ({"head": "mlp", "head_init": "calibrated"}, "calibrated", 4),
        ({"normalize_embeddings": False}, "identity", 4),
        ({"train_side": "document"}, "identity", 4),
        ({"train_side": "query", "head_init": "random"}, "random", 4),
        ({"contrastive": "margin"}, "calibrated", 0),
        ({"contrastive": "margin", "mined_negatives": 2}, "calibrated", 2),
        ({"freeze_base": False}, "calibrated", 0),
        ({"lora_rank": 2, "contrastive": "kl"}, "calibrated", 4),
        ({"mined_negatives": 0}, "calibrated", 0),
    ],
    ids=str,
)
def test_where_heads_start_and_what_is_mined(given: dict[str, Any], start: str, mines: int) -> None:
    config = TrainConfig("t", **given)
    assert (config.start, config.mines) == (start, mines)


def test_the_nearest_documents_may_be_answers_where_there_are_no_labels() -> None:
    labelled, free = TrainConfig("t", corpus="c"), TrainConfig(corpus="c")
    assert [(each.label_free, each.mined_ranks) for each in (labelled, free)] == [(False, (0, 100)), (True, (10, 100))]
    assert TrainConfig(corpus="c", mined_first=3, mined_last=5).mined_ranks == (3, 5)


def test_warm_up_is_a_tenth() -> None:
    assert [TrainConfig("t").warmup(total) for total in (1, 9, 10, 100, 999)] == [1, 1, 1, 10, 99]
    assert [TrainConfig("t", warmup_steps=steps).warmup(100) for steps in (0, 1000)] == [0, 1000]


@pytest.mark.parametrize(("name", "known"), [("query_embedding", QUERY_EMBEDDINGS), ("ema_schedule", EMA_SCHEDULES)])
def test_choices_are_what_is_registered(name: str, known: Collection[str]) -> None:
    field = next(field for field in dataclasses.fields(TrainConfig) if field.name == name)
    assert set(choices_of(field)) == set(known)
