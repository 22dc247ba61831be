"""Reading documents: every format gives the same documents, and what is wrong is named with its line."""

import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragcun.data.beir import Document
from ragcun.data.records import read_documents, read_records
from ragcun.errors import InputError
from tests.data.test_pairs import write_rows

DOCUMENTS = [Document("Zwölf", "one, two."), Document("", 'said "three"\nand four'), Document("", "five")]


def written(folder, extension):
    records = [{"_id": str(i), "title": each.title, "text": each.text} for i, each in enumerate(DOCUMENTS)]
    return write_rows(folder / f"d{extension}", records)


def test_a_text_file_has_a_document_a_line(tmp_path):
    (tmp_path / "d.txt").write_bytes("\ufefffirst one \r\n\r\n  \nzweiter, ja\n".encode())
    assert read_documents(tmp_path / "d.txt") == [Document("", "first one"), Document("", "zweiter, ja")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("d.json", '["one", {"text": "two", "title": null}, {"text": "three", "_id": 3}]'),
        ("d.jsonl", '"one"\n\n{"text": "two", "title": ""}\n{"text": "three"}\n'),
        ("d.csv", "text,more\none,1\ntwo,2\nthree\n"),
    ],
)
def test_strings_are_documents_and_titles_are_optional(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert read_documents(tmp_path / name) == [Document("", text) for text in ("one", "two", "three")]


@pytest.mark.parametrize(
    ("name", "content", "line", "problem"),
    [
        ("d.json", '["one",\n 2]', 2, 'expected a string or an object with the field "text", got int'),
        ("d.json", '[["one"]]', 1, "got list"),
        ("d.jsonl", '{"text": "one"}\n{"titel": "two"}\n', 2, '"text" is missing'),
        ("d.jsonl", '{"text": "one"}\n{"text": null}\n{"text": 3}\n', 2, r"got null \(and 1 more row\)"),
        ("d.jsonl", '{"text": "one", "title": 3}\n', 1, '"title" must be text, got int'),
        ("d.csv", "title,body\na,b\n", 2, "there is 'title', 'body'"),
        ("d.tsv", "1\tone\nsome note\ttwo\n", 2, "expected an id"),
        ("d.csv", "title,text\na,b\nc\n", 3, '"text" is missing'),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, name, content, line, problem):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=f"{tmp_path / name}, line {line}: .*{problem}"):
        read_documents(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.pdf", None, "no such file"),
        ("d.pdf", b"x", r"unknown extension '.pdf'.*\.txt, \.json, .*\.parquet.*\.gz"),
        ("d.jsonl.zst", b"x", "unknown extension '.zst'.*unpack"),
        ("d.jsonl.gz", gzip.compress(b'"a"', mtime=0)[:-9], "cannot be unpacked"),
        ("d.parquet", b"PAR1", "cannot be read as parquet"),
        ("d.txt", b"17\tone\n18\ttwo\n", "name the file .tsv"),
        ("d.txt", b"\n \n", "holds no documents"),
        ("d.json", b"[]", "holds no documents"),
        ("d.csv", b"text\n", "holds no documents"),
        ("d.txt", b"one\n\xff\n", "not UTF-8"),
        ("folder", None, "cannot open .*data files"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, name, content, message):
    (tmp_path / "folder").mkdir()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_documents(tmp_path / name)


VALUES = st.recursive(
    st.none() | st.floats(allow_nan=False) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=100)
@given(values=st.lists(VALUES, max_size=8), indent=st.sampled_from([None, 0, 2]))
def test_elements_of_an_array_come_with_the_line_they_start_on(values, indent, tmp_path_factory):
    path = tmp_path_factory.mktemp("array") / "a.json"
    path.write_text("\ufeff \n" + json.dumps(values, indent=indent) + " \n", encoding="utf-8")
    read = list(read_records(path))
    assert [value for _, value in read] == values
    heights = [1 + json.dumps(value, indent=indent).count("\n") if indent is not None else 0 for value in values]
    first = 2 if indent is None else 3
    assert [line for line, _ in read] == [first + sum(heights[:place]) for place in range(len(values))]


@pytest.mark.parametrize(("asked", "there"), [(".json", ".jsonl"), (".jsonl", ".json")])
def test_the_file_of_the_other_json_beside_the_missing_one_is_read(tmp_path, caplog, asked, there):
    caplog.set_level("INFO")
    path = written(tmp_path, there)
    assert read_documents(path.with_suffix(asked)) == DOCUMENTS
    assert f"d{asked}" in caplog.text
    assert path.name in caplog.text
    with pytest.raises(InputError, match="no such file"):
        read_documents(tmp_path / f"other{asked}")
