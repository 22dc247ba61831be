import csv
import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragcun.data.beir import Collection, Document, pairs_from_collection
from ragcun.data.pairs import PairDataset, read_pairs, write_pairs
from ragcun.errors import InputError

GOOD = {"query": "what is q", "positive": "q is this"}
TEXT = st.text(min_size=1).filter(lambda text: text.strip())
ROWS = st.lists(
    st.tuples(TEXT, TEXT, st.none() | TEXT).filter(lambda row: (row[2] or "").strip() != row[1].strip()), min_size=1
)


def write_rows(path: Path, rows: list[dict]) -> Path:
    """Write rows in the format of the extension, row i starting in line i + 1 (.jsonl) or i + 2 (.json, .csv)."""
    if path.suffix == ".json":
        path.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n", encoding="utf-8")
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, dict.fromkeys(field for row in rows for field in row))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


FIRST_LINE = {".jsonl": 1, ".ndjson": 1, ".json": 2, ".csv": 2}


@pytest.mark.parametrize("extension", FIRST_LINE)
def test_every_format_gives_the_same_pairs(tmp_path, extension):
    long = "ja" * 100_000  # the limit of the module csv is 131,072
    rows = [GOOD, {**GOOD, "negative": "r is that"}, {"query": 'zwölf, "x"\n?', "positive": long, "negative": ""}]
    pairs = read_pairs(write_rows(tmp_path / f"p{extension}", rows))
    assert list(pairs.rows()) == [
        ("what is q", "q is this", None),
        ("what is q", "q is this", "r is that"),
        ('zwölf, "x"\n?', long, None),
    ]
    assert pairs.queries == ["what is q", 'zwölf, "x"\n?']
    assert pairs.documents == ["q is this", "r is that", long]
    assert pairs.negative_ids.tolist() == [-1, 1, -1]
    assert len(pairs) == 3


@settings(deadline=None, max_examples=50)
@given(rows=ROWS, extension=st.sampled_from([".jsonl", ".json"]))
def test_written_pairs_are_read_back_exactly_and_stand_one_a_line(rows, extension, tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / f"p{extension}"
    pairs = PairDataset.from_rows(((q, p, n if n and n.strip() else None) for q, p, n in rows), source="x")
    write_pairs(path, pairs.rows())
    read = read_pairs(path)
    assert list(read.rows()) == list(pairs.rows()) == list(dict.fromkeys(rows))
    assert read.sha256() == pairs.sha256()
    lines = path.read_text(encoding="utf-8").split("\n")
    assert len(lines) == len(pairs) + (1 if extension == ".jsonl" else 3)


@pytest.mark.parametrize("extension", FIRST_LINE)
@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"query": "  ", "positive": "p"}, '"query" is empty'),
        ({"query": "q", "positive": ""}, '"positive" is empty'),
        ({"query": "q", "positive": "same", "negative": "same "}, "same text"),
    ],
)
def test_wrong_row_is_named_with_its_line_and_others_are_counted(tmp_path, extension, row, problem):
    path = write_rows(tmp_path / f"p{extension}", [GOOD, row, GOOD, row, row, row])
    with pytest.raises(InputError, match=rf"{path}, line {FIRST_LINE[extension] + 1}: .*{problem}.*and 3 more rows"):
        read_pairs(path)


@pytest.mark.parametrize("extension", [".jsonl", ".json"])
@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"positive": "p"}, '"query" is missing'),
        ({"query": None, "positive": "p"}, '"query" must be text, got null'),
        ({"query": "q", "positive": 3}, '"positive" must be text, got int'),
        ({"query": "q", "positive": "p", "negative": ["n", 3]}, '"negative" must be text, got int'),
        ({"query": "q", "positive": ["p", "r"], "neg": ["n", "r "]}, "same text"),
        ({"query": "q", "positive": "p", "score": 0.37}, '"score" must be 1 .* got 0.37'),
        ({"query": "q", "text": "p", "label": -1}, '"label" must be 1 .* got -1'),
        ({"query": "q", "text": "p", "label": 0, "negative": "n"}, "no negatives beside it"),
        ({"query": "q", "pos": "p", "negs": "['n', 'o']"}, '"negs" is a list in quotes'),
        ({"anchr": "q", "positive": "p"}, "'anchr', 'positive'; did you mean 'anchor'"),
        ({"query": "q\ud800", "positive": "p"}, "unpaired surrogate"),
        (["x", "y", "z"], "got list"),
        (["x", 3], '"y" must be text, got int'),
        (["x", " "], '"y" is empty'),
        ({"x": "whole"}, '"y" is missing'),
        ({"x": "x", "query": "q"}, '"positive" is missing'),
    ],
)
def test_wrong_json_values_are_named_with_their_line(tmp_path, extension, row, problem):
    path = write_rows(tmp_path / f"p{extension}", [GOOD, GOOD, row, GOOD])
    with pytest.raises(InputError, match=rf"line {FIRST_LINE[extension] + 2}: .*{problem}"):
        read_pairs(path)


@pytest.mark.parametrize(
    ("name", "content", "line", "problem"),
    [
        ("p.jsonl", '{"query": "q", "positive": "p"}\n\n{"query": \n', 3, "not valid JSON"),
        ("p.json", '[\n{"query": "q", "positive": "p"},\n{"query": "q"\n"positive": "p"}]', 4, "not valid JSON"),
        ("p.json", '[{"query": "q", "positive": "p"}\n', 2, "not valid JSON"),
        ("p.json", '[{"query": "q", "positive": "p"}]\n]', 2, "not valid JSON"),
        ("p.json", '{"query": "q", "positive": "p"}', 1, "expected a JSON array"),
        ("p.json", "", 1, "expected a JSON array"),
        ("p.csv", "frage,positive\na,b\n", 2, "\"query\" is missing .also read: anchor, question.; there is 'frage'"),
        ("p.csv", "x,positive\na,b\n", 2, "\"y\" is missing; there is 'x', 'positive'"),
        ("p.csv", "query positive\na b\n", 2, "there is 'query positive'"),
        ("p.csv", "query,positive,query\na,b,c\n", 1, 'the column "query" more than once'),
        ("p.csv", "query,positive\na,b\n\na,b,c\n", 4, "3 columns where the header names 2"),
        ("p.csv", 'query,positive\n"two\nlines",b\na\n', 4, '"positive" is missing'),
        ("p.csv", 'query,positive\na,b\n"open,b\n', 3, "not valid CSV"),
    ],
)
def test_broken_file_is_named_with_its_line(tmp_path, name, content, line, problem):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=f"{tmp_path / name}, line {line}: .*{problem}"):
        read_pairs(tmp_path / name)


def test_a_folder_and_another_format_are_refused(tmp_path):
    (tmp_path / "c" / "qrels").mkdir(parents=True)
    with pytest.raises(InputError, match="BEIR"):
        read_pairs(tmp_path / "c")
    (tmp_path / "p.txt").write_text("q\tp")
    with pytest.raises(InputError, match=r"unknown extension '.txt'"):
        read_pairs(tmp_path / "p.txt")
    with pytest.raises(InputError, match="jsonl"):
        write_pairs(tmp_path / "p.csv", [("q", "p", None)])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.json", '[{"y": "masked", "x": "whole", "z": 1}, ["all", "some"], {"query": "q", "positive": "p", "x": 1}]'),
        ("p.csv", "x,y\nwhole,masked\nall,some\np,q\n"),
    ],
)
def test_the_masked_text_y_is_the_query_and_the_whole_text_x_its_positive(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    rows = [("masked", "whole", None), ("some", "all", None), ("q", "p", None)]
    assert list(read_pairs(tmp_path / name).rows()) == rows


@pytest.mark.parametrize(("rows", "distinct"), [(["ax", "by"], True), (["ax", "ay"], False), (["ax", "bx"], False)])
def test_all_are_distinct_where_every_query_and_every_positive_is_in_one_pair(rows, distinct):
    pairs = PairDataset.from_rows([(query, positive, None) for query, positive in rows], "x")
    assert pairs.all_distinct == distinct


def test_repeated_pairs_are_kept_once_and_the_hash_follows_content_and_order_alone(caplog):
    rows = [("q", "p", None), ("q", "r", "n")]
    base = PairDataset.from_rows(rows, "x").sha256()
    assert PairDataset.from_rows(rows, "elsewhere").sha256() == base
    assert PairDataset.from_rows(rows[::-1], "x").sha256() != base
    assert PairDataset.from_rows([("q", "p", "n"), ("q", "r", None)], "x").sha256() != base
    caplog.set_level("INFO")
    pairs = PairDataset.from_rows([("q", "p", None), ("q", "p", None), ("q", "p", "n"), ("q", "p", None)], "x")
    assert list(pairs.rows()) == [("q", "p", None), ("q", "p", "n")]
    assert "2 repeated pairs left out" in caplog.text


SOME_ROWS = [("q1", "d1", None), ("q2", "d2", "d3"), ("q1", "d4", None), ("q1", "d1", "d2")]


def test_texts_of_the_corpus_follow_those_of_the_pairs_each_once() -> None:
    data = PairDataset.from_rows(SOME_ROWS, "made", corpus=["e1", "d2", "e2", "e1", "d1", "e3"])
    assert data.documents == ["d1", "d2", "d3", "d4", "e1", "e2", "e3"]
    assert data.unpaired() == ["e1", "e2", "e3"]
    assert list(data.rows()) == SOME_ROWS
    assert data.sha256() == PairDataset.from_rows(SOME_ROWS, "made").sha256()


def some_pairs(seed: int) -> PairDataset:
    """Pairs of 9 queries and 12 documents, some with many answers, and 5 documents that answer nothing."""
    drawn = random.Random(seed)
    rows = [(f"q{drawn.randrange(9)}", f"d{drawn.randrange(12)}", drawn.choice([None, "n1", "d3"])) for _ in range(30)]
    return PairDataset.from_rows([row for row in rows if row[1] != row[2]], "made", (f"e{i}" for i in range(5)))


@given(st.integers(0, 10**6), st.lists(st.integers(0, 4)), st.lists(st.integers(0, 9)))
def test_known_and_answers_are_what_the_pairs_say(seed: int, queries: list[int], documents: list[int]) -> None:
    """Against the set of (query, positive); indices may repeat, and either side may be empty."""
    data = some_pairs(seed)
    pairs = {(query, positive) for query, positive, _ in data.rows()}
    asked = np.array(queries, dtype=np.int64), np.array(documents, dtype=np.int64)
    found = data.known(*asked)
    assert found.shape == (len(queries), len(documents))
    expected = [[(data.queries[i], data.documents[j]) in pairs for j in documents] for i in queries]
    assert found.tolist() == expected
    answers = [(text, data.documents[answer]) for i, text in enumerate(data.queries) for answer in data.answers(i)]
    assert sorted(answers) == sorted(pairs)


@pytest.fixture
def collection() -> Collection:
    """Two training queries; one judgment is 0, one document has no text, one judged document is missing."""
    documents = {f"d{i}": Document(f"title {i}", f"text {i}") for i in range(5)} | {"empty": Document("", "")}
    qrels = {"q1": {"d1": 1, "d2": 0, "empty": 1}, "q2": {"d1": 2, "d3": 1, "gone": 1}}
    return Collection("made", documents, {"q1": "one", "q2": "two"}, qrels, "train")


def test_the_whole_corpus_comes_along_where_asked(collection: Collection) -> None:
    pairs, whole = (pairs_from_collection(collection, whole_corpus=asked) for asked in (False, True))
    rows = [("one", "title 1 text 1", None), ("two", "title 1 text 1", None), ("two", "title 3 text 3", None)]
    assert list(whole.rows()) == list(pairs.rows()) == rows
    assert pairs.source == "made/train"
    assert pairs.unpaired() == []
    assert set(whole.documents) == {document.content for document in collection.documents.values()} - {""}
    assert whole.unpaired() == [collection.documents[key].content for key in ("d0", "d2", "d4")]
    twin = replace(collection, documents=collection.documents | {"twin": collection.documents["d4"]})
    assert pairs_from_collection(twin, True).documents == whole.documents
