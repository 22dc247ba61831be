"""The training loop, on a tiny BERT and a toy collection: what it learns, repeats, resumes and writes."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ragcun.config import TrainConfig
from ragcun.data.pairs import write_pairs
from ragcun.embeddings.text_base import TextBase
from ragcun.errors import InputError
from ragcun.models.checkpoint import WEIGHTS
from ragcun.models.encoder import RetrievalEncoder
from ragcun.models.systems import MPNetLeJEPAIG
from ragcun.training.averaging import share_of_trained
from ragcun.training.batches import LivePairs, epoch_batches
from ragcun.training.setup import build_data, build_encoder, build_objective
from ragcun.training.step import ema_decay, warmup_cosine
from ragcun.training.trainer import Trainer
from tests.training.runs import (
    Train,
    assert_equal,
    assert_same,
    assert_same_run,
    interrupted,
    newest,
    rows_of,
    tensors_of,
)

PLAIN: dict[str, Any] = {
    "system": "isotropic_gaussian",
    "head": "residual",
    "head_init": "identity",
    "normalize_output": False,
    "temperature": 0.05,
    "symmetric": True,
    "soft_targets": False,
    "lambda_isotropy": 3.0,
    "mined_negatives": 0,
    "positives_per_query": 0,
    "trained_share": 1.0,
    "average_decay": 0.0,
}
"""All pairs in every epoch, heads that start as the base, and weights that are kept as the last step left them."""
SEVERAL = "several.jsonl"
"""Pairs of which each query has three."""
FIELDS = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
DEFAULTS: dict[str, Any] = {name: FIELDS[name] for name in PLAIN} | {"use_predictor": None}


def label(value: Any) -> str:
    """Return a case's name, in which the defaults have one word."""
    if not isinstance(value, dict) or not DEFAULTS.keys() <= value.keys():
        return str(value)
    return f"defaults {({name: one for name, one in value.items() if DEFAULTS.get(name, ...) != one}) or ''}".strip()


@pytest.fixture
def settings(settings: dict[str, Any]) -> dict[str, Any]:
    return settings | PLAIN | {"projection_learning_rate": 1e-2}


@pytest.mark.parametrize(
    "changes",
    [
        {"head": "mlp", "projection_learning_rate": 3e-2},
        {"contrastive": "in_batch_margin", "margin": 0.1, "lambda_isotropy": 0.0, "projection_learning_rate": 3e-2},
        {"freeze_base": False, "base_learning_rate": 1e-3},
        {"normalize_embeddings": False, "output_dim": 8},
        DEFAULTS,
    ],
    ids=label,
)
def test_training_lowers_the_loss(train: Train, changes: dict[str, Any]) -> None:
    result = train(epochs=8, dropout=0.0, **changes)
    steps = rows_of(result.checkpoint.parent, "step")
    first, last = ([row["total"] for row in steps if row["epoch"] == epoch] for epoch in (1, 8))
    assert np.mean(last) < 0.95 * np.mean(first)
    assert (result.best_epoch, result.steps, result.criterion, result.score) == (8, 32, "last epoch", None)


def test_dev_collection_chooses_the_best_epoch(train: Train, collection_folder: Path) -> None:
    result = train(dev_beir=str(collection_folder), epochs=5, save_interval=1)
    run = result.checkpoint.parent
    scores = {row["epoch"]: row["dev"]["NDCG@10"] for row in rows_of(run, "epoch")}
    assert list(scores) == [0, 1, 2, 3, 4, 5]
    assert result.score == max(scores.values())
    assert result.best_epoch == min(epoch for epoch, score in scores.items() if score == result.score)
    (base,) = rows_of(run, "base")
    assert base["dev"]["NDCG@10"] == result.base_score == pytest.approx(scores[0])
    if result.best_epoch:
        assert_same(run / "best_model", run / f"epoch-{result.best_epoch}")


def test_dev_chooses_the_start_when_training_only_harms(train: Train, collection_folder: Path, settings: Any) -> None:
    result = train(dev_beir=str(collection_folder), epochs=2, projection_learning_rate=1e-9, dropout=0.0)
    assert result.best_epoch == 0
    assert result.score == pytest.approx(result.base_score)
    chosen = RetrievalEncoder.from_pretrained(result.checkpoint)
    base = TextBase.load(settings["base_model"], device="cpu")
    some = ["word1 word2", "word3"]
    np.testing.assert_array_equal(
        chosen.encode_query(some),
        base.untouched_array(base.encode(some, "query")),
    )


def test_validation_pairs_choose_the_lowest_objective(train: Train, collection_folder: Path) -> None:
    weights = {"lambda_isotropy": 0.3, "lambda_predictive": 0.7, "use_predictor": True}
    result = train(val_data=str(collection_folder), epochs=5, **weights)
    rows = {row["epoch"]: row for row in rows_of(result.checkpoint.parent, "epoch")}
    best = min(rows, key=lambda epoch: (rows[epoch]["val_total"], epoch))
    assert result.best_epoch == best
    assert -result.score == rows[best]["val_total"]
    for row in rows.values():
        terms = row["val_terms"]
        total = terms["contrastive"] + 0.3 * terms["isotropy"] + 0.7 * terms["predictive"]
        assert row["val_total"] == pytest.approx(total, rel=1e-5)


def test_every_loss_part_is_recorded_unweighted(train: Train) -> None:
    weights = {"contrastive": 0.5, "isotropy": 0.2, "reg": 0.1, "predictive": 2.0}
    flags: dict[str, Any] = {f"lambda_{name}": weight for name, weight in weights.items()}
    result = train(epochs=2, use_predictor=True, **flags)
    steps = rows_of(result.checkpoint.parent, "step")
    assert [row["step"] for row in steps] == list(range(1, 9))
    for row in steps:
        assert set(row["terms"]) == set(weights)
        total = sum(weights[name] * value for name, value in row["terms"].items())
        assert row["total"] == pytest.approx(total, rel=1e-5)
        assert row["grad_norm"] > 0
        assert set(row["learning_rate"]) == {"head", "predictor"}


def test_rates_follow_the_schedule_each_step(train: Train) -> None:
    rates = {"base_learning_rate": 1e-4, "projection_learning_rate": 1e-2, "predictor_learning_rate": 1e-3}
    result = train(freeze_base=False, use_predictor=True, warmup_steps=5, **rates)
    steps = rows_of(result.checkpoint.parent, "step")
    assert len(steps) == 12
    for row in steps:
        factor = warmup_cosine(row["step"] - 1, 12, 5)
        expected = {"base": 1e-4 * factor, "head": 1e-2 * factor, "predictor": 1e-3 * factor}
        assert row["learning_rate"] == pytest.approx(expected, rel=1e-12)


ACCUMULATED = {"gradient_accumulation_steps": 2, "epochs": 5, "lambda_predictive": 0.5, "dropout": 0.3}
JEPA = {"system": "jepa", "lambda_predictive": 1.0, "dropout": 0.3}
ASYMMETRIC = {"system": "asymmetric", "query_embedding": "prediction", "lambda_predictive": 1.0}


@pytest.mark.parametrize(
    ("stop_after", "changes"),
    [
        (7, {"state_interval": 2} | ACCUMULATED),
        (6, {"state_interval": 1, "freeze_early_layers": 1, "base_learning_rate": 1e-3, "dropout": 0.3}),
        (7, JEPA | {"state_interval": 2, "ema_schedule": "cosine"}),
        (5, JEPA | {"freeze_base": False, "base_learning_rate": 1e-3, "ema_decay": 0.9}),
        (7, {"system": "respred", "state_interval": 2, "lambda_predictive": 1.0, "lambda_residual": 0.01}),
        (7, ASYMMETRIC | {"state_interval": 2}),
        (6, DEFAULTS | {"state_interval": 1, "epochs": None, "steps": 11, "head": "residual", "dropout": 0.3}),
        (7, DEFAULTS | {"state_interval": 2, "train_side": "query", "output_dim": 8, "mix_with_base": 0.3}),
        (6, DEFAULTS | {"state_interval": 1, "freeze_base": False, "trained_share": 0.5, "mined_negatives": 2}),
        (13, DEFAULTS | {"state_interval": 1, "train_data": SEVERAL, "batch_size": 4, "positives_per_query": 2}),
        (7, DEFAULTS | {"state_interval": 2, "never_worse": True, "average_decay": 0.0}),
    ],
    ids=label,
)
def test_resume_equals_uninterrupted(
    train: Train, tmp_path: Path, collection_folder: Path, texts: list[str], stop_after: int, changes: dict[str, Any]
) -> None:
    """Bit for bit, also what is drawn and averaged: pairs of an epoch, mined negatives, the mean and share kept."""
    common = {"use_predictor": True, "dev_beir": str(collection_folder), **changes}
    if common.get("train_data") == SEVERAL:
        common["train_data"] = str(tmp_path / SEVERAL)
        rows = [(texts[i], texts[50 + (3 * i + j) % 40], None) for i in range(15) for j in range(3)]
        write_pairs(tmp_path / SEVERAL, rows)
    whole = train("whole", **common)
    with interrupted(stop_after):
        train("parts", **common)
    assert not (tmp_path / "parts" / "best_model").exists()
    parts = train("parts", resume=True, **common)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    assert (parts.best_epoch, parts.score, parts.steps) == (whole.best_epoch, whole.score, whole.steps)
    names = tensors_of(newest(tmp_path / "parts"))
    assert "random.safetensors:cpu" in names
    assert any("exp_avg" in name for name in names)


@pytest.mark.parametrize(("decay", "share"), [(0.9, 0.3), (0.99, None)], ids=str)
def test_what_is_saved_is_the_average_interpolated_and_training_does_not_notice(
    train: Train, tmp_path: Path, collection_folder: Path, monkeypatch: pytest.MonkeyPatch, decay: float, share: Any
) -> None:
    weights: list[torch.Tensor] = []
    take = Trainer.step

    def vector(trainer: Trainer) -> torch.Tensor:
        return torch.cat([value.detach().flatten() for value in trainer.encoder.own_state().values()]).double()

    def watched(trainer: Trainer, batches: Any) -> Any:
        weights.extend([] if weights else [vector(trainer)])
        done = take(trainer, batches)
        weights.append(vector(trainer))
        return done

    common = DEFAULTS | {"val_data": None, "save_interval": 1, "projection_learning_rate": 3e-2}
    train("plain", **common | {"average_decay": 0.0, "trained_share": 1.0, "dev_beir": str(collection_folder)})
    monkeypatch.setattr(Trainer, "step", watched)
    result = train("kept", **common | {"average_decay": decay, "trained_share": share})
    start, *after = weights
    mean = start
    for step, now in enumerate(after, 1):
        momentum = min(decay, (1 + step) / (10 + step)) if decay else 0.0
        mean = momentum * mean + (1 - momentum) * now
    part = share_of_trained(30) if share is None else share
    encoder = RetrievalEncoder.from_pretrained(result.checkpoint)
    found = torch.cat([value.flatten() for value in encoder.own_state().values()]).double()
    torch.testing.assert_close(found, (1 - part) * start + part * mean, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(found, after[-1], rtol=1e-3, atol=1e-3)
    assert_same(tmp_path / "kept" / "best_model", tmp_path / "kept" / "epoch-3")
    plain, kept = (tensors_of(newest(tmp_path / name)) for name in ("plain", "kept"))
    same = [name for name in plain if name.startswith(("model", "optimizer"))]
    assert len(same) > 4
    assert all(torch.equal(plain[name], kept[name]) for name in same)


@pytest.mark.parametrize(("accumulated", "schedule"), [(1, "constant"), (3, "cosine")])
def test_the_target_follows_every_optimiser_step_once(
    train: Train, monkeypatch: pytest.MonkeyPatch, accumulated: int, schedule: str
) -> None:
    """The target's final weights are the moving average over the online weights after each optimiser step."""
    decays, online, initial = [], [], []
    follow = MPNetLeJEPAIG.after_step

    def watched(encoder: MPNetLeJEPAIG, decay: float) -> None:
        decays.append(decay)
        initial.extend([] if initial else [torch.cat([p.detach().flatten() for p in encoder.target_head.parameters()])])
        online.append(torch.cat([parameter.detach().flatten() for parameter in encoder.head.parameters()]))
        follow(encoder, decay)

    monkeypatch.setattr(MPNetLeJEPAIG, "after_step", watched)
    settings = {"ema_decay": 0.8, "ema_schedule": schedule, "gradient_accumulation_steps": accumulated}
    result = train(system="jepa", lambda_predictive=1.0, lambda_contrastive=0.0, learning_rate=1e-2, **settings)
    assert decays == [ema_decay(step, result.steps, 0.8, schedule) for step in range(1, result.steps + 1)]
    assert len(online) == result.steps
    expected = initial[0]
    for decay, weights in zip(decays, online, strict=True):
        expected = decay * expected + (1 - decay) * weights
    encoder = RetrievalEncoder.from_pretrained(result.checkpoint)
    found = torch.cat([parameter.flatten() for parameter in encoder.target_head.parameters()])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(found, online[-1])


def test_a_finished_run_resumes_to_itself(train: Train, tmp_path: Path) -> None:
    first, run = train(), tmp_path / "run"
    before, rows = tensors_of(run), (run / "metrics.jsonl").read_text()
    assert train(resume=True) == first
    assert_equal(before, tensors_of(run))
    assert (run / "metrics.jsonl").read_text() == rows


def test_resume_without_a_resume_point_starts_afresh(train: Train, tmp_path: Path) -> None:
    train("whole")
    with interrupted(2):
        train("parts")
    assert not (tmp_path / "parts" / "state").exists()
    for name in ("parts", "new"):
        train(name, resume=True)
        assert_same_run(tmp_path / "whole", tmp_path / name)


def test_resume_with_other_settings_or_data_is_refused(train: Train, tmp_path: Path, texts: list[str]) -> None:
    write_pairs(tmp_path / "other.jsonl", [(texts[i], texts[i + 1], None) for i in range(30)])
    train(epochs=1)
    before = tensors_of(tmp_path / "run")
    for name, value in {"learning_rate": 1.0, "lambda_reg": 1.0, "train_data": str(tmp_path / "other.jsonl")}.items():
        with pytest.raises(InputError, match=rf"{name}|data ="):
            train(resume=True, epochs=1, **{name: value})
    assert before.keys() == tensors_of(tmp_path / "run").keys()


@pytest.mark.parametrize("accumulated", [1, 3])
def test_accumulated_gradients_are_the_mean_of_the_batches(
    train: Train, settings: dict[str, Any], accumulated: int
) -> None:
    options = {"gradient_accumulation_steps": accumulated, "max_grad_norm": 1e9, "dropout": 0.0, "head": "linear"}
    result = train(epochs=1, **options)
    rows = rows_of(result.checkpoint.parent, "step")
    assert len(rows) == math.ceil(4 / accumulated)
    config = TrainConfig(**settings | options)
    encoder, objective = build_encoder(config), build_objective(config)
    source = LivePairs(build_data(config).train, encoder.base, torch.device("cpu"))
    gradients = []
    for batch in epoch_batches(30, 8, config.seed, 1)[:accumulated]:
        encoder.zero_grad()
        objective(encoder.eval()(source.batch(batch))).total.backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in encoder.parts()["head"].parameters()]))
    assert rows[0]["grad_norm"] == pytest.approx(float(torch.stack(gradients).mean(0).norm()), rel=1e-4)


def test_clipping(train: Train, tmp_path: Path) -> None:
    common = {"epochs": 1, "batch_size": 30, "dropout": 0.0}
    for name, limit in (("off", 0.0), ("loose", 1e9), ("tight", 1e-3)):
        train(name, max_grad_norm=limit, **common)
    assert rows_of(tmp_path / "off", "step")[0]["grad_norm"] is None
    assert_same(newest(tmp_path / "off"), newest(tmp_path / "loose"))
    moments = [
        {name: tensor for name, tensor in tensors_of(newest(tmp_path / run)).items() if name.endswith("exp_avg")}
        for run in ("off", "tight")
    ]
    norms = [float(torch.cat([tensor.flatten() for tensor in each.values()]).norm()) / 0.1 for each in moments]
    assert norms[1] == pytest.approx(1e-3, rel=1e-2)
    assert norms[0] == pytest.approx(rows_of(tmp_path / "tight", "step")[0]["grad_norm"], rel=1e-4)
    assert norms[0] > 1e-2


def test_early_layers_stay_and_later_ones_move(train: Train, tiny_bert: str) -> None:
    result = train(freeze_early_layers=2, base_learning_rate=1e-3, epochs=1, gradient_checkpointing=True)
    before = TextBase.load(tiny_bert, device="cpu").state_dict()
    after = RetrievalEncoder.from_pretrained(result.checkpoint, "cpu").base.state_dict()
    assert before.keys() == after.keys()
    same = {name for name in before if torch.equal(before[name], after[name])}
    for name in before:
        early = "embeddings." in name or "layer.0." in name or "layer.1." in name
        if early or "pooler" in name:
            assert name in same, name
        elif "key.bias" not in name:
            assert name not in same, name


def test_a_frozen_base_stays_bit_for_bit(train: Train, tiny_bert: str, texts: list[str]) -> None:
    result = train(freeze_base=True, freeze_early_layers=1, epochs=1)
    trained = RetrievalEncoder.from_pretrained(result.checkpoint, "cpu")
    base = TextBase.load(tiny_bert, device="cpu")
    assert_equal(base.state_dict(), trained.base.state_dict())
    assert trained.base.fingerprint() == base.fingerprint()
    assert not np.allclose(trained.encode_query(texts[:3]), base.untouched_array(base.encode(texts[:3], "query")))


def test_training_continues_from_a_checkpoint(train: Train, tmp_path: Path, collection_folder: Path) -> None:
    common = {"output_dim": 8, "use_predictor": True, "lambda_predictive": 0.5}
    first = train("first", **common)
    dev = str(collection_folder)
    second = train("second", load_checkpoint=str(first.checkpoint), dev_beir=dev, learning_rate=1e-9, epochs=1)
    (start,) = [row for row in rows_of(tmp_path / "second", "epoch") if row["epoch"] == 0]
    third = train("third", load_checkpoint=str(first.checkpoint), dev_beir=dev, projection_learning_rate=0.0, epochs=1)
    assert third.best_epoch == 0
    assert third.score == start["dev"]["NDCG@10"]
    assert_equal(*(load_file(run.checkpoint / WEIGHTS) for run in (first, third)))
    assert second.steps == 4


@pytest.mark.parametrize("changes", [{}, {"freeze_base": False}], ids=["cached", "live"])
def test_half_precision_on_a_cpu(train: Train, tmp_path: Path, changes: dict[str, Any]) -> None:
    common = {"use_predictor": True, "lambda_predictive": 0.5, "dropout": 0.0, **changes}
    train("full", **common)
    train("half", mixed_precision="bf16", **common)
    full, half = (rows_of(tmp_path / name, "step") for name in ("full", "half"))
    assert all(math.isfinite(row["total"]) for row in half)
    assert half[0]["total"] == pytest.approx(full[0]["total"], rel=0.03)
    assert half[-1]["total"] != full[-1]["total"]
    assert all(tensor.dtype == torch.float32 for tensor in load_file(tmp_path / "half/best_model" / WEIGHTS).values())


@pytest.mark.slow
@pytest.mark.skipif(
    not any(shutil.which(name) for name in ("g++", "c++", "clang++")), reason="torch.compile needs a C++ compiler"
)
def test_compiling_changes_nothing(train: Train, tmp_path: Path) -> None:
    """Inner products see where embeddings lie; else the last bias moves by rounding errors alone, enlarged by Adam."""
    common = {"epochs": 1, "batch_size": 30, "dropout": 0.0, "distance": "dot", "lambda_isotropy": 0.0}
    train("plain", **common)
    compiled = train("compiled", compile=True, **common)
    first, second = (rows_of(tmp_path / name, "step")[0]["total"] for name in ("plain", "compiled"))
    assert second == pytest.approx(first, rel=1e-4)
    one, other = tensors_of(tmp_path / "plain" / "best_model"), tensors_of(compiled.checkpoint)
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=1e-5, rtol=0, msg=name)


@pytest.mark.parametrize(
    "changes", [{}, {"freeze_base": False, "dropout": 0.3}, DEFAULTS], ids=["cached", "live", "defaults"]
)
def test_a_seed_decides_everything(train: Train, tmp_path: Path, changes: dict[str, Any]) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        torch.manual_seed(len(name))
        train(name, **{"head": "mlp", **changes, "seed": seed})
    assert_same(tmp_path / "a", tmp_path / "b")
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b")
    parts = [load_file(tmp_path / name / "best_model" / WEIGHTS) for name in ("a", "c")]
    assert not any(torch.equal(parts[0][name], parts[1][name]) for name in parts[0])


def test_kept_checkpoints_load(train: Train, tmp_path: Path, texts: list[str]) -> None:
    train(epochs=5, save_interval=2)
    assert sorted(path.name for path in (tmp_path / "run").glob("epoch-*")) == ["epoch-2", "epoch-4"]
    folders = (tmp_path / "run" / name for name in ("epoch-2", "epoch-4", "best_model"))
    two, four, best = (RetrievalEncoder.from_pretrained(folder).encode_query(texts[:3]) for folder in folders)
    assert not np.array_equal(two, four)
    assert not np.array_equal(four, best)


@pytest.mark.parametrize("selection", ["dev_beir", "val_data"])
def test_a_loss_that_explodes_is_one_sentence(
    train: Train, tmp_path: Path, collection_folder: Path, selection: str
) -> None:
    rates = {"learning_rate": 1e30, "projection_learning_rate": 1e30, "log_interval": 100}
    with pytest.raises(InputError, match="learning_rate") as caught:
        train(**rates, **{selection: str(collection_folder)})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "best_model").exists()
    assert not (tmp_path / "run" / "state").exists()


def test_the_manifest_says_what_was_run(train: Train, tmp_path: Path, settings: dict[str, Any]) -> None:
    result = train(seed=11, epochs=2)
    run = tmp_path / "run"
    manifest = json.loads((run / "manifest.json").read_text())
    assert {"git_commit", "packages", "base_fingerprint", "command"} <= manifest.keys()
    assert [manifest[name] for name in ("seed", "device", "status")] == [11, "cpu", "finished"]
    assert manifest["data_sha256"]["train"] == build_data(TrainConfig(**settings)).train.sha256()
    assert (manifest["result"]["best_epoch"], manifest["result"]["steps"]) == (2, 8)
    assert 0 < manifest["result"]["seconds"] == result.seconds


def test_texts_are_encoded_once_for_all_runs(
    train: Train, tmp_path: Path, collection_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    real = TextBase.encode

    def encode(self: TextBase, some: list[str], *arguments: Any, **options: Any) -> Any:
        seen.extend(some)
        return real(self, some, *arguments, **options)

    monkeypatch.setattr(TextBase, "encode", encode)
    common = {"cache_dir": str(tmp_path / "cache"), "dev_beir": str(collection_folder), "epochs": 2}
    train("a", **common)
    assert 0 < len(seen) == len(set(seen))
    count = len(seen)
    train("b", seed=3, output_dim=8, normalize_embeddings=False, **common)
    assert len(seen) == count
