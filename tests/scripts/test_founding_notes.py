"""Every command of the five founding notes, word for word, and every flag that they name.

The commands run in a folder that has small stand-ins at the notes' own paths: base models, texts, pairs, BEIR sets.
Numbers of passages and pairs are replaced (`REPLACED`). The two shell scripts are in test_publication.py and
test_evaluate_all.py.
"""

from __future__ import annotations

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

import ragcun
from ragcun.cli.parser import parse_config
from ragcun.config import TrainConfig
from tests.conftest import save_tiny_bert
from tests.training.runs import rows_of, tensors_of

Run = Callable[..., tuple[int, str, str]]
REPLACED = {"1000000": "40", "100000": "40"}
MPNET = "--base_model sentence-transformers/all-mpnet-base-v2"
SMOKE = "--train_data data/processed/msmarco_smoke/train.json --val_data data/processed/msmarco_smoke/dev.json"
QUICK_TESTS = [
    f"train {SMOKE} {MPNET} --freeze_base --lambda_contrastive 0.1 --lambda_isotropy 1.0 --lambda_reg 0.0 --margin 0.1 "
    "--projection_learning_rate 5e-4 --epochs 2 --output_dir checkpoints/isotropy_contrastive_01",
    f"train {SMOKE} {MPNET} --freeze_base --lambda_contrastive 0.0 --lambda_isotropy 2.0 --lambda_reg 0.0 "
    "--projection_learning_rate 5e-4 --epochs 2 --output_dir checkpoints/isotropy_weight_2",
    f"train {SMOKE} {MPNET} --freeze_base --no_normalize_embeddings --lambda_contrastive 0.0 --lambda_isotropy 1.0 "
    "--lambda_reg 0.0 --output_dir checkpoints/isotropy_no_norm",
]
STRATEGY_1 = [
    "prepare_data --documents data/raw/wiki_100k.txt --generate_pairs --num_pairs 100000 --add_negatives "
    "--split 0.8 0.1 0.1 --output data/processed/wiki100k/data.json --output_dir data/processed/wiki100k",
    "train --train_data data/processed/wiki100k/train.json --val_data data/processed/wiki100k/val.json --epochs 3 "
    "--batch_size 8 --learning_rate 2e-5 --lambda_isotropy 1.0 --lambda_reg 0.1 --output_dim 512 "
    "--freeze_early_layers --output_dir checkpoints/wiki100k_pretrain --mixed_precision --log_interval 100",
    "train --train_data data/processed/msmarco100k/train.json --val_data data/processed/msmarco100k/val.json "
    "--epochs 1 --batch_size 8 --learning_rate 1e-5 --output_dir checkpoints/msmarco_finetune "
    "--load_checkpoint checkpoints/wiki100k_pretrain/best_model.pt",
    "evaluate_beir --model_path checkpoints/msmarco_finetune/best_model.pt --output_file results/beir_results.json",
]
STRATEGY_2 = [
    "download_wiki --num_passages 1000000 --output data/raw/wiki_1m.txt",
    "prepare_data --documents data/raw/wiki_1m.txt --generate_pairs --num_pairs 1000000 --add_negatives "
    "--split 0.8 0.1 0.1 --output data/processed/wiki1m/data.json --output_dir data/processed/wiki1m",
    "train --train_data data/processed/wiki1m/train.json --val_data data/processed/wiki1m/val.json --epochs 3 "
    "--batch_size 8 --gradient_accumulation_steps 4 --learning_rate 2e-5 --warmup_steps 1000 --lambda_isotropy 1.0 "
    "--lambda_reg 0.1 --output_dim 512 --freeze_early_layers --mixed_precision "
    "--output_dir checkpoints/wiki1m_pretrain --save_interval 1 --log_interval 100",
    "download_msmarco --split train --output_dir data/processed/msmarco_full",
    "train --train_data data/processed/msmarco_full/train.json --val_data data/processed/msmarco_full/dev.json "
    "--epochs 3 --batch_size 8 --gradient_accumulation_steps 4 --learning_rate 1e-5 --warmup_steps 500 "
    "--lambda_isotropy 0.5 --lambda_reg 0.1 --output_dir checkpoints/msmarco_full "
    "--load_checkpoint checkpoints/wiki1m_pretrain/best_model.pt --mixed_precision",
    "evaluate_beir --model_path checkpoints/msmarco_full/best_model.pt --datasets all "
    "--output_file results/beir_full_results.json",
    "evaluate_beir --model bm25 --output results/bm25_baseline.json",
    "evaluate_beir --model contriever --output results/contriever_baseline.json",
]
STRATEGY_3 = [
    "download_msmarco --output_dir data/processed/msmarco_smart",
    "train --train_data data/processed/msmarco_smart/train.json --val_data data/processed/msmarco_smart/dev.json "
    f"{MPNET} --freeze_base --epochs 3 --batch_size 16 --gradient_accumulation_steps 2 --learning_rate 5e-4 "
    "--warmup_steps 1000 --lambda_isotropy 1.0 --lambda_reg 0.1 --output_dim 512 --mixed_precision "
    "--output_dir checkpoints/smart_hybrid --log_interval 100",
    f"evaluate_beir --model_path checkpoints/smart_hybrid/best_model.pt {MPNET} "
    "--output_file results/smart_hybrid_beir.json",
    "evaluate_beir --model sentence-transformers/all-mpnet-base-v2 --output_file results/baseline_mpnet.json",
    "generate_paper_results --results results/beir_results.json --output paper/results_table.tex",
]
DECISION = [
    f"train --freeze_base False --epochs 1 {SMOKE} {MPNET} --output_dir checkpoints/full",
    "evaluate_beir --model sentence-transformers/all-mpnet-base-v2 --datasets scifact nfcorpus "
    "--output_file results/baseline_quick.json",
    "compute_isotropy --model_path checkpoints/full/best_model --datasets scifact",
    "generate_comparison_table",
]
SETS = {"scifact", "nfcorpus", "arguana"}
MODULES = {
    "model": "IsotropicGaussianEncoder",
    "mpnet_lejepa": "MPNetLeJEPAIG",
    "respred_model": "ResidualPredictorEncoder",
    "asymmetric_model": "AsymmetricProjectionModel",
}
FOLDER = "by_model/isotropic_gaussian"
BY_MODEL = [
    f"{FOLDER}/train_contrastive --train_data data/processed/msmarco_smoke/train.json --use_predictor --freeze_base "
    "--output_dim 768 --epochs 3 --batch_size 32 --lambda_contrastive 1.0 --lambda_isotropy 1.5 "
    "--lambda_predictive 1.2",
    f"{FOLDER}/train_xy_masked --input_xy_pairs data/processed/xy_masked_documents.json --use_predictor --epochs 3",
    f"{FOLDER}/train_self_supervised --documents data/processed/documents.json --use_predictor --split_method half",
    f"{FOLDER}/eval_beir --model_path checkpoints/isotropic_gaussian/contrastive/best_model.pt --use_predictor "
    "--datasets scifact nfcorpus arguana",
]


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
        return "\n".join([*(record.getMessage() for record in caplog.records), out])

    return run


@pytest.mark.slow
def test_every_command_runs(command: Callable[[str], str], place: Path) -> None:
    notes = [*QUICK_TESTS, *STRATEGY_1, *STRATEGY_2, *STRATEGY_3, *DECISION, *BY_MODEL]
    said = {words: command(words) for words in notes}
    for words in QUICK_TESTS:
        recipe, *lines = said[words].splitlines()
        assert "--config notes" in recipe
        assert any(line.startswith("training asymmetric") for line in lines)
    assert "--margin" in said[QUICK_TESTS[0]]
    assert "--output_dim 512 is above the 16 dimensions" in said[STRATEGY_1[1]]
    assert "--warmup_steps" in said[STRATEGY_2[2]]
    assert all(
        f"training isotropic_gaussian on {MPNET.split()[1]} (frozen): mlp" in said[words] for words in BY_MODEL[:3]
    )
    scored = ["beir_results", "beir_full_results", "bm25_baseline", "contriever_baseline", "smart_hybrid_beir"]
    for name in (*scored, "baseline_mpnet"):
        assert set(json.loads((place / "results" / f"{name}.json").read_text())["datasets"]) == SETS
    assert (place / "paper" / "results_table.tex").is_file()
    assert all(name in said[DECISION[-1]] for name in ("smart_hybrid", "msmarco_full", "bm25"))


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


PAIRS = "--train_data data/processed/msmarco_smoke/train.json --batch_size 8"
AS_WRITTEN = {
    f"{PAIRS} --freeze_base --lambda_contrastive 0.1 --lambda_isotropy 1.0 --lambda_reg 0.0 --margin 0.1 "
    "--projection_learning_rate 5e-4 --epochs 2": [
        "--freeze_base False", "--lambda_contrastive 1.0", "--lambda_isotropy 5.0", "--lambda_reg 1.0", "--margin 2.0",
        "--projection_learning_rate 1e-3", "--epochs 3", "--no_normalize_embeddings", "--base_model contriever",
        "--val_data data/processed/msmarco_smoke/dev.json", "--train_data data/processed/msmarco100k/train.json",
    ],
    f"{PAIRS} --epochs 2 --learning_rate 2e-4 --lambda_isotropy 1.0 --lambda_reg 0.1 --output_dim 24 "
    "--freeze_early_layers --mixed_precision --log_interval 100 --warmup_steps 1000 --gradient_accumulation_steps 4 "
    "--save_interval 1 --weight_decay 0.01": [
        "--epochs 3", "--batch_size 4", "--learning_rate 1e-3", "--lambda_isotropy 0.5", "--lambda_reg 0.2",
        "--output_dim 32", "--freeze_early_layers 3", "--mixed_precision bf16", "--log_interval 1",
        "--warmup_steps 0", "--gradient_accumulation_steps 1", "--save_interval 2", "--weight_decay 0.5",
        "--gradient_checkpointing",
    ],
    f"{PAIRS} --config by_model --lambda_contrastive 1.0 --output_dim 24": [
        "--lambda_predictive 0.5", "--no_use_predictor --lambda_predictive 0", "--lambda_isotropy 1.0",
        "--lambda_contrastive 0.5", "--batch_size 4",
    ],
    f"--config notes {PAIRS} --epochs 1": [
        "--lambda_contrastive 0.1", "--lambda_isotropy 2.0", "--lambda_reg 1.0", "--margin 0.1",
        "--base_learning_rate 1e-4", "--projection_learning_rate 5e-4", "--learning_rate 5e-4", "--batch_size 4",
        "--epochs 2", "--weight_decay 0.5", "--warmup_steps 0", "--output_dim 24", "--head_expansion 1.5",
        "--head_depth 3", "--activation relu", "--dropout 0.3", "--freeze_base", "--freeze_early_layers 2",
        "--no_normalize_embeddings", "--max_grad_norm 0.5", "--isotropy sigreg", "--mixed_precision",
    ],
}  # fmt: skip
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
