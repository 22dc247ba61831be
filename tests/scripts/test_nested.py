"""``--nested_dims``: several values in a flag and in YAML, and vectors that serve when cut."""

import json

import pytest
import yaml


def test_nested_sizes_train_save_and_serve_when_cut(run_script, collection_folder, tiny_bert, tmp_path):
    out = tmp_path / "run"
    flags = ("--train_data", collection_folder, "--base_model", tiny_bert, "--steps", 4, "--output_dir", out)
    done = run_script("train", *flags, "--nested_dims", 4, 8)
    assert done.code == 0, done.err
    assert yaml.safe_load((out / "config.yaml").read_text())["nested_dims"] == [4, 8]
    again = run_script("train", "--config", out / "config.yaml", "--output_dir", tmp_path / "again")
    assert again.code == 0, again.err
    where = ("--datasets", "toy", "--data_dir", collection_folder.parent, "--output_file", tmp_path / "r.json")
    cut = run_script("evaluate_beir", "--model_path", out / "best_model", *where, "--truncate_dim", 4)
    assert cut.code == 0, cut.err
    results = json.loads((tmp_path / "r.json").read_text())
    assert (results["truncate_dim"], results["bytes_per_vector"]) == (4, 16)


@pytest.mark.parametrize(("sizes", "message"), [(("4", "x"), "whole number"), (("16",), "must be below 16")])
def test_wrong_sizes_are_one_sentence(run_script, collection_folder, tiny_bert, tmp_path, sizes, message):
    flags = ("--train_data", collection_folder, "--base_model", tiny_bert, "--output_dir", tmp_path / "run")
    done = run_script("train", *flags, "--nested_dims", *sizes)
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err
