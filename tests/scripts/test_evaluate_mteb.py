"""evaluate_mteb.py: a checkpoint beside its untouched base, what is written, and what is refused."""

import json
import sys

import pytest

from ragcun.io import write_json

pytest.importorskip("mteb")


def test_a_checkpoint_beside_its_base(run_script, evaluate, checkpoint, tiny_bert, collection_folder, tmp_path):
    place = ("--datasets", "toy", "--data_dir", collection_folder.parent, "--output_dir", tmp_path / "mteb")
    shown = run_script("evaluate_mteb", "--model_path", checkpoint, *place)
    expected, _ = evaluate("--model_path", checkpoint)
    (file,) = (tmp_path / "mteb").glob("*.json")
    results = json.loads(file.read_text())
    assert file.stem.split("-")[-2] == "best_model"
    assert results["model"] == str(checkpoint)
    assert results["untouched_base"]["model"] == f"{tiny_bert} (untouched)"
    assert (results["distance"], results["untouched_base"]["distance"]) == ("euclidean", "cosine")
    for there, here in ((results, expected), (results["untouched_base"], expected["untouched_base"])):
        score = there["tasks"]["toy"]["NDCG@10"]
        assert score == pytest.approx(here["datasets"]["toy"]["NDCG@10"], abs=1e-3)
        assert f" {score:.4f} " in shown
    assert results["tasks"] != results["untouched_base"]["tasks"]
    assert results["manifest"]["mteb"].startswith("2.")
    assert file.with_suffix(".md").read_text() in shown
    assert not list((tmp_path / "mteb").glob(".*"))


def test_a_published_model_stands_alone_with_one_mean_over_tasks(run_script, tiny_bert, collection_folder, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for name in ("toy", "twin"):
        (data / name).symlink_to(collection_folder)
    place = ("--datasets", "toy", "twin", "--data_dir", data, "--output_dir", tmp_path / "mteb", "--split", "dev")
    shown = run_script("evaluate_mteb", "--model", tiny_bert, *place)
    (file,) = (tmp_path / "mteb").glob("*.json")
    results = json.loads(file.read_text())
    assert results["untouched_base"] is None
    assert list(results["tasks"]) == ["toy", "twin"]
    assert all("-dev-" in task["task"] for task in results["tasks"].values())
    assert "mean" in shown
    assert shown.count("| /") == 1


def test_wrong_input_writes_nothing(fails_clearly, checkpoint, collection_folder, tmp_path, monkeypatch):
    place = ("--data_dir", collection_folder.parent, "--output_dir", tmp_path / "out")
    model, toy = ("--model_path", checkpoint), ("--datasets", "toy")
    headless, file = tmp_path / "heads", tmp_path / "file"
    write_json(headless / "ragcun" / "encoder.json", {})
    file.write_text("")
    for flags, fact in (
        ((*model, *place, "--tasks", "SciFact", "Scifac"), "'SciFact'"),
        (("--model", "bm25", *toy, *place), "no embeddings"),
        ((*model, *toy, *place[:2], "--output_dir", file), str(file)),
        (("--model_path", headless, *toy, *place), "no text model"),
    ):
        assert fact in fails_clearly("evaluate_mteb", *flags)
    monkeypatch.setitem(sys.modules, "mteb", None)
    assert "ragcun[mteb]" in fails_clearly("evaluate_mteb", *model, *toy, *place)
    assert not (tmp_path / "out").exists()


def test_a_task_whose_data_cannot_be_fetched_leaves_no_results(fails_clearly, checkpoint, tmp_path, monkeypatch):
    from datasets import config

    monkeypatch.setattr(config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    flags = ("--model_path", checkpoint, "--tasks", "SciFact", "--output_dir", tmp_path / "out")
    said = fails_clearly("evaluate_mteb", *flags)
    assert "mteb cannot run SciFact" in said
    assert "--datasets" in said
    assert not list((tmp_path / "out").glob("*.json"))
