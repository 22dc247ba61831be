import json

import pytest

from ragcun import AsymmetricProjectionModel


@pytest.fixture
def arguments(tiny_bert, collection_folder, tmp_path):
    """Flags of a short run on the toy collection."""
    base = ("--base_model", tiny_bert, "--train_data", collection_folder, "--output_dir", tmp_path / "run")
    short = ("--device", "cpu", "--epochs", 2, "--batch_size", 8, "--log_interval", 1, "--lexical_dim", 0)
    return (*base, *short)


def test_a_run_leaves_everything_it_promises(run_script, arguments, evaluate, collection_folder, tmp_path):
    """Its configuration repeats it, and Matryoshka dimensions serve when cut."""
    flags = ("--dev_beir", collection_folder, "--save_interval", 1, "--nested_dims", 4, 8)
    shown = run_script("train", *arguments, *flags)
    run, again = tmp_path / "run", tmp_path / "again"
    expected = {"best_model", "config.yaml", "manifest.json", "metrics.jsonl", "loss_curve.png", "state"}
    assert {path.name for path in run.iterdir()} == expected | {"epoch-1", "epoch-2"}
    assert "untouched base" in shown
    assert str(run / "best_model") in shown
    assert AsymmetricProjectionModel.from_pretrained(run / "best_model").dimension == 16
    kinds = [json.loads(line)["kind"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [kind for kind in kinds if kind not in ("step", "probe")] == ["base", "epoch", "epoch", "epoch"]
    assert kinds.count("probe") > 2
    results, _ = evaluate("--model_path", run / "best_model", "--truncate_dim", 4)
    systems = (results, results["untouched_base"], *results["baselines"].values())
    assert [(each.get("truncate_dim"), each["bytes_per_vector"]) for each in systems] == [(4, 16), (None, 64), (4, 16)]
    run_script("train", "--config", run / "config.yaml", "--output_dir", again)
    weights = [folder / "best_model" / "ragcun" / "parts.safetensors" for folder in (run, again)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
