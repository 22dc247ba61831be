"""Every file in configs/ runs through train.py as it is, paths and sizes apart."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ragcun.config import TrainConfig
from ragcun.data.beir import load_collection, pairs_from_collection
from ragcun.data.pairs import write_pairs
from ragcun.models.encoder import RetrievalEncoder

FOLDER = Path(__file__).resolve().parents[2] / "configs"
CONFIGS = sorted([*FOLDER.glob("*.yaml"), *FOLDER.glob("strategies/*.yaml")])
PATHS = ("train_data", "val_data", "dev_beir", "base_model", "output_dir", "load_checkpoint")
SMALLER = ("epochs", "mixed_precision", "freeze_early_layers")
"""What a tiny model on a CPU cannot do as the files say."""
ORIGINAL = [path for path in CONFIGS if path.stem != "quickstart"]
WITHOUT_OURS = {
    "normalize_output": False,
    "mined_negatives": 0,
    "positives_per_query": 0,
    "trained_share": 1.0,
    "average_decay": 0.0,
}


@pytest.fixture
def train(run_script: Any, tmp_path: Path, tiny_bert: str, collection_folder: Path) -> Callable[..., dict[str, Any]]:
    """Train by a file of settings, with the tiny model and pairs in place of its own; return the settings written."""
    pairs = tmp_path / "pairs.jsonl"
    write_pairs(pairs, pairs_from_collection(load_collection(collection_folder, "train")).rows())

    def run(path: Path, **more: Any) -> dict[str, Any]:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        pairs_file = settings["train_data"].endswith((".json", ".jsonl"))
        elsewhere = {"base_model": tiny_bert, "output_dir": tmp_path / path.stem, "epochs": 1, "mixed_precision": "no"}
        given = {"val_data": pairs, "dev_beir": collection_folder, "freeze_early_layers": 1}
        elsewhere |= {name: value for name, value in given.items() if name in settings}
        elsewhere["train_data"] = pairs if pairs_file else collection_folder
        flags = [part for name, value in (elsewhere | more).items() for part in (f"--{name}", value)]
        run_script("train", "--config", path, *flags)
        written: dict[str, Any] = yaml.safe_load((tmp_path / path.stem / "config.yaml").read_text(encoding="utf-8"))
        for name, value in settings.items():
            if name not in (*PATHS, *SMALLER):
                assert written[name] == value
        assert json.loads((tmp_path / path.stem / "manifest.json").read_text())["status"] == "finished"
        return settings

    return run


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_configuration_trains(path: Path, train: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    before = yaml.safe_load(path.read_text(encoding="utf-8")).get("load_checkpoint")
    more = {}
    if before is not None:
        first = Path(before).parent.name
        train(path.with_name(f"{first}.yaml"))
        more = {"load_checkpoint": tmp_path / first / "best_model"}
    settings = train(path, **more)
    encoder = RetrievalEncoder.from_pretrained(tmp_path / path.stem / "best_model")
    assert encoder.system == settings.get("system", TrainConfig("t").system)


@pytest.mark.parametrize("path", ORIGINAL, ids=lambda path: path.stem)
def test_the_original_systems_do_not_follow_the_defaults(path: Path) -> None:
    """They have none of what runs do by default."""
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert {name: settings[name] for name in WITHOUT_OURS} == WITHOUT_OURS
    assert {"system", "head", "epochs", "lambda_contrastive", "lambda_isotropy"} <= settings.keys()
    config = TrainConfig(**settings)
    assert config.start == "random"
    if config.lambda_contrastive and config.contrastive == "infonce":
        assert {"temperature", "symmetric", "soft_targets"} <= settings.keys()


def test_the_quickstart_has_the_defaults_alone() -> None:
    (path,) = [path for path in CONFIGS if path.stem == "quickstart"]
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert set(settings) == {"train_data", "dev_beir", "dev_split", "output_dir"}
