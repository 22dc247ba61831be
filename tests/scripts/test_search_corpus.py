"""scripts/search_corpus.py in one process, run as a user does; tests/distributed runs the same on Ray."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time

import pytest

from ragcun import IsotropicGaussianEncoder, TextBase
from ragcun.retrieval.runs import read_run

from .conftest import SCRIPTS


@pytest.fixture(scope="module")
def checkpoint(tiny_bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint") / "best_model"
    IsotropicGaussianEncoder(TextBase.load(tiny_bert, device="cpu"), output_dim=4, head="mlp").save_pretrained(folder)
    return folder


@pytest.fixture
def place(collection_folder, tmp_path):
    data = ("--datasets", "toy", "--data_dir", collection_folder.parent)
    return (*data, "--output_file", tmp_path / "run.trec", "--device", "cpu", "--block_rows", 16)


def test_shows_what_an_evaluation_shows(run_script, place, checkpoint, collection_folder, tmp_path):
    done = run_script("search_corpus", "--model_path", checkpoint, *place, "--shards", 3)
    assert done.code == 0, done.err
    data = ("--datasets", "toy", "--data_dir", collection_folder.parent)
    assert (
        run_script("evaluate_beir", "--model_path", checkpoint, *data, "--output_file", tmp_path / "e.json").code == 0
    )
    score = json.loads((tmp_path / "e.json").read_text())["datasets"]["toy"]["NDCG@10"]
    work = tmp_path / "run.trec.work" / "toy"
    assert done.out == f"toy: NDCG@10 {score:.4f}; run file: {tmp_path / 'run.trec'}, vectors: {work}\n"
    ours, theirs = (read_run(file) for file in (tmp_path / "run.trec", tmp_path / "e.runs" / "toy" / "model.trec"))
    assert ours.keys() == theirs.keys()
    assert {len(documents) for documents in ours.values()} == {100}
    for query, documents in ours.items():
        assert max(documents.values()) == pytest.approx(max(theirs[query].values()), abs=1e-5)
    assert len(list(work.glob("documents-*-of-00003.npy"))) == 3


def test_shards_and_a_second_call_change_nothing(run_script, place, checkpoint, tmp_path):
    files = []
    for shards in (1, 4, 4):
        work = ("--work_dir", tmp_path / f"work{shards}", "--top_k", 7, "--shards", shards)
        done = run_script("search_corpus", "--model_path", checkpoint, *place, *work)
        assert done.code == 0, done.err
        assert "NDCG@7 " in done.out
        files.append((tmp_path / "run.trec").read_bytes())
    assert files[0] == files[1] == files[2]


def test_several_datasets_have_a_file_each(run_script, tiny_bert, collection_folder, tmp_path):
    for name in ("toy", "twin"):
        shutil.copytree(collection_folder, tmp_path / "data" / name)
    data = (
        "--datasets",
        "toy",
        "twin",
        "--data_dir",
        tmp_path / "data",
        "--output_file",
        tmp_path / "out" / "run.trec",
    )
    done = run_script("search_corpus", "--model", tiny_bert, *data, "--split", "dev", "--device", "cpu")
    assert done.code == 0, done.err
    assert [line.split(":")[0] for line in done.out.splitlines()] == ["toy", "twin"]
    files = [tmp_path / "out" / f"run.{name}.trec" for name in ("toy", "twin")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert len(read_run(files[0])) == 20


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--shards", 0), "--shards must be at least 1, got 0"),
        (("--shards", 9), "8 blocks of 16, which make at most 8, not 9"),
        (("--top_k", 0), "--top_k must be at least 1"),
        (("--workers", -1), "--workers must be at least 0"),
        (("--workers", 2, "--address", "auto"), "not allowed with argument"),
        (("--gpus_per_task", 1), "--gpus_per_task is of Ray tasks"),
        (("--gpus_per_task", "nan"), "--gpus_per_task must be a number of at least 0"),
        (("--base_dtype", "int4"), "invalid choice"),
    ],
)
def test_wrong_flags_are_one_sentence_and_write_no_run(fails_clearly, place, tiny_bert, tmp_path, flags, sentence):
    assert sentence in fails_clearly("search_corpus", "--model", tiny_bert, *place, *flags)
    assert not (tmp_path / "run.trec").exists()


def test_what_is_missing_is_one_sentence(fails_clearly, place, tiny_bert, monkeypatch, tmp_path):
    assert "bm25 has no embeddings" in fails_clearly("search_corpus", "--model", "bm25", *place)
    nowhere = ("--datasets", "nothing", "--data_dir", place[3], "--output_file", tmp_path / "run.trec")
    assert "no collection 'nothing'" in fails_clearly("search_corpus", "--model", tiny_bert, *nowhere)
    (tmp_path / "file").write_text("")
    taken = fails_clearly("search_corpus", "--model", tiny_bert, *place, "--work_dir", tmp_path / "file")
    assert str(tmp_path / "file") in taken
    monkeypatch.setitem(sys.modules, "ray", None)
    message = fails_clearly("search_corpus", "--model", tiny_bert, *place, "--workers", 2)
    assert "pip install 'ragcun[distributed]'" in message


def test_help_is_quick_and_imports_nothing_heavy():
    """3 s are ten times what it takes; the imports are what would cost more."""
    code = (
        "import runpy, sys\nsys.argv = ['search_corpus.py', '--help']\n"
        f"try:\n    runpy.run_path({str(SCRIPTS / 'search_corpus.py')!r}, run_name='__main__')\n"
        "except SystemExit:\n    pass\nassert not {'torch', 'numpy', 'ray'} & set(sys.modules), sys.modules.keys()"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - start < 3
    assert "--work_dir" in done.stdout
