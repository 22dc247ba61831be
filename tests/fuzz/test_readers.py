"""Every reader gives what a file holds, or an InputError that names the file; never another exception, never a hang."""

import gzip
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from hypothesis import given

from ragcun import InputError, TrainConfig, read_pairs
from ragcun.data.beir import Document, load_collection, read_qrels, write_collection
from ragcun.data.beir_sets import CollectionFolder
from ragcun.data.overlap import read_held_out, read_seen
from ragcun.data.records import is_encodable, read_documents
from ragcun.embeddings.precomputed import read_vectors
from ragcun.isotropy.report import IsotropyReport
from ragcun.options import from_mapping, read_yaml
from ragcun.reporting.comparison import compare, read_named
from ragcun.reporting.formats import csv_comparison, latex_comparison, markdown_comparison
from ragcun.reporting.isotropy import measure_tables
from ragcun.reporting.plots import loss_figure, rank_figure
from ragcun.reporting.tables import metric_tables, results_table, verdicts
from ragcun.results import Results
from ragcun.retrieval.runs import read_run, write_run
from tests.fuzz.hostile import FUZZ, hostile
from tests.reporting.conftest import everything

PAIRS = [
    {"query": "one", "positive": "a b", "negative": "c"}, {"query": "é", "positive": "d"}, {"x": "e", "y": "f"},
    {"anchor": "g", "pos": ["h", "i"], "negative_1": "j", "negs": ["k", None]},
    {"question": "l", "answer": "m", "label": 1}, {"question": "l", "answer": "n", "label": 0},
]  # fmt: skip
CSV = b'query,positive,negative\none,"a, b",c\nzwei,"d\ne",\n'
DOCUMENTS = [{"_id": "1", "title": "A", "text": "b c"}, {"text": "d"}, {"title": None, "text": ""}]
CORPUS = [{"_id": f"d{i}", "title": "", "text": f"text {i}"} for i in range(3)]
QUERIES = [{"_id": "q1", "text": "one"}, {"_id": "q2", "text": "two", "metadata": {}}]
QRELS = b"query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td2\t2\nq2\td0\t0\n"
RUN = b"q 1\tQ0\td 1\t1\t0.75\ttag\nq1 Q0 d1 1 0.75 tag\nq1 Q0 d2 2 0.5 tag\nq2\tQ0\td1 1 -1e-3 tag\n"
YAML = b"epochs: 3\noutput_dir: out\nlambda_contrastive: 1.0\nhead: linear\ntrain_data: a.json\nfreeze_base: true\n"
SETTINGS = {"epochs": 3, "head": "linear", "output_dir": "x", "freeze_base": True, "seed": 1}
DISTRIBUTION = {
    "n": 3, "mean": 1.0, "std": 1.0, "min": 0, "max": 2.0, "quantiles": {"0.5": 1.0}, "edges": [0.0, 1.0, 2.0],
    "counts": [1, 2],
}  # fmt: skip
MEASURES = {"a": {"value": 0.5, "low": None, "high": 1, "n": 3, "isotropic": 0.5}}
SPACE = {"n": 3, "dim": 2, "measures": MEASURES, "spectrum": [1.0, 0.5],
         "norms": DISTRIBUTION, "distances": {"random": DISTRIBUTION, "nearest": DISTRIBUTION},
         "k_occurrence": {"k": 1, "n": 3, "counts": {"0": 3}}}  # fmt: skip
ISOTROPY = {
    "format": 1,
    "data": {"name": "toy", "n_documents": 3, "n_queries": 0},
    "systems": [{"model": "m", "untouched": True, "distance": "dot", "spaces": {"documents": SPACE}}],
}
METRICS = [
    {"kind": "base", "dev": {"NDCG@10": 0.5}}, {"kind": "step", "step": 1, "total": 0.7, "terms": {"a": 0.5}},
    {"kind": "step", "step": 2, "total": 0.6, "terms": {"a": 0.4}}, {"kind": "collapse", "step": 2, "collapse": "full"},
    {"kind": "probe", "step": 2, "figures": {"rank_query": 3.0, "rank_document": 2.0, "rank_bound": 8}},
    {"kind": "epoch", "step": 2, "epoch": 1, "val_total": 0.5, "dev": {"NDCG@10": 0.6}},
]  # fmt: skip
SEEN, HIDDEN = ["00112233445566778899aabbccddeeff"], {"fraction": 0.5, "seed": 1}
DOCUMENT_TEXTS = {row["_id"]: Document("", row["text"]) for row in CORPUS}


def lines(rows: list[Any]) -> bytes:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()


def pairs_are_whole(pairs: Any, _: Path) -> None:
    assert len(pairs) == len(list(pairs.rows())) >= 1
    assert all(text.strip() and is_encodable(text) for text in (*pairs.queries, *pairs.documents))
    assert pairs.negative_ids.max() < len(pairs.documents)


def documents_are_text(documents: Any, _: Path) -> None:
    assert documents
    assert all(each.content == each.content.strip() and is_encodable(each.content) for each in documents)


def make_collection(folder: Path) -> None:
    qrels = {"q1": {"d1": 1}, "q2": {"d2": 2, "d0": 0}}
    write_collection(folder / "toy", DOCUMENT_TEXTS, {row["_id"]: row["text"] for row in QUERIES}, {"test": qrels})


def collection_is_whole(collection: Any, _: Path) -> None:
    assert collection.queries.keys() == collection.qrels.keys() != set()
    assert all(text.strip() for text in collection.queries.values())
    judged = [key for each in collection.qrels.values() for key in each]
    assert all(key.strip() and is_encodable(key) for key in (*collection.documents, *collection.queries, *judged))
    assert collection.sha256()


def qrels_survive(qrels: Any, folder: Path) -> None:
    write_collection(folder / "again", {}, {}, {"test": qrels})
    assert read_qrels(folder / "again" / "qrels" / "test.tsv") == qrels


def run_survives(run: Any, folder: Path) -> None:
    assert all(math.isfinite(score) for documents in run.values() for score in documents.values())
    write_run(folder / "again.trec", run, "tag")
    assert json.dumps(read_run(folder / "again.trec")) == json.dumps(run)  # in the same order, too


def tables(path: Path) -> str:
    comparison = compare([read_named(str(path))])
    parts = (markdown_comparison(comparison), csv_comparison([comparison]), latex_comparison(comparison, None, "tab"))
    results = Results.read(path)
    assert metric_tables(results)
    return "".join((*parts, results_table(results), *verdicts(results)["against"]))


def npy(values: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def parquet() -> bytes:
    file = io.BytesIO()
    pd.DataFrame([{"query": "q", "positive": ["a", "b"], "neg": "c"}, {"query": "r", "positive": ["d"]}]).to_parquet(
        file
    )
    return file.getvalue()


MATRIX = np.arange(12, dtype=np.float32).reshape(3, 4)
VECTORS = {"documents.txt": b"d0\nd1\nd2\n", "queries.txt": b"q1\nq2\n"}
VECTORS |= {"documents.npy": npy(MATRIX), "queries.npy": npy(MATRIX[:2])}


def make_vectors(folder: Path) -> None:
    make_collection(folder)
    (folder / "vectors").mkdir()
    for name, content in VECTORS.items():
        (folder / "vectors" / name).write_bytes(content)


def read_vectors_of(path: Path) -> Any:
    return read_vectors(path.parent, [load_collection(path.parent.parent / "toy")])


def vectors_are_finite(store: Any, _: Path) -> None:
    found = store.encode([document.content for document in DOCUMENT_TEXTS.values()], "document")
    assert found.shape == (3, store.base.dimension)
    assert np.isfinite(found).all()


def read_settings(path: Path) -> TrainConfig:
    return from_mapping(TrainConfig, read_yaml(path), str(path))


def holds(condition: Callable[[Any], bool]) -> Callable[[Any, Path], None]:
    def check(value: Any, _: Path) -> None:
        assert condition(value)

    return check


class Kind(NamedTuple):
    """A kind of file: its reader, what holds of all that it reads, and valid bytes.

    ``json`` is the value that is given other parts, with `by_line` one a line; `make` makes the files beside it; a
    message may stop at the path `named` parts above the file, and is not `short` where it names systems and sets.
    """

    read: Callable[[Path], Any]
    check: Callable[[Any, Path], None]
    valid: bytes
    json: Any = None
    by_line: bool = False
    make: Callable[[Path], None] = lambda folder: None
    named: int = 0
    short: bool = True


def of_a_collection(rows: Any, valid: bytes, up: int) -> Kind:
    check = collection_is_whole
    return Kind(lambda path: load_collection(path.parents[up - 1]), check, valid, rows, True, make_collection, up)


def of_vectors(name: str) -> Kind:
    return Kind(read_vectors_of, vectors_are_finite, VECTORS[name], make=make_vectors, named=1)


def of_json(read: Callable[[Path], Any], condition: Callable[[Any], bool], value: Any, short: bool = True) -> Kind:
    return Kind(read, holds(condition), json.dumps(value).encode(), value, short=short)


KINDS = {
    "pairs.jsonl": Kind(read_pairs, pairs_are_whole, lines(PAIRS), PAIRS, True),
    "pairs.json": Kind(read_pairs, pairs_are_whole, json.dumps(PAIRS, indent=1).encode(), PAIRS),
    "pairs.csv": Kind(read_pairs, pairs_are_whole, CSV),
    "pairs.tsv": Kind(read_pairs, pairs_are_whole, "query\tlabel\ttext\nx\t1\ty\nx\t0\tz\n".encode("utf-16")),
    "pairs.jsonl.gz": Kind(read_pairs, pairs_are_whole, gzip.compress(lines(PAIRS))),
    "pairs.parquet": Kind(read_pairs, pairs_are_whole, parquet()),
    "a.txt": Kind(read_documents, documents_are_text, b"one two\n\nthree\n"),
    "a.jsonl": Kind(read_documents, documents_are_text, lines(DOCUMENTS), DOCUMENTS, True),
    "a.json": Kind(read_documents, documents_are_text, json.dumps(DOCUMENTS).encode(), DOCUMENTS),
    "a.tsv": Kind(read_documents, documents_are_text, b"1\tone\n2\ttwo three\n"),
    "a.csv": Kind(read_documents, documents_are_text, b'title,text\nA,"b ""c"""\n,d\n'),
    "toy/corpus.jsonl": of_a_collection(CORPUS, lines(CORPUS), 1),
    "toy/queries.jsonl": of_a_collection(QUERIES, lines(QUERIES), 1),
    "toy/qrels/test.tsv": of_a_collection(None, QRELS, 2),
    "qrels.tsv": Kind(read_qrels, qrels_survive, QRELS),
    "qrels.txt": Kind(read_qrels, qrels_survive, b"q1 0 d1 1\nq2 Q0 d2 2.0\n"),
    "a.trec": Kind(read_run, run_survives, RUN),
    "a.yaml": Kind(read_settings, holds(lambda config: config.epochs is None or config.epochs >= 0), YAML, SETTINGS),
    "results.json": of_json(tables, bool, everything(), short=False),
    "isotropy.json": of_json(lambda path: measure_tables(IsotropyReport.read(path).systems), bool, ISOTROPY),
    "metrics.jsonl": Kind(
        lambda path: (loss_figure(path), rank_figure(path)), holds(bool), lines(METRICS), METRICS, True
    ),
    "ragcun/seen_documents.json": of_json(
        lambda path: read_seen(path.parents[1]), lambda seen: all(len(key) == 32 for key in seen), SEEN
    ),
    "ragcun/held_out.json": of_json(
        lambda path: read_held_out(path.parents[1]), lambda it: 0 < it.fraction < 1, HIDDEN
    ),
    **{f"vectors/{name}": of_vectors(name) for name in ("documents.txt", "documents.npy", "queries.txt")},
}


@pytest.mark.parametrize("name", KINDS)
def test_a_file_is_read_or_refused_in_a_line_that_names_it(name: str, tmp_path: Path) -> None:
    kind, path = KINDS[name], tmp_path / name
    kind.make(tmp_path)
    path.parent.mkdir(parents=True, exist_ok=True)
    place = str([path, *path.parents][kind.named])

    def read_or_refused(content: bytes) -> str | None:
        path.write_bytes(content)
        try:
            value = kind.read(path)
        except InputError as error:
            return str(error)
        kind.check(value, tmp_path)
        return None

    @FUZZ
    @given(hostile(kind.valid, kind.json, kind.by_line))
    def check(content: bytes) -> None:
        message = read_or_refused(content)
        assert message is None or place in message
        assert message is None or not kind.short or ("\n" not in message and len(message) < 2000)

    check()
    assert read_or_refused(kind.valid) is None


@pytest.mark.parametrize(("key", "reads"), [("", False), (" ", False), ("a b ", True), ("a\n", True), ("a\tb", True)])
def test_ids_that_no_run_file_can_hold_are_refused_before_encoding(key: str, reads: bool, tmp_path: Path) -> None:
    """Training has no use for ids; an evaluation writes them between blanks."""
    folder = tmp_path / "toy"
    write_collection(folder, dict.fromkeys((key, "d"), Document("", "x")), {"q": "x"}, {"test": {"q": {"d": 1}}})
    if reads:
        assert len(load_collection(folder).documents) == 2
    with pytest.raises(InputError, match="a tab" if reads else "the _id is empty"):
        CollectionFolder("toy", folder, "test").load()
