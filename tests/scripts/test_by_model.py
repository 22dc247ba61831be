"""Evaluation by the founding notes' script; test_founding_notes.py runs it and the others by their very commands."""

import torch

from ragcun import IsotropicGaussianEncoder, TextBase
from ragcun.io import read_json

FOLDER = "by_model/isotropic_gaussian"


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
