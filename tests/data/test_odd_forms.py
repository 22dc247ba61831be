"""Collections, pairs and documents in the forms that users have them in: read as the plain form is, or refused."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest

from ragcun.data.beir import Document, load_collection, read_queries
from ragcun.data.pairs import read_pairs
from ragcun.data.records import read_documents
from tests.hub import write_split

WORDS = ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath", "inlet", "jetty", "knoll", "ledge"]
TEXTS = {i: " ".join(WORDS[(i * step) % 12] for step in range(1, 6)) for i in range(120)}
ASKED = {i: f"{WORDS[i % 12]} {WORDS[(5 * i + 1) % 12]}" for i in range(9)}
GRADES = {i: {(7 * i + 11 * j) % 120: j % 4 for j in range(25)} for i in range(9)}


class Form(NamedTuple):
    """How a collection is written: names of fields, ids, and the lines of the judgments."""

    qrels: str = "q{q}\td{d}\t{s}"
    header: str = "query-id\tcorpus-id\tscore"
    document: Callable[[int, str], Any] = lambda i, text: {"_id": f"d{i}", "title": "", "text": text}
    query: Callable[[int, str], Any] = lambda i, text: {"_id": f"q{i}", "text": text}
    encode: Callable[[str], bytes] = str.encode

    def write(self, folder: Path) -> None:
        judged = [self.qrels.format(q=q, d=d, s=s) for q, of_query in GRADES.items() for d, s in of_query.items()]
        files = {"qrels/test.tsv": [self.header, *judged] if self.header else judged}
        for name, make, texts in (("corpus", self.document, TEXTS), ("queries", self.query, ASKED)):
            files[f"{name}.jsonl"] = [json.dumps(make(*item), ensure_ascii=False) for item in texts.items()]
        (folder / "qrels").mkdir(parents=True)
        for name, lines in files.items():
            (folder / name).write_bytes(self.encode("".join(f"{line}\n" for line in lines)))


def named(name: str, of: str) -> Callable[[int, str], Any]:
    return lambda i, text: {name: f"{of}{i}", "text": text}


def under(name: str, of: str) -> Callable[[int, str], Any]:
    return lambda i, text: {"_id": f"{of}{i}", name: text, "metadata": {}}


FORMS = {
    "plain": Form(),
    "no header": Form(header=""),
    "TREC, tabs": Form("q{q}\t0\td{d}\t{s}", ""),
    "TREC, blanks": Form("q{q} Q0  d{d} {s}", ""),
    "TREC with a header": Form("q{q}\t0\td{d}\t{s}", "query_id\titer\tdoc_id\trelevance"),
    "blanks": Form("q{q} d{d} {s}", "qid did rel"),
    "semicolons": Form("'q{q}';'d{d}';{s}".replace("'", '"'), "query-id;corpus-id;score"),
    "commas": Form("q{q},d{d},{s}", "query-id,corpus-id,score"),
    "grades as 1.0": Form("q{q}\td{d}\t{s}.0"),
    "the document first": Form("d{d}\tq{q}\t{s}", "corpus-id\tquery-id\tscore"),
    "quoted": Form('"q{q}"\t"d{d}"\t{s}'),
    "whole numbers": Form(
        "{q}\t{d}\t{s}", document=lambda i, x: {"_id": i, "text": x}, query=lambda i, x: {"_id": i, "text": x}
    ),
    "id": Form(document=named("id", "d"), query=named("id", "q")),
    "capitals": Form(document=named("ID", "d"), query=lambda i, x: {"Query-ID": f"q{i}", "Text": x}),
    "contents": Form(document=under("contents", "d"), query=under("query", "q")),
    "passage": Form(document=under("passage", "d"), query=under("question", "q")),
    "a title": Form(document=lambda i, x: {"_id": f"d{i}", "title": x.split()[0], "text": x.split(" ", 1)[1]}),
    "ids with blanks": Form("a q {q}\tmy file {d}\t{s}", document=named("_id", "my file "), query=named("_id", "a q ")),
    "UTF-16": Form(encode=lambda text: text.encode("utf-16")),
    "Windows": Form(encode=lambda text: b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()),
    "gzip": Form(encode=lambda text: gzip.compress(text.encode(), mtime=0)),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_collection_in_any_form_is_the_plain_one_but_for_its_ids(form, tmp_path):
    FORMS[form].write(tmp_path / "c")
    collection = load_collection(tmp_path / "c")
    assert [document.content for document in collection.documents.values()] == list(TEXTS.values())
    assert list(collection.queries.values()) == list(ASKED.values())
    documents = list(collection.documents)
    grades = [{documents.index(key): grade for key, grade in of.items()} for of in collection.qrels.values()]
    assert dict(zip(map(list(collection.queries).index, collection.qrels), grades, strict=True)) == GRADES


ANSWER, WRONG, ALSO = "a dry cloth", "a wet stone", "a red lamp"
NEGATIVES = [("q", ANSWER, WRONG), ("q", ANSWER, ALSO)]
LABELLED = [{"label": 1, "text": ANSWER}, {"label": 0, "text": WRONG}, {"label": 0, "text": ALSO}]
TWO = [("q", ANSWER, WRONG), ("q", ALSO, WRONG)]
ROWS = {
    "negative_1 …": ([{"anchor": "q", "positive": ANSWER, "negative_1": WRONG, "negative_2": ALSO}], NEGATIVES),
    "negatives": ([{"query": "q", "positive": ANSWER, "negatives": [WRONG, ALSO, None, ""]}], NEGATIVES),
    "pos and neg": ([{"query": "q", "pos": [ANSWER], "neg": [WRONG, ALSO]}], NEGATIVES),
    "hard_negatives": ([{"question": "q", "answer": ANSWER, "hard_negatives": [WRONG, ALSO]}], NEGATIVES),
    "several positives": ([{"query": "q", "pos": [ANSWER, ALSO], "neg": [WRONG]}], TWO),
    "passages of objects": (
        [{"query": "q", "positive_passages": [{"docid": 1, "title": ANSWER, "text": ""}], "Negative Passages": [
            {"docid": 2, "text": text} for text in (WRONG, ALSO)]}], NEGATIVES),
    "labels": ([{"query": "q", **row} for row in LABELLED], NEGATIVES),
    "is_relevant": ([{"query": "q", "Pos": x["text"], "is_relevant": x["label"]} for x in LABELLED], NEGATIVES),
    "two answers": ([{"query": "q", "document": x, "label": x != WRONG} for x in (ANSWER, WRONG, ALSO)], TWO),
    "a label 0 without an answer": (
        [{"query": "q", "text": ANSWER}, {"query": "r", "text": WRONG, "label": 0}], [("q", ANSWER, None)]
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", ROWS)
def test_no_negative_is_dropped_and_what_is_no_answer_is_trained_as_none(form, tmp_path, caplog):
    caplog.set_level("INFO")
    rows, expected = ROWS[form]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({**row, "id": 7}) + "\n" for row in rows))
    assert sorted(read_pairs(tmp_path / "p.jsonl").rows(), key=str) == sorted(expected, key=str)
    assert "unused columns: 'id'" in caplog.text
    assert ("1 texts labelled 0 left out" in caplog.text) == (form == "a label 0 without an answer")
    pd.DataFrame(rows).to_parquet(tmp_path / "p.parquet")
    if len({tuple(row) for row in rows}) == 1:
        assert sorted(read_pairs(tmp_path / "p.parquet").rows(), key=str) == sorted(expected, key=str)


TABLE = 'query{0}positive{0}negative\nq{0}"a, b; c"{0}n\nr{0}d{0}\n'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.csv", TABLE.format(",").encode()),
        ("p.csv", TABLE.format(";").encode("utf-8-sig")),
        ("p.csv", b"sep=|\n" + TABLE.format("|").encode()),
        ("p.csv", TABLE.format("\t").encode("utf-16")),
        ("p.tsv", TABLE.format("\t").replace("query", "Anchor").replace("negative", "Neg").encode("utf-16-le")),
        ("p.tsv.gz", gzip.compress(TABLE.format("\t").encode(), mtime=0)),
        (
            "p.jsonl.gz",
            gzip.compress(b'{"query": "q", "answer": "a, b; c", "neg": "n"}\n{"question": "r", "pos": "d"}\n', mtime=0),
        ),
    ],
)
def test_tables_are_read_whatever_stands_between_columns_and_encodes_them(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    assert list(read_pairs(tmp_path / name).rows()) == [("q", "a, b; c", "n"), ("r", "d", None)]


def test_a_folder_with_the_layout_of_the_hub_gives_a_split_as_pairs_and_as_documents(tmp_path):
    rows = [{"anchor": f"q{i}", "text": f"d{i}", "negatives": ["n"] * (i % 2)} for i in range(9)]
    for split, some in (("train", rows[:6]), ("dev", rows[6:])):
        write_split(tmp_path / "d" / "data", some, split=split)
    (tmp_path / "d" / "README.md").write_text("A card, no document.")
    assert list(read_pairs(tmp_path / "d").rows()) == [(f"q{i}", f"d{i}", "n" if i % 2 else None) for i in range(6)]
    assert [document.text for document in read_documents(tmp_path / "d")] == [f"d{i}" for i in range(6)]


def test_documents_are_read_from_a_folder_of_texts_and_from_a_table_of_ids(tmp_path, caplog):
    caplog.set_level("INFO")
    (tmp_path / "notes" / "deep").mkdir(parents=True)
    files = {"b.md": "# Two\n\nlines", "deep/a.txt": "three", "empty.txt": " \n", "x.pdf": "%PDF", ".c.txt": "c"}
    for name, text in files.items():
        (tmp_path / "notes" / name).write_text(text)
    assert read_documents(tmp_path / "notes") == [Document("", "# Two\n\nlines"), Document("", "three")]
    assert "2 other files are not read" in caplog.text
    (tmp_path / "q.tsv").write_text('1000\t"what", then, is it\n1001\tand, why\n')
    assert read_queries(tmp_path / "q.tsv") == ['"what", then, is it', "and, why"]
    pd.DataFrame({"title": ["A", None], "text": ["b", "c"], "id": [1, 2]}).to_parquet(tmp_path / "d.parquet")
    assert read_documents(tmp_path / "d.parquet") == [Document("A", "b"), Document("", "c")]
