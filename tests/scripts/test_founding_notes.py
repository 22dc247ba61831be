"""Every command of the five founding notes, word for word, and every flag that they name.

The commands run in a folder that has small stand-ins at the notes' own paths: base models, texts, pairs, BEIR sets.
Numbers of passages and pairs are replaced (`REPLACED`). The two shell scripts are in test_publication.py.
"""

import importlib
import io
import json
import logging
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import ragcun
from ragcun.cli.parser import parse_config
from ragcun.config import TrainConfig
from tests.conftest import save_tiny_bert
from tests.training.runs import rows_of, tensors_of

Run = Callable[..., tuple[int, str, str]]


def read_sections(name: str) -> dict[str, list[str]]:
    """Return the lines of each section of a file beside this one, by the first of them."""
    sections = Path(__file__).with_name(name).read_text(encoding="utf-8").split("\n\n")
    return {title: lines for title, *lines in map(str.splitlines, sections)}


REPLACED = {"1000000": "40", "100000": "40"}
MPNET = "--base_model sentence-transformers/all-mpnet-base-v2"
NOTES = read_sections("founding_notes.txt")
"""The commands of each section, as the notes have them."""
WEIGHTS = {"lambda_isotropy": 1.5, "lambda_predictive": 1.2}
BY_MODEL = {
    "contrastive": {"lambda_contrastive": 1.0},
    "xy_masked": {"pair_method": "mask_mixed"},
    "self_supervised": {"pair_method": "half"},
}
"""What the notes' scripts have for a default, by the name of their run."""
SETS = {"scifact", "nfcorpus", "arguana"}
MODULES = {
    "model": "IsotropicGaussianEncoder",
    "mpnet_lejepa": "MPNetLeJEPAIG",
    "respred_model": "ResidualPredictorEncoder",
    "asymmetric_model": "AsymmetricProjectionModel",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, texts: list[str], collection_folder: Path, data_sets: Path) -> Path:
    """Folder with small stand-ins at the paths of the notes."""
    root = tmp_path_factory.mktemp("notes")
    for name, layers in (("sentence-transformers/all-mpnet-base-v2", 5), ("contriever", 4)):
        save_tiny_bert(root / name, layers)
    for name in SETS:
        shutil.copytree(collection_folder, root / "data" / name)
    processed, pairs = root / "data" / "processed", [{"query": " ".join(t.split()[:3]), "positive": t} for t in texts]
    files = {
        "msmarco_smoke/train": pairs[:24],
        "msmarco_smoke/dev": pairs[24:40],
        "msmarco100k/train": pairs[40:64],
        "msmarco100k/val": pairs[64:80],
        "xy_masked_documents": [{"x": text, "y": " ".join(["[MASK]", *text.split()[1:]])} for text in texts[:24]],
        "documents": texts[:24],
    }
    for name, content in files.items():
        (processed / name).parent.mkdir(parents=True, exist_ok=True)
        (processed / f"{name}.json").write_text(json.dumps(content))
    (root / "data" / "raw").mkdir()
    passages = [
        f"{' '.join(a.split()).capitalize()}. {b.capitalize()}." for a, b in zip(texts[:40], texts[40:80], strict=True)
    ]
    (root / "data" / "raw" / "wiki_100k.txt").write_text("\n".join(passages))
    os.symlink(data_sets, root / "hub")
    return root


@pytest.fixture
def command(
    run_any: Run, place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Callable[[str], str]:
    """Run a command in the folder; return all that it prints."""
    monkeypatch.chdir(place)

    def run(words: str) -> str:
        for old, new in REPLACED.items():
            words = words.replace(old, new)
        name, *arguments = shlex.split(words)
        if name.startswith("download"):
            arguments += ["--source", "hub/wiki"] if "wiki" in name else ["--source", "hub/marco", "--num_dev", "16"]
        if "train" in name and "--base_model" not in arguments and "--load_checkpoint" not in arguments:
            arguments += MPNET.split()
        caplog.clear()
        with caplog.at_level(logging.INFO, "ragcun"):
            code, out, err = run_any(name, *arguments)
        assert code == 0, f"{words}\n{out}{err}"
        return "\n".join([*(record.getMessage() for record in caplog.records), out, err])

    return run


@pytest.mark.slow
def test_every_command_runs(command: Callable[[str], str], place: Path) -> None:
    said = {title: [command(words) for words in commands] for title, commands in NOTES.items()}
    for shown in said["quick tests"]:
        recipe, *lines = shown.splitlines()
        assert "--config notes" in recipe
        assert any(line.startswith("training asymmetric") for line in lines)
    assert "--margin" in said["quick tests"][0]
    assert "--output_dim 512 is above the 16 dimensions" in said["strategy 1"][1]
    assert "--warmup_steps" in said["strategy 2"][2]
    mlp = f"training isotropic_gaussian on {MPNET.split()[1]} (frozen): mlp"
    assert [mlp in shown for shown in said["by model"]] == [True, True, True, False]
    assert "--input_xy_pairs is now called --train_data" in said["by model"][1]
    for name, own in BY_MODEL.items():
        run = place / "checkpoints" / "isotropic_gaussian" / name
        settings = {"lambda_contrastive": 0.0, **WEIGHTS, "epochs": 3, "batch_size": 32, **own}
        assert settings.items() <= yaml.safe_load((run / "config.yaml").read_text()).items()
        assert ragcun.IsotropicGaussianEncoder.from_pretrained(run / "best_model").to_config()["predictor"] is not None
    scored = ["beir_results", "beir_full_results", "bm25_baseline", "contriever_baseline", "smart_hybrid_beir"]
    for name in (*scored, "baseline_mpnet"):
        assert set(json.loads((place / "results" / f"{name}.json").read_text())["datasets"]) == SETS
    assert (place / "paper" / "results_table.tex").is_file()
    assert all(name in said["decision"][-1] for name in ("smart_hybrid", "msmarco_full", "bm25"))


@pytest.fixture(scope="module")
def train(place: Path) -> Callable[[str], tuple[dict[str, Any], str]]:
    """Train by the flags of a command; return what came of it (weights, metrics, files), and what was said."""
    done: dict[str, tuple[dict[str, Any], str]] = {}

    def run(words: str) -> tuple[dict[str, Any], str]:
        if words not in done:
            said = io.StringIO()
            handler = logging.StreamHandler(said)
            logging.getLogger("ragcun").addHandler(handler)
            folder = place / "flags" / str(len(done))
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(place)
                patch.setattr(logging.getLogger("ragcun"), "level", logging.INFO)
                flags = [*MPNET.split(), *shlex.split(words), "--output_dir", str(folder), "--device", "cpu"]
                ragcun.fit(parse_config(TrainConfig, None, flags))
            logging.getLogger("ragcun").removeHandler(handler)
            weights = {name: weight.tolist() for name, weight in tensors_of(folder / "best_model").items()}
            files = {str(path.relative_to(folder)) for path in folder.rglob("*") if "state" not in path.parts}
            done[words] = {"weights": weights, "metrics": rows_of(folder), "files": files}, said.getvalue()
        return done[words]

    return run


def differing(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    """Return in what two runs differ."""
    return {name for name in one if one[name] != other[name]}


AS_WRITTEN = read_sections("founding_flags.txt")
"""Commands in the notes' flags, and other values of each; in the notes' recipe, the last, each has an effect."""


@pytest.mark.parametrize(("words", "flag"), [(words, flag) for words, flags in AS_WRITTEN.items() for flag in flags])
def test_another_value_of_a_flag_shows_or_is_explained(train: Any, words: str, flag: str) -> None:
    (one, _), (other, said) = train(words), train(f"{words} {flag}")
    named, found = flag.split()[0], differing(one, other)
    explained = named in said and ("--config notes" not in words or named == "--mixed_precision")
    assert "weights" in found or explained or named in ("--log_interval", "--save_interval", "--val_data")
    assert found or explained


def test_the_notes_modules_have_the_notes_constructor(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    for module, name in MODULES.items():
        assert getattr(importlib.import_module(f"ragcun.{module}"), name) is getattr(ragcun, name)
    base = MPNET.split()[1]
    encoder = ragcun.IsotropicGaussianEncoder(output_dim=512, base_model=base, freeze_base=True)
    assert encoder.encode(["word1", "word2"]).shape == (2, 512)
    assert encoder.base.frozen
    shape = encoder.head.config
    assert (shape.kind, shape.depth, shape.expansion, shape.activation, shape.dropout) == ("mlp", 2, 2.0, "gelu", 0.1)
    other = ragcun.IsotropicGaussianEncoder(base_model=base, freeze_base=False, head="linear", output_dim=8)
    assert (other.base.frozen, other.head.config.kind, other.dimension) == (False, "linear", 8)
