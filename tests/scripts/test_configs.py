"""Every packaged configuration runs by its name through train.py as it is, paths and sizes apart."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ragcun import InputError, RetrievalEncoder, TrainConfig
from ragcun.data.beir import load_collection, pairs_from_collection
from ragcun.data.pairs import write_pairs
from ragcun.options import CONFIGS, find_config, read_config
from tests.training.runs import PLAIN

NAMES = sorted(
    path.relative_to(CONFIGS).with_suffix("").as_posix()
    for pattern in ("*.yaml", "strategies/*.yaml")
    for path in CONFIGS.glob(pattern)
)
PATHS = ("train_data", "val_data", "dev_beir", "base_model", "output_dir", "load_checkpoint")
SMALLER = ("epochs", "mixed_precision", "freeze_early_layers")
"""What a tiny model on a CPU cannot do as the files say."""
ORIGINAL = [name for name in NAMES if name != "quickstart"]
PROMISED = {"best_model", "config.yaml", "manifest.json", "metrics.jsonl", "loss_curve.png", "state"}
OURS = ("normalize_output", "mined_negatives", "positives_per_query", "trained_share", "average_decay")


@pytest.fixture
def train(run_script: Any, tmp_path: Path, tiny_bert: str, collection_folder: Path) -> Callable[..., dict[str, Any]]:
    """Train by a file of settings, with the tiny model and pairs in place of its own; return the settings written."""
    pairs = tmp_path / "pairs.jsonl"
    write_pairs(pairs, pairs_from_collection(load_collection(collection_folder, "train")).rows())

    def run(name: str, **more: Any) -> dict[str, Any]:
        settings, folder = read_config(name), tmp_path / Path(name).name
        pairs_file = settings.get("train_data", "pairs.jsonl").endswith((".json", ".jsonl"))
        elsewhere = {"base_model": tiny_bert, "output_dir": folder, "epochs": 1, "mixed_precision": "no"}
        given = {"val_data": pairs, "dev_beir": collection_folder, "freeze_early_layers": 1}
        elsewhere |= {name: value for name, value in given.items() if settings.get(name)}
        elsewhere["train_data"] = pairs if pairs_file else collection_folder
        flags = [part for name, value in (elsewhere | more).items() for part in (f"--{name}", value)]
        shown = run_script("train", "--config", name, *flags)
        assert str(folder / "best_model") in shown
        assert ("untouched base" in shown) == bool(settings.get("dev_beir"))
        assert {path.name for path in folder.iterdir()} >= PROMISED
        written: dict[str, Any] = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        for name, value in settings.items():
            if name not in (*PATHS, *SMALLER):
                assert written[name] == value
        assert json.loads((folder / "manifest.json").read_text())["status"] == "finished"
        return settings

    return run


@pytest.mark.parametrize("name", NAMES)
def test_a_configuration_trains(name: str, train: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    more = {}
    if (before := read_config(name).get("load_checkpoint")) is not None:
        first = Path(before).parent.name
        train(f"strategies/{first}")
        more = {"load_checkpoint": tmp_path / first / "best_model"}
    settings = train(name, **more)
    encoder = RetrievalEncoder.from_pretrained(tmp_path / Path(name).name / "best_model")
    assert encoder.system == settings.get("system", TrainConfig("t").system)


@pytest.mark.parametrize("name", ORIGINAL)
def test_the_original_systems_do_not_follow_the_defaults(name: str) -> None:
    """They have none of what runs do by default."""
    settings = read_config(name)
    assert {setting: settings[setting] for setting in OURS} == {setting: PLAIN[setting] for setting in OURS}
    assert {"system", "head", "epochs", "lambda_contrastive", "lambda_isotropy"} <= settings.keys()
    config = TrainConfig(**{"train_data": "t"} | settings)
    assert config.start == "random"
    if config.lambda_contrastive and config.contrastive == "infonce":
        assert {"temperature", "symmetric", "soft_targets"} <= settings.keys()


def test_the_quickstart_has_the_defaults_alone() -> None:
    assert set(read_config("quickstart")) == {"train_data", "dev_beir", "dev_split", "output_dir"}


def test_a_configuration_is_found_by_path_and_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    packaged = CONFIGS / "notes.yaml"
    assert {find_config(name) for name in ("notes", "notes.yaml", "configs/notes.yaml", packaged)} == {packaged}
    (tmp_path / "notes.yaml").write_text("extends: configs/notes.yaml\nmargin: 0.5\n")
    assert find_config("notes.yaml") == Path("notes.yaml")
    assert read_config("notes.yaml") == read_config("notes") | {"margin": 0.5}
    with pytest.raises(InputError, match=r"note .*strategies/smart_hybrid"):
        find_config("note")
    (tmp_path / "a.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(InputError, match=r"a\.yaml"):
        read_config("a.yaml")
