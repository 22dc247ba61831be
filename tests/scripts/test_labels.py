"""ragcun memorize, ragcun overlap and evaluate --baseline simple, on the toy collection."""

import json

import numpy as np
import pytest

from ragcun import load_collection
from ragcun.cli.main import main
from ragcun.io import read_json
from ragcun.retrieval.runs import write_run


def test_the_simple_rivals_stand_beside_an_untouched_model(evaluate, tiny_bert, tmp_path):
    """Nothing can be chosen by the toy's 20 dev queries: documents stay, and fusion has its fixed weight."""
    results, shown = evaluate("--model", tiny_bert, "--baseline", "simple", "--hybrid", "bm25", "--memory")
    names = [row["model"] for row in results["baselines"].values()]
    model = results["model"]
    both = f"{model} (memory) + bm25 (memory) + feedback"
    rivals = ["bm25", f"{model} + bm25", f"{model} + bm25 + feedback", f"{model} (memory)", both, "bm25 (memory)"]
    assert sorted(names) == sorted(rivals)
    scores = {row["model"]: row["datasets"]["toy"] for row in results["baselines"].values()}
    assert scores["bm25 (memory)"]["NDCG@10"] == scores["bm25"]["NDCG@10"]
    assert scores[f"{model} (memory)"]["NDCG@10"] == results["datasets"]["toy"]["NDCG@10"]
    assert all({"seen", "unseen", "p_randomisation"} <= row.keys() for row in scores.values())
    assert f"toy, {both}: feedback" in shown


def test_memorize_writes_vectors_beside_an_index(tiny_bert, collection_folder, tmp_path, capsys):
    place = ["--datasets", "toy", "--data_dir", str(collection_folder.parent), "--device", "cpu"]
    for strength, name in (("0", "still"), ("1", "moved")):
        out = ["--output_dir", str(tmp_path / name), "--strength", strength, "--cache_dir", str(tmp_path / "cache")]
        main(["memorize", "--model", tiny_bert, *place, *out])
    assert "strength 1.0: as given" in capsys.readouterr().out
    still, moved = (np.load(tmp_path / name / "toy" / "documents.npy") for name in ("still", "moved"))
    ids = (tmp_path / "moved" / "toy" / "documents.txt").read_text().split()
    assert ids == list(load_collection(collection_folder).documents)
    assert len(ids) == len(moved) > (still != moved).any(axis=1).sum() > 0
    assert read_json(tmp_path / "moved" / "toy" / "memory.json")["chosen"] == 1


def test_overlap_splits_runs_of_any_program(tmp_path, capsys):
    """Query 1 asks for a document of training, whatever its id; TREC qrels are read as well."""
    (tmp_path / "train.tsv").write_text("9\ta\t1\n9\tb\t0\n")
    (tmp_path / "qrels.txt").write_text("1 0 a 1\n2 0 b 1\n3 0 c 1\n")
    write_run(tmp_path / "one.trec", {"1": {"a": 2.0, "1": 1.0}, "2": {"x": 2.0, "b": 1.0}}, "one")
    write_run(tmp_path / "two.trec", {"1": {"1": 2.0, "a": 1.0}, "2": {"b": 2.0}, "3": {"c": 1.0}}, "two")
    runs = [str(tmp_path / name) for name in ("one.trec", "two.trec")]
    flags = ["--train", tmp_path / "train.tsv", "--qrels", tmp_path / "qrels.txt", "--output_file", tmp_path / "o.json"]
    main(["overlap", *map(str, flags), "--run", *runs])
    scores = read_json(tmp_path / "o.json")["datasets"]["qrels"]
    assert (scores["seen"]["n_queries"], scores["seen"]["NDCG@10"]) == (1, 1)
    assert scores["unseen"]["NDCG@10"] == pytest.approx(np.log2(2) / np.log2(3) / 2)
    other = read_json(tmp_path / "o.json")["baselines"]["two"]["datasets"]["qrels"]
    assert other["seen"]["NDCG@10"] == pytest.approx(1 / np.log2(3))
    assert other["unseen"]["mean_difference"] < 0
    assert "qrels, unseen" in capsys.readouterr().out
    main(["overlap", *map(str, flags), "--run", *runs, "--json"])
    assert json.loads(capsys.readouterr().out) == read_json(tmp_path / "o.json")
