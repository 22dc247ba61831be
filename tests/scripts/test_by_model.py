"""The founding notes' commands for the isotropic Gaussian encoder, run as they stand there."""

import json

import pytest
import torch
import yaml

from ragcun import IsotropicGaussianEncoder, TextBase
from ragcun.io import read_json

FOLDER = "by_model/isotropic_gaussian"
WITHOUT_OURS = {
    "head": "mlp",
    "contrastive": "margin",
    "normalize_output": False,
    "mined_negatives": 0,
    "positives_per_query": 0,
    "trained_share": 1.0,
    "average_decay": 0.0,
}


@pytest.fixture
def flags(tiny_bert, tmp_path):
    """Flags that make a run small and say where it goes."""
    return ("--base_model", tiny_bert, "--device", "cpu", "--batch_size", 8, "--output_dir", tmp_path / "run")


def saved(tmp_path):
    return yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())


def finished(shown, tmp_path, epochs):
    """Assert that a run ended well, with a predictor that has moved, and return its last epoch's metrics."""
    assert str(tmp_path / "run" / "best_model") in shown
    encoder = IsotropicGaussianEncoder.from_pretrained(tmp_path / "run" / "best_model")
    assert encoder.to_config()["predictor"] is not None
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert max(row["epoch"] for row in rows) == epochs
    return rows


def test_contrastive(run_script, flags, texts, tmp_path):
    rows = [{"query": " ".join(text.split()[:3]), "positive": text} for text in texts[:40]]
    (tmp_path / "train.json").write_text(json.dumps(rows))
    notes = ("--use_predictor", "--freeze_base", "--output_dim", 24, "--epochs", 2)
    losses = ("--lambda_contrastive", 1.0, "--lambda_isotropy", 1.5, "--lambda_predictive", 1.2)
    script = f"{FOLDER}/train_contrastive"
    shown = run_script(script, "--train_data", tmp_path / "train.json", *flags, *notes, *losses)
    finished(shown, tmp_path, 2)
    given = saved(tmp_path)
    run_script(script, "--train_data", tmp_path / "train.json", *flags, "--overwrite")
    own = saved(tmp_path)
    assert {name for name in own if own[name] != given[name]} == {"epochs", "output_dim", "overwrite"}
    assert own["epochs"] == 3
    assert {name: own[name] for name in WITHOUT_OURS} == WITHOUT_OURS


@pytest.mark.parametrize("form", ["objects", "lists"])
def test_xy_masked(run_script, flags, texts, tmp_path, form):
    pairs = [(text, " ".join(["[MASK]", *text.split()[1:]])) for text in texts[:40]]
    rows = [{"x": x, "y": y} for x, y in pairs] if form == "objects" else pairs
    (tmp_path / "xy.json").write_text(json.dumps(rows))
    notes = ("--input_xy_pairs", tmp_path / "xy.json", "--use_predictor", "--epochs", 3)
    finished(run_script(f"{FOLDER}/train_xy_masked", *notes, *flags), tmp_path, 3)
    settings = saved(tmp_path)
    assert settings["train_data"] == str(tmp_path / "xy.json")
    assert (settings["lambda_contrastive"], settings["lambda_predictive"]) == (0.0, 1.2)


def test_self_supervised(run_script, flags, texts, tmp_path):
    documents = [" ".join(texts[i : i + 2]) for i in range(0, 80, 2)]
    (tmp_path / "documents.json").write_text(json.dumps(documents))
    notes = ("--documents", tmp_path / "documents.json", "--use_predictor", "--split_method", "prefix_suffix")
    finished(run_script(f"{FOLDER}/train_self_supervised", *notes, *flags, "--epochs", 1), tmp_path, 1)
    settings = saved(tmp_path)
    assert settings["pair_method"] == "prefix_suffix"
    assert settings["documents"] == str(tmp_path / "documents.json")


def test_evaluation_embeds_queries_with_the_predictor_or_without(
    run_script, fails_clearly, tiny_bert, collection_folder, tmp_path
):
    def scores(*flags):
        run_script(f"{FOLDER}/eval_beir", "--device", "cpu", "--model_path", tmp_path / "with", *place, *flags)
        return read_json(tmp_path / "r.json")["datasets"]["toy"]

    place = ("--datasets", "toy", "--data_dir", collection_folder.parent, "--output_file", tmp_path / "r.json")
    base = TextBase.load(tiny_bert, device="cpu")
    IsotropicGaussianEncoder(base).save_pretrained(tmp_path / "without")
    for flag in ("--use_predictor", "--no_use_predictor"):
        message = fails_clearly(f"{FOLDER}/eval_beir", "--model_path", tmp_path / "without", *place, flag)
        assert f"{tmp_path / 'without'} has no predictor" in message
        assert "is not a checkpoint" in fails_clearly(f"{FOLDER}/eval_beir", "--model", tiny_bert, *place, flag)
    assert not (tmp_path / "r.json").exists()
    encoder = IsotropicGaussianEncoder(base, use_predictor=True, predictor="linear")
    with torch.no_grad():
        for weight in encoder.predictor.parameters():
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    encoder.save_pretrained(tmp_path / "with")
    trained, plain, predicted = scores(), scores("--no_use_predictor", "--resume"), scores("--use_predictor")
    assert trained == plain != predicted
    resumed = fails_clearly(f"{FOLDER}/eval_beir", "--model_path", tmp_path / "with", *place, "--resume")
    assert "system model is" in resumed
