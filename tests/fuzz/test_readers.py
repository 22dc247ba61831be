"""Every reader gives what a file holds, or an InputError that names the file; never another exception, never a hang."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import given

from ragcun.config import TrainConfig
from ragcun.data.beir import Document, load_collection, read_qrels, write_collection, write_qrels
from ragcun.data.overlap import read_held_out, read_seen
from ragcun.data.pairs import FIELDS, read_pairs
from ragcun.data.records import is_encodable, read_documents
from ragcun.embeddings.precomputed import read_vectors
from ragcun.errors import InputError
from ragcun.options import from_mapping, read_yaml
from ragcun.reporting.comparison import compare
from ragcun.reporting.files import read_named
from ragcun.reporting.formats import csv_comparison, latex_comparison, markdown_comparison
from ragcun.reporting.isotropy import measure_tables, read_isotropy
from ragcun.reporting.plots import loss_figure, rank_figure
from ragcun.reporting.tables import results_table
from ragcun.reporting.verdicts import metric_tables, verdicts
from ragcun.results import Results
from ragcun.retrieval.runs import read_run, write_run
from tests.fuzz.hostile import FUZZ, hostile

Value = TypeVar("Value")


def read_or_refused(
    path: Path, content: bytes, read: Callable[[Path], Value], place: Path | None = None, names_itself: bool = True
) -> Value | None:
    """Write a file and read it; None where it is refused, which has to be one short line that names the file.

    Where a message names what a file calls its systems and sets, they may be long and hold line feeds, which
    `run_script` turns into blanks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    try:
        return read(path)
    except InputError as error:
        message = str(error)
        assert str(place or path) in message
        assert not names_itself or ("\n" not in message and len(message) < 2000)
        return None


PAIRS = [
    {"query": "one", "positive": "a b", "negative": "c"},
    {"query": "zwei é", "positive": "d"},
    {"x": "e", "y": "f"},
]
CSV = b'query,positive,negative\none,"a, b",c\nzwei,"d\ne",\n'
LINES = "\n".join(json.dumps(row, ensure_ascii=False) for row in PAIRS).encode()


@pytest.mark.parametrize("extension", [".jsonl", ".json", ".csv"])
def test_pairs(extension: str, tmp_path: Path) -> None:
    valid = {".jsonl": LINES, ".json": json.dumps(PAIRS, indent=1).encode(), ".csv": CSV}[extension]
    strategy = hostile(valid, None if extension == ".csv" else PAIRS, by_line=extension == ".jsonl")

    @FUZZ
    @given(strategy)
    def check(content: bytes) -> None:
        pairs = read_or_refused(tmp_path / f"a{extension}", content, read_pairs)
        if pairs is None:
            return
        assert len(pairs) == len(list(pairs.rows())) >= 1
        assert all(text.strip() and is_encodable(text) for text in (*pairs.queries, *pairs.documents))
        assert pairs.negative_ids.max() < len(pairs.documents)

    check()


def test_the_fields_of_pairs_are_what_is_fuzzed() -> None:
    assert {name for row in PAIRS for name in row} >= {name for names in FIELDS for name in names}


DOCUMENTS = [{"_id": "1", "title": "A", "text": "b c"}, {"text": "d"}, {"title": None, "text": ""}]


@pytest.mark.parametrize("extension", [".txt", ".jsonl", ".json", ".csv"])
def test_documents(extension: str, tmp_path: Path) -> None:
    lines = "\n".join(map(json.dumps, DOCUMENTS)).encode()
    valid = {".jsonl": lines, ".json": json.dumps(DOCUMENTS).encode(), ".csv": b'title,text\nA,"b ""c"""\n,d\n'}
    strategy = hostile(
        valid.get(extension, b"one two\n\nthree\n"), DOCUMENTS if "j" in extension else None, extension == ".jsonl"
    )

    @FUZZ
    @given(strategy)
    def check(content: bytes) -> None:
        documents = read_or_refused(tmp_path / f"a{extension}", content, read_documents)
        if documents is None:
            return
        assert documents
        for document in documents:
            assert document.content == document.content.strip()
            assert is_encodable(document.content)

    check()


CORPUS = [{"_id": f"d{i}", "title": "", "text": f"text {i}"} for i in range(3)]
QUERIES = [{"_id": "q1", "text": "one"}, {"_id": "q2", "text": "two", "metadata": {}}]
QRELS = b"query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td2\t2\nq2\td0\t0\n"


@pytest.mark.parametrize("file", ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"])
def test_collections(file: str, tmp_path: Path) -> None:
    folder = tmp_path / "toy"
    documents = {row["_id"]: Document("", row["text"]) for row in CORPUS}
    qrels = {"q1": {"d1": 1}, "q2": {"d2": 2, "d0": 0}}
    write_collection(folder, documents, {row["_id"]: row["text"] for row in QUERIES}, {"test": qrels})
    rows = {"corpus.jsonl": CORPUS, "queries.jsonl": QUERIES}.get(file)
    valid = QRELS if rows is None else "\n".join(map(json.dumps, rows)).encode()

    @FUZZ
    @given(hostile(valid, rows, by_line=True))
    def check(content: bytes) -> None:
        collection = read_or_refused(folder / file, content, lambda _: load_collection(folder), folder)
        if collection is None:
            return
        assert collection.queries.keys() == collection.qrels.keys() != set()
        assert all(text.strip() for text in collection.queries.values())
        for key in (
            *collection.documents,
            *collection.queries,
            *(key for each in collection.qrels.values() for key in each),
        ):
            assert key.strip()
            assert is_encodable(key)
        assert collection.sha256()

    check()


@FUZZ
@given(content=hostile(QRELS))
def test_qrels_survive_writing(content: bytes, tmp_path: Path) -> None:
    qrels = read_or_refused(tmp_path / "a.tsv", content, read_qrels)
    if qrels is not None:
        write_qrels(tmp_path / "b.tsv", qrels)
        assert read_qrels(tmp_path / "b.tsv") == qrels


RUN = b"q1 Q0 d1 1 0.75 tag\nq1 Q0 d2 2 0.5 tag\nq2\tQ0\td1 1 -1e-3 tag\n"


@FUZZ
@given(content=hostile(RUN))
def test_runs_survive_writing(content: bytes, tmp_path: Path) -> None:
    run = read_or_refused(tmp_path / "a.trec", content, read_run)
    if run is None:
        return
    assert all(math.isfinite(score) for documents in run.values() for score in documents.values())
    write_run(tmp_path / "b.trec", run, "tag")
    again = read_run(tmp_path / "b.trec")
    assert again == run
    assert [list(documents) for documents in again.values()] == [list(documents) for documents in run.values()]


YAML = b"epochs: 3\noutput_dir: out\nlambda_contrastive: 1.0\nhead: linear\ntrain_data: a.json\nfreeze_base: true\n"


@FUZZ
@given(content=hostile(YAML, {"epochs": 3, "head": "linear", "output_dir": "x", "freeze_base": True, "seed": 1}))
def test_configurations(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    config = read_or_refused(path, content, lambda path: from_mapping(TrainConfig, read_yaml(path), str(path)))
    assert config is None or config.epochs is None or config.epochs >= 0


FIGURES = {
    "NDCG@10": 0.5, "n_queries": 3, "p_randomisation": 0.2, "p_t": 0.1, "mean_difference": 0.1,
    "seen": {"n_queries": 1, "NDCG@10": 0.5}, "unseen": {"n_queries": 2, "NDCG@10": 0.4, "p_randomisation": 0.3},
}  # fmt: skip
SYSTEM = {
    "model": "base",
    "datasets": {"toy": FIGURES, "set": FIGURES, "set/one": FIGURES},
    "average": {"NDCG@10": 0.5},
}
ABOUT = {"split": "test", "queries": 3, "documents": 9, "sha256": "ab"}
RESULTS = {
    **SYSTEM, "model": "run/best_model", "distance": "euclidean", "precision": "int8", "truncate_dim": 8,
    "bytes_per_vector": 8, "untouched_base": SYSTEM, "baselines": {"bm25": {**SYSTEM, "model": "bm25"}},
    "manifest": {"command": "x", "seed": 0, "tested": "NDCG@10", "held_out": None, "data_dir": "data",
                 "collections": {"toy": ABOUT, "set": ABOUT, "set/one": {**ABOUT, "part_of": "set"}}},
}  # fmt: skip


@FUZZ
@given(content=hostile(json.dumps(RESULTS).encode(), RESULTS))
def test_results_and_all_tables_of_them(content: bytes, tmp_path: Path) -> None:
    def tables(path: Path) -> str:
        comparison = compare([read_named(str(path))])
        parts = (markdown_comparison(comparison), csv_comparison([comparison]), latex_comparison(comparison))
        results = Results.read(path)
        assert metric_tables(results)
        return "".join((*parts, results_table(results), *(each.sentence for each in verdicts(results))))

    text = read_or_refused(tmp_path / "a.json", content, tables, names_itself=False)
    assert text is None or text


DISTRIBUTION = {
    "n": 3,
    "mean": 1.0,
    "std": 1.0,
    "min": 0,
    "max": 2.0,
    "quantiles": {"0.5": 1.0},
    "edges": [0.0, 1.0, 2.0],
    "counts": [1, 2],
}
MEASURES = {"a": {"value": 0.5, "low": None, "high": 1, "n": 3, "isotropic": 0.5}}
SPACE = {"n": 3, "dim": 2, "measures": MEASURES, "spectrum": [1.0, 0.5],
         "norms": DISTRIBUTION, "distances": {"random": DISTRIBUTION, "nearest": DISTRIBUTION},
         "k_occurrence": {"k": 1, "n": 3, "counts": {"0": 3}}}  # fmt: skip
ISOTROPY = {
    "format": 1,
    "data": {"name": "toy", "n_documents": 3, "n_queries": 0},
    "systems": [{"model": "m", "untouched": True, "distance": "dot", "spaces": {"documents": SPACE}}],
}


@FUZZ
@given(content=hostile(json.dumps(ISOTROPY).encode(), ISOTROPY))
def test_isotropy_reports(content: bytes, tmp_path: Path) -> None:
    report = read_or_refused(tmp_path / "a.json", content, read_isotropy)
    assert report is None or measure_tables(report.systems)


METRICS = [
    {"kind": "base", "dev": {"NDCG@10": 0.5}}, {"kind": "step", "step": 1, "total": 0.7, "terms": {"a": 0.5}},
    {"kind": "step", "step": 2, "total": 0.6, "terms": {"a": 0.4}}, {"kind": "collapse", "step": 2, "collapse": "full"},
    {"kind": "probe", "step": 2, "figures": {"rank_query": 3.0, "rank_document": 2.0, "rank_bound": 8}},
    {"kind": "epoch", "step": 2, "epoch": 1, "val_total": 0.5, "dev": {"NDCG@10": 0.6}},
]  # fmt: skip


@FUZZ
@given(content=hostile("\n".join(map(json.dumps, METRICS)).encode(), METRICS, by_line=True))
def test_metrics_of_a_run(content: bytes, tmp_path: Path) -> None:
    read_or_refused(tmp_path / "metrics.jsonl", content, loss_figure)
    read_or_refused(tmp_path / "metrics.jsonl", content, rank_figure)


def matrix_bytes(values: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


@pytest.mark.parametrize("file", ["documents.txt", "documents.npy", "queries.txt"])
def test_folders_of_vectors(file: str, tmp_path: Path) -> None:
    documents = {f"d{i}": Document("", f"text {i}") for i in range(3)}
    write_collection(tmp_path / "toy", documents, {"q": "one"}, {"test": {"q": {"d1": 1}}})
    collection, folder = load_collection(tmp_path / "toy"), tmp_path / "vectors"
    matrix = np.arange(12, dtype=np.float32).reshape(3, 4)
    files = {"documents.txt": b"d0\nd1\nd2\n", "documents.npy": matrix_bytes(matrix),
             "queries.txt": b"q\n", "queries.npy": matrix_bytes(matrix[:1])}  # fmt: skip
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)

    @FUZZ
    @given(hostile(files[file]))
    def check(content: bytes) -> None:
        store = read_or_refused(folder / file, content, lambda _: read_vectors(folder, [collection]), folder)
        if store is not None:
            found = store.encode([document.content for document in collection.documents.values()], "document")
            assert found.shape == (3, store.base.dimension)
            assert np.isfinite(found).all()

    check()


@FUZZ
@given(content=hostile(b'["00112233445566778899aabbccddeeff"]', ["00112233445566778899aabbccddeeff"]))
def test_records_of_seen_documents(content: bytes, tmp_path: Path) -> None:
    seen = read_or_refused(tmp_path / "ragcun" / "seen_documents.json", content, lambda _: read_seen(tmp_path))
    assert seen is None or all(len(digest) == 32 for digest in seen)


@FUZZ
@given(content=hostile(b'{"fraction": 0.5, "seed": 1}', {"fraction": 0.5, "seed": 1}))
def test_records_of_hidden_documents(content: bytes, tmp_path: Path) -> None:
    held_out = read_or_refused(tmp_path / "ragcun" / "held_out.json", content, lambda _: read_held_out(tmp_path))
    assert held_out is None or 0 < held_out.fraction < 1
