from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
            writer = csv.DictWriter(file, ["query", "positive", "negative"])
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


FIRST_LINE = {".jsonl": 1, ".ndjson": 1, ".json": 2, ".csv": 2}


@pytest.mark.parametrize("extension", FIRST_LINE)
def test_every_format_gives_the_same_pairs(tmp_path, extension):
    rows = [GOOD, {**GOOD, "negative": "r is that"}, {"query": 'zwölf, "x"\n?', "positive": "ja", "negative": ""}]
    pairs = read_pairs(write_rows(tmp_path / f"p{extension}", rows))
    assert list(pairs.rows()) == [
        ("what is q", "q is this", None),
        ("what is q", "q is this", "r is that"),
        ('zwölf, "x"\n?', "ja", None),
    ]
    assert pairs.queries == ["what is q", 'zwölf, "x"\n?']
    assert pairs.documents == ["q is this", "r is that", "ja"]
    assert pairs.negative_ids.tolist() == [-1, 1, -1]
    assert len(pairs) == 3


@settings(deadline=None, max_examples=50)
@given(rows=ROWS)
def test_written_pairs_are_read_back_exactly(rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "p.jsonl"
    pairs = PairDataset.from_rows(((q, p, n if n and n.strip() else None) for q, p, n in rows), source="x")
    write_pairs(path, pairs)
    read = read_pairs(path)
    assert list(read.rows()) == list(pairs.rows()) == list(dict.fromkeys(rows))
    assert read.sha256() == pairs.sha256()


@settings(deadline=None, max_examples=50)
@given(rows=ROWS)
def test_json_array_holds_any_text(rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "p.json"
    path.write_text(json.dumps([{"query": q, "positive": p, "negative": n} for q, p, n in rows], indent=1))
    assert list(read_pairs(path).rows()) == list(dict.fromkeys(rows))


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
    with pytest.raises(InputError) as caught:
        read_pairs(path)
    message = str(caught.value)
    assert f"{path}, line {FIRST_LINE[extension] + 1}: " in message
    assert problem in message
    assert "and 3 more rows" in message


@pytest.mark.parametrize("extension", [".jsonl", ".json"])
@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"positive": "p"}, '"query" is missing'),
        ({"query": "q"}, '"positive" is missing'),
        ({"query": None, "positive": "p"}, '"query" must be text, got null'),
        ({"query": "q", "positive": 3}, '"positive" must be text, got int'),
        ({"query": "q", "positive": "p", "negative": ["n"]}, '"negative" must be text, got list'),
        ({"query": "q\ud800", "positive": "p"}, "unpaired surrogate"),
        (["x", "y", "z"], "got list"),
        (["x"], "got list"),
        (["x", 3], '"y" must be text, got int'),
        (["x", " "], '"y" is empty'),
        ({"x": "whole"}, '"y" is missing'),
        ({"y": "masked"}, '"x" is missing'),
        ({"x": "x", "query": "q"}, '"positive" is missing'),
        ({"x": "x", "y": "y", "negative": "x "}, "same text"),
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
        ("p.jsonl", '{"query": "q", "positive": "p"}\n' + "[" * 100_000, 2, "JSON"),
        ("p.jsonl", '{"query": ' + "1" * 5000 + "}", 1, "JSON"),
        ("p.json", '[\n{"query": "q", "positive": "p"},\n{"query": "q"\n"positive": "p"}]', 4, "not valid JSON"),
        ("p.json", '[{"query": "q", "positive": "p"},\n]', 2, "not valid JSON"),
        ("p.json", '[{"query": "q", "positive": "p"}\n', 2, "closing bracket"),
        ("p.json", '[{"query": "q", "positive": "p"}]\n]', 1, "after the closing bracket"),
        ("p.json", '{"query": "q", "positive": "p"}', 1, "expected a JSON array"),
        ("p.json", "", 1, "expected a JSON array"),
        ("p.csv", "question,positive\na,b\n", 1, 'columns "query" and "positive"'),
        ("p.csv", "x,positive\na,b\n", 1, 'or "y" and "x"'),
        ("p.csv", "query,positive,query\na,b,c\n", 1, 'the column "query" more than once'),
        ("p.csv", "", 1, 'columns "query" and "positive"'),
        ("p.csv", "query,positive\na,b\n\na,b,c\n", 4, "3 columns where the header names 2"),
        ("p.csv", 'query,positive\n"two\nlines",b\na\n', 4, '"positive" is missing'),
        ("p.csv", 'query,positive\na,b\n"open,b\n', 3, "not valid CSV"),
    ],
)
def test_broken_file_is_named_with_its_line(tmp_path, name, content, line, problem):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError) as caught:
        read_pairs(tmp_path / name)
    assert f"{tmp_path / name}, line {line}: " in str(caught.value)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"), [("p.jsonl", "\n \n"), ("p.json", " [ ] "), ("p.csv", "query,positive\n")]
)
def test_file_without_pairs_is_refused(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match="holds no pairs"):
        read_pairs(tmp_path / name)


def test_folder_extension_and_encoding_are_refused(tmp_path):
    with pytest.raises(InputError, match="BEIR"):
        read_pairs(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        read_pairs(tmp_path / "absent.jsonl")
    (tmp_path / "p.txt").write_text("q\tp")
    with pytest.raises(InputError, match=r"unknown extension '.txt'"):
        read_pairs(tmp_path / "p.txt")
    (tmp_path / "p.csv").write_bytes(b"query,positive\n\xff,b\n")
    with pytest.raises(InputError, match="not UTF-8"):
        read_pairs(tmp_path / "p.csv")
    with pytest.raises(InputError, match="jsonl"):
        write_pairs(tmp_path / "p.csv", [("q", "p", None)])


@pytest.mark.parametrize("extension", FIRST_LINE)
def test_byte_order_mark_and_windows_line_ends_change_nothing(tmp_path, extension):
    path = write_rows(
        tmp_path / f"p{extension}", [GOOD, {**GOOD, "negative": "a\0b"}] if extension != ".csv" else [GOOD]
    )
    expected = list(read_pairs(path).rows())
    text = path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + text)
    assert list(read_pairs(path).rows()) == expected


def test_csv_fields_may_be_longer_than_the_default_limit(tmp_path):
    limit = csv.field_size_limit()
    pairs = read_pairs(write_rows(tmp_path / "p.csv", [{"query": "q", "positive": "x" * (limit + 1)}]))
    assert len(pairs.documents[0]) == limit + 1
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.json", '[{"x": "whole", "y": "masked"}, ["all", "some"], {"query": "q", "positive": "p"}]'),
        (
            "p.jsonl",
            '{"y": "masked", "x": "whole", "z": 1}\n["all", "some"]\n{"query": "q", "positive": "p", "x": 1}\n',
        ),
        ("p.csv", "x,y\nwhole,masked\nall,some\np,q\n"),
    ],
)
def test_the_masked_text_y_is_the_query_and_the_whole_text_x_its_positive(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    rows = [("masked", "whole", None), ("some", "all", None), ("q", "p", None)]
    assert list(read_pairs(tmp_path / name).rows()) == rows


@settings(deadline=None, max_examples=25)
@given(rows=ROWS)
def test_pairs_written_as_an_array_stand_one_a_line(rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "p.json"
    pairs = PairDataset.from_rows(((q, p, n if n and n.strip() else None) for q, p, n in rows), source="x")
    write_pairs(path, pairs)
    assert list(read_pairs(path).rows()) == list(pairs.rows())
    lines = path.read_text(encoding="utf-8").split("\n")
    assert len(json.loads("\n".join(lines))) == len(pairs) == len(lines) - 3


def test_no_pairs_are_written_as_an_empty_array(tmp_path):
    write_pairs(tmp_path / "p.json", [])
    assert json.loads((tmp_path / "p.json").read_text()) == []


def test_repeated_pairs_are_kept_once_and_counted(caplog):
    caplog.set_level("INFO")
    pairs = PairDataset.from_rows([("q", "p", None), ("q", "p", None), ("q", "p", "n"), ("q", "p", None)], "x")
    assert list(pairs.rows()) == [("q", "p", None), ("q", "p", "n")]
    assert "2 repeated pairs left out" in caplog.text


def test_no_rows_are_refused():
    with pytest.raises(InputError, match="no pairs"):
        PairDataset.from_rows([], "x")


@pytest.mark.parametrize(("n_queries", "n_documents"), [(1, 1), (3, 4), (20, 10), (200, 300)])
def test_relevant_equals_a_double_loop(n_queries, n_documents):
    rng = np.random.default_rng(n_queries)
    rows = [
        (f"q{q}", f"d{d}", f"n{d}" if d % 2 else None)
        for q, d in zip(rng.integers(0, n_queries, 300), rng.integers(0, n_documents, 300), strict=True)
    ]
    pairs = PairDataset.from_rows(rows, "x")
    known = {(query, positive) for query, positive, _ in pairs.rows()}
    listed = list(pairs.rows())
    for size in (1, 2, 32):
        batch = rng.integers(0, len(pairs), size)
        expected = [[(listed[i][0], listed[j][1]) in known for j in batch] for i in batch]
        relevant = pairs.relevant(batch)
        assert relevant is not None or len({query for query, _ in known}) == len(known)
        assert relevant is None or (relevant.tolist() == expected and relevant.diagonal().all())


def test_relevant_knows_pairs_outside_the_batch():
    pairs = PairDataset.from_rows([("a", "x", None), ("b", "y", None), ("a", "y", None)], "x")
    assert pairs.relevant(np.array([0, 1])).tolist() == [[True, True], [False, True]]


@pytest.mark.parametrize(
    ("rows", "distinct"),
    [
        ([("a", "x"), ("b", "y")], True),
        ([("a", "x"), ("a", "y")], False),
        ([("a", "x"), ("b", "x")], False),
    ],
)
def test_there_is_no_matrix_where_every_query_and_every_positive_is_in_one_pair(rows, distinct):
    pairs = PairDataset.from_rows([(query, positive, None) for query, positive in rows], "x")
    assert (pairs.relevant(np.array([0, 1])) is None) == distinct


def test_hash_follows_content_and_order_alone():
    rows = [("q", "p", None), ("q", "r", "n")]
    base = PairDataset.from_rows(rows, "x").sha256()
    assert PairDataset.from_rows(rows, "elsewhere").sha256() == base
    assert PairDataset.from_rows(rows[::-1], "x").sha256() != base
    assert PairDataset.from_rows([("q", "p", "n"), ("q", "r", None)], "x").sha256() != base


def test_shared_pairs_are_read(shared_data):
    pairs = read_pairs(shared_data / "pairs" / "wikiqa.jsonl")
    lines = (shared_data / "pairs" / "wikiqa.jsonl").read_text(encoding="utf-8").splitlines()
    distinct = {tuple(json.loads(line).get(field) for field in ("query", "positive", "negative")) for line in lines}
    assert set(pairs.rows()) == distinct
    assert (pairs.negative_ids >= 0).any()
