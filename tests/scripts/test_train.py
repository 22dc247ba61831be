import json

import pytest
import yaml

from ragcun import AsymmetricProjectionModel


@pytest.fixture
def arguments(tiny_bert, collection_folder, tmp_path):
    """Flags of a short run on the toy collection."""
    base = ("--base_model", tiny_bert, "--train_data", collection_folder, "--output_dir", tmp_path / "run")
    short = ("--device", "cpu", "--epochs", 2, "--batch_size", 8, "--log_interval", 1, "--lexical_dim", 0)
    return (*base, *short)


def test_a_run_leaves_everything_it_promises(run_script, arguments, collection_folder, tmp_path):
    shown = run_script("train", *arguments, "--dev_beir", collection_folder, "--save_interval", 1)
    run = tmp_path / "run"
    expected = {"best_model", "config.yaml", "manifest.json", "metrics.jsonl", "loss_curve.png", "state"}
    assert {path.name for path in run.iterdir()} == expected | {"epoch-1", "epoch-2"}
    assert "untouched base" in shown
    assert str(run / "best_model") in shown
    assert AsymmetricProjectionModel.from_pretrained(run / "best_model").dimension == 16
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kinds = [row["kind"] for row in rows]
    assert [kind for kind in kinds if kind not in ("step", "probe")] == ["base", "epoch", "epoch", "epoch"]
    assert kinds.count("probe") > 2


def test_the_saved_configuration_repeats_the_run(run_script, arguments, tmp_path):
    run_script("train", *arguments)
    again = tmp_path / "again"
    run_script("train", "--config", tmp_path / "run" / "config.yaml", "--output_dir", again)
    weights = [folder / "best_model" / "ragcun" / "parts.safetensors" for folder in (tmp_path / "run", again)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--train_data", "p.jsonl"), "p.jsonl, line 2"),
        (("--train_data", "missing.jsonl"), "missing.jsonl"),
        (("--nested_dims", "16"), "must be below 16"),
        (("--load_checkpoint", "nowhere"), "nowhere"),
        (("--device", "cuda:99"), "cuda"),
    ],
)
def test_bad_settings_leave_nothing(fails_clearly, arguments, tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.jsonl").write_text('{"query": "a", "positive": "b"}\n{"query": "a"}\n')
    assert message in fails_clearly("train", *arguments, *flags)
    assert not (tmp_path / "run").exists()


def test_matryoshka_dimensions_are_saved_and_serve_when_cut(run_script, arguments, evaluate, tmp_path):
    run_script("train", *arguments, "--nested_dims", 4, 8)
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["nested_dims"] == [4, 8]
    results, _ = evaluate("--model_path", tmp_path / "run" / "best_model", "--truncate_dim", 4)
    assert (results["truncate_dim"], results["bytes_per_vector"]) == (4, 16)
