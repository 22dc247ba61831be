"""scripts/search_corpus.py in one process, run as a user does; tests/distributed runs the same on Ray."""

import shutil
import sys

import pytest

from ragcun.retrieval.runs import read_run


@pytest.fixture
def place(collection_folder, tmp_path):
    data = ("--datasets", "toy", "--data_dir", collection_folder.parent)
    return (*data, "--output_file", tmp_path / "run.trec", "--device", "cpu", "--block_rows", 16)


def test_shows_what_an_evaluation_shows(run_script, evaluate, place, checkpoint, tmp_path):
    shown = run_script("search_corpus", "--model_path", checkpoint, *place, "--shards", 3)
    results, _ = evaluate("--model_path", checkpoint)
    score = results["datasets"]["toy"]["NDCG@10"]
    work = tmp_path / "run.trec.work" / "toy"
    assert shown == f"toy: NDCG@10 {score:.4f}; run file: {tmp_path / 'run.trec'}, vectors: {work}\n"
    assert {len(documents) for documents in read_run(tmp_path / "run.trec").values()} == {100}
    assert len(list(work.glob("documents-*-of-00003.npy"))) == 3


@pytest.mark.parametrize("feedback", [(), ("--feedback", 2, "--feedback_weight", 0.6)])
def test_hybrid_search_finds_what_a_hybrid_evaluation_shows(
    run_script, evaluate, place, checkpoint, tmp_path, feedback
):
    """Both times that it is run: the second finds vectors of documents there, and other queries' results."""
    hybrid = ("--model_path", checkpoint, "--hybrid", "bm25", "--hybrid_weight", 0.3)
    evaluate(*hybrid, *(feedback or ("--feedback", 0)))
    runs = {path.stem[-8:]: read_run(path) for path in (tmp_path / "r.runs" / "toy").glob("*best-model-bm25*.trec")}
    theirs = runs["feedback" if feedback else "del-bm25"]
    assert len(runs) == len({str(run) for run in runs.values()}) == 1 + bool(feedback)
    for _ in range(2):
        run_script("search_corpus", *hybrid, *place, "--top_k", 7, "--shards", 3, *feedback)
        ours = read_run(tmp_path / "run.trec")
        assert ours.keys() == theirs.keys()
        for query, documents in ours.items():
            assert list(documents) == list(theirs[query])[:7]
            assert list(documents.values()) == pytest.approx(list(theirs[query].values())[:7], abs=1e-5)


def test_several_datasets_have_a_file_each(run_script, tiny_bert, collection_folder, tmp_path):
    for name in ("toy", "twin"):
        shutil.copytree(collection_folder, tmp_path / "data" / name)
    place = ("--data_dir", tmp_path / "data", "--output_file", tmp_path / "out" / "run.trec")
    data = ("--datasets", "toy", "twin", *place)
    shown = run_script("search_corpus", "--model", tiny_bert, *data, "--split", "dev", "--top_k", 7, "--device", "cpu")
    assert [line.split(":")[0] for line in shown.splitlines()] == ["toy", "twin"]
    assert shown.count("NDCG@7 ") == 2
    files = [tmp_path / "out" / f"run.{name}.trec" for name in ("toy", "twin")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert len(read_run(files[0])) == 20


@pytest.mark.parametrize(
    ("flags", "facts"),
    [
        (("--shards", 9), ("--shards", "8 blocks of 16", "9")),
        (("--gpus_per_task", 1), ("--gpus_per_task", "Ray")),
        (("--feedback", 2), ("--feedback needs --hybrid",)),
        (("--hybrid", "bm25", "--feedback_weight", 0.3), ("--feedback_weight is of --feedback",)),
        (("--datasets", "nothing"), ("no collection 'nothing'",)),
        (("--work_dir", __file__), (__file__,)),
        (("--model", "none/there/is"), ("none/there/is",)),
    ],
)
def test_wrong_flags_are_one_sentence_and_write_nothing(fails_clearly, place, tiny_bert, tmp_path, flags, facts):
    message = fails_clearly("search_corpus", "--model", tiny_bert, *place, *flags)
    assert all(fact in message for fact in facts), message
    assert not list(tmp_path.iterdir())


def test_bm25_and_a_missing_ray_are_refused(fails_clearly, place, tiny_bert, monkeypatch):
    assert "no embeddings" in fails_clearly("search_corpus", "--model", "bm25", *place)
    monkeypatch.setitem(sys.modules, "ray", None)
    message = fails_clearly("search_corpus", "--model", tiny_bert, *place, "--workers", 2)
    assert "pip install 'ragcun[distributed]'" in message
