from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ragcun.data.beir import Document, load_collection, pairs_from_collection, write_collection
from ragcun.data.pairs import read_pairs

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "prepare_data.py"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths})


@pytest.fixture
def source(tmp_path):
    documents = {f"d{i}": Document(f"Title {i}", f"text {i}") for i in range(30)}
    queries = {f"q{i}": f"query {i}" for i in range(30)}
    qrels = {query: {f"d{i}": 1} for i, query in enumerate(queries)}
    splits = {"train": dict(list(qrels.items())[:20]), "test": dict(list(qrels.items())[20:])}
    write_collection(tmp_path / "source", documents, queries, splits)
    return tmp_path / "source"


def test_python_docs_become_a_beir_folder_with_pairs(tmp_path):
    arguments = ("--documents", "python_docs", "--packages", "statistics", "argparse", "tqdm", "--max_documents", 20)
    result = run(*arguments, "--output_dir", tmp_path / "docs")
    assert result.returncode == 0, result.stderr
    splits = {split: load_collection(tmp_path / "docs", split) for split in ("train", "dev", "test")}
    assert [len(collection.queries) for collection in splits.values()] == [16, 2, 2]
    assert all(len(collection.documents) == 20 for collection in splits.values())
    for split in ("train", "dev"):
        pairs = read_pairs(tmp_path / "docs" / "pairs" / f"{split}.jsonl")
        assert list(pairs.rows()) == list(pairs_from_collection(splits[split]).rows())
    assert not (tmp_path / "docs" / "pairs" / "test.jsonl").exists()
    assert "20 documents" in result.stdout
    files = {path: path.read_bytes() for path in (tmp_path / "docs").rglob("*") if path.is_file()}
    assert run(*arguments, "--output_dir", tmp_path / "docs").returncode == 0
    assert {path: path.read_bytes() for path in (tmp_path / "docs").rglob("*") if path.is_file()} == files


def test_held_out_queries_are_the_dev_split(source, tmp_path):
    result = run("--documents", source, "--split_name", "train", "--hold_out", 0.2, "--output_dir", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    train, dev = load_collection(tmp_path / "out", "train"), load_collection(tmp_path / "out", "dev")
    assert train.qrels | dev.qrels == load_collection(source, "train").qrels
    assert (len(train.qrels), len(dev.qrels)) == (16, 4)
    assert sorted(path.name for path in (tmp_path / "out" / "qrels").iterdir()) == ["dev.tsv", "train.tsv"]
    assert set(read_pairs(tmp_path / "out" / "pairs" / "train.jsonl").queries) == set(train.queries.values())
    assert "16 in train, 4 in dev" in result.stdout


@pytest.fixture
def passages(tmp_path):
    lines = [f"Passage {i} is first. Then the {i}th fact comes. It ends with {i} here." for i in range(50)]
    (tmp_path / "wiki.txt").write_text("\n".join(["too short", *lines]) + "\n")
    return tmp_path / "wiki.txt"


def test_pairs_are_generated_from_documents_and_split_by_document(passages, tmp_path):
    out, whole = tmp_path / "out", tmp_path / "out" / "data.json"
    generate = ("--documents", passages, "--generate_pairs", "--output", whole, "--output_dir", out)
    result = run(*generate, "--num_pairs", 40, "--split", 0.8, 0.1, 0.1)
    assert result.returncode == 0, result.stderr
    sets = [list(read_pairs(out / name).rows()) for name in ("train.json", "val.json", "test_eval.json")]
    assert [len(rows) for rows in sets] == [32, 4, 4]
    rows = [row for rows in sets for row in rows]
    assert list(read_pairs(whole).rows()) == rows
    assert len(set(rows)) == 40
    for query, positive, negative in rows:
        number = query.split()[1]
        assert query == f"Passage {number} is first."
        assert positive == f"Then the {number}th fact comes. It ends with {number} here."
        assert negative is None
    assert f"{out / 'train.json'}: 32 pairs" in result.stdout
    files = {path: path.read_bytes() for path in out.iterdir()}
    assert run(*generate, "--num_pairs", 40).returncode == 0
    assert {path: path.read_bytes() for path in out.iterdir()} == files
    assert run(*generate, "--num_pairs", 40, "--seed", 1).returncode == 0
    assert whole.read_bytes() != files[whole]


def test_every_method_and_a_file_alone(passages, source, tmp_path):
    masking = ("--method", "mask_suffix", "--masked_share", 0.5, "--mask", "", "--split", 1, 0, 0)
    result = run("--documents", passages, "--generate_pairs", *masking, "--output", tmp_path / "all.jsonl")
    assert result.returncode == 0, result.stderr
    pairs = read_pairs(tmp_path / "all.jsonl")
    assert len(pairs) == 50
    assert all(positive.startswith(f"{query} ") for query, positive, _ in pairs.rows())
    assert {(len(query.split()), len(positive.split())) for query, positive, _ in pairs.rows()} == {(7, 14)}
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--documents", "wiki", "--output_dir", "out"), "add --generate_pairs"),
        (("--documents", "wiki"), "--output_dir is missing"),
        (("--documents", "wiki", "--output", "out/x.json"), "--output_dir is missing"),
        (("--documents", "wiki", "--generate_pairs"), "--output_dir and --output are both missing"),
        (("--documents", "wiki", "--generate_pairs", "--output", "out/x.csv"), "name the file .jsonl or .json"),
        (("--documents", "wiki", "--generate_pairs", "--output_dir", "out", "--method", "haf"), "did you mean 'half'"),
        (("--documents", "wiki", "--generate_pairs", "--output_dir", "out", "--num_pairs", "0"), "got 0"),
        (("--documents", "wiki", "--generate_pairs", "--output_dir", "out", "--mask", "x"), "masks nothing"),
        (("--documents", "wiki", "--generate_pairs", "--output_dir", "out", "--method", "title_body"), "long enough"),
        (("--documents", "wiki", "--generate_pairs", "--output_dir", "out", "--split", "1", "1", "1"), "sum to 1"),
        (("--documents", "python_docs", "--generate_pairs", "--output_dir", "out"), "leave out --generate_pairs"),
        (("--documents", "absent.txt", "--generate_pairs", "--output_dir", "out"), "no such file: absent.txt"),
        (("--documents", "bad", "--generate_pairs", "--output_dir", "out"), "bad.jsonl, line 2"),
    ],
)
def test_wrong_input_for_generated_pairs(fails_clearly, passages, tmp_path, arguments, message):
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"text": 3}\n')
    places = {"wiki": passages, "bad": tmp_path / "bad.jsonl", "out": tmp_path / "out"}
    places |= {f"out/x{extension}": tmp_path / "out" / f"x{extension}" for extension in (".json", ".csv")}
    assert message in fails_clearly("prepare_data", *(places.get(argument, argument) for argument in arguments))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--documents", "absent", "--output_dir", "out"), "no such folder: absent"),
        (("--documents", "python_docs", "--packages", "no_such", "--output_dir", "out"), "'no_such'"),
        (("--documents", "SOURCE", "--output_dir", "SOURCE"), "is the folder that is read"),
        (("--documents", "SOURCE", "--output_dir", "out", "--split_name", "dev"), "there is test, train"),
        (("--documents", "SOURCE", "--output_dir", "out", "--hold_out", "1.5"), "cannot hold out 1.5"),
    ],
)
def test_wrong_input_is_one_sentence_and_code_2(source, tmp_path, arguments, message):
    places = {"SOURCE": str(source), "out": str(tmp_path / "out")}
    result = run(*(places.get(argument, argument) for argument in arguments))
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_help_names_every_flag_without_heavy_imports():
    program = f"import runpy, sys; sys.argv = ['x', '--help']; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    code = f"try:\n    exec({program!r})\nexcept SystemExit:\n    print('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", f"import sys\n{code}"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    named = "documents output_dir seed max_documents packages split split_name hold_out"
    for flag in f"{named} generate_pairs method num_pairs masked_share mask output".split():
        assert f"--{flag} " in result.stdout
    assert result.stdout.splitlines()[-1] == "False"
