"""The founding notes' scripts for the isotropic Gaussian encoder; test_founding_notes.py runs their very commands."""

import json

import pytest
import torch
import yaml

from ragcun import IsotropicGaussianEncoder, TextBase
from ragcun.io import read_json

FOLDER = "by_model/isotropic_gaussian"
NOTES = {"lambda_contrastive": 0.0, "lambda_isotropy": 1.5, "lambda_predictive": 1.2, "epochs": 3, "batch_size": 32}


@pytest.mark.parametrize(
    ("script", "flags", "expected"),
    [
        ("contrastive", "--train_data FILE", {"train_data": "FILE", **NOTES, "lambda_contrastive": 1.0}),
        ("xy_masked", "--input_xy_pairs=FILE", {"train_data": "FILE", **NOTES, "pair_method": "mask_mixed"}),
        ("self_supervised", "--documents FILE", {"documents": "FILE", **NOTES, "pair_method": "half"}),
        ("self_supervised", "--documents FILE --split_method prefix_suffix", {"pair_method": "prefix_suffix"}),
    ],
)
def test_a_script_has_the_notes_names_and_defaults(run_any, tiny_bert, texts, tmp_path, script, flags, expected):
    rows = {"contrastive": [{"query": " ".join(text.split()[:3]), "positive": text} for text in texts[:40]]}
    rows["xy_masked"] = [{"x": text, "y": " ".join(["[MASK]", *text.split()[1:]])} for text in texts[:40]]
    file, run = tmp_path / "given.json", tmp_path / "run"
    file.write_text(json.dumps(rows.get(script, [" ".join(texts[i : i + 2]) for i in range(0, 80, 2)])))
    words = flags.replace("FILE", str(file)).split()
    small = ("--base_model", tiny_bert, "--device", "cpu", "--output_dir", run)
    code, shown, err = run_any(f"{FOLDER}/train_{script}", *words, *small)
    assert (code, str(run / "best_model") in shown) == (0, True), err
    assert ("--input_xy_pairs is now called --train_data" in err) == (script == "xy_masked")
    assert IsotropicGaussianEncoder.from_pretrained(run / "best_model").to_config()["predictor"] is not None
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert {name: str(saved[name]).replace(str(file), "FILE") for name in expected} == {
        name: str(value) for name, value in expected.items()
    }


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
