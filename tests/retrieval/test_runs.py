import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragcun.errors import InputError
from ragcun.retrieval.runs import make_run, ranked, read_run, write_run

IDS = st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=8) | st.just("my file")
SCORES = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([0.0, -0.0, 1.0, 0.1])


@given(run=st.dictionaries(IDS, st.dictionaries(IDS, SCORES, min_size=1, max_size=8), max_size=5))
def test_reading_gives_what_was_written_in_rank_order(tmp_path_factory, run):
    path = tmp_path_factory.mktemp("runs") / "run.trec"
    write_run(path, run, "tag")
    again = read_run(path)
    assert again == run
    assert list(again) == list(run)
    assert {query: list(found.items()) for query, found in again.items()} == {q: ranked(d) for q, d in run.items()}


def test_a_file_has_the_six_columns_of_trec_and_a_foreign_one_is_ordered_by_score_then_line(tmp_path):
    write_run(tmp_path / "r", {"q1": {"b": 0.5, "a": 2.0, "c": 0.5}}, "ragcun")
    assert (tmp_path / "r").read_text() == ("q1 Q0 a 1 2.0 ragcun\nq1 Q0 b 2 0.5 ragcun\nq1 Q0 c 3 0.5 ragcun\n")
    (tmp_path / "r").write_text("q Q0 a 9 1.0 t\n\nq\tQ0\tb\t1\t3.0\tt\nq Q0 c 2 1.0 t\n")
    assert list(read_run(tmp_path / "r")["q"]) == ["b", "a", "c"]


def test_a_query_that_is_a_document_is_left_out_before_the_cut():
    scores, indices = np.array([[3.0, 2.0, 1.0]], np.float32), np.array([[1, 0, 2]])
    assert make_run(["b"], ["a", "b", "c"], scores, indices, 2, {"b"}) == {"b": {"a": 2.0, "c": 1.0}}
    assert make_run(["b"], ["a", "b", "c"], scores, indices, 2, {"a"}) == {"b": {"b": 3.0, "a": 2.0}}


@pytest.mark.parametrize(
    ("query", "document", "score", "tag", "facts"),
    [
        ("q\n1", "a", 1.0, "t", "a tab or a line break"),
        ("q", "a\tb", 1.0, "t", "a tab or a line break"),
        ("q", "", 1.0, "t", "a tab or a line break"),
        ("q", "a ", 1.0, "t", "a tab or a line break"),
        ("q", "a", 1.0, "my run ", "a tab or a line break"),
        ("q", "a", np.nan, "t", "not a finite number"),
    ],
)
def test_what_cannot_be_in_a_run_file_is_not_written(tmp_path, query, document, score, tag, facts):
    with pytest.raises(ValueError, match=facts):
        write_run(tmp_path / "r", {query: {document: score}}, tag)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q Q0 b 2 0.5", "line 2: expected the 6 columns"),
        ("q Q0 b 2 high t", "line 2: expected a finite score in column 5, got 'high'"),
        ("q Q0 b 2 nan t", "line 2: expected a finite score"),
        ("q Q0 b 2 inf t", "line 2: expected a finite score"),
        ("q Q0 a 2 0.5 t", "line 2: query 'q' has document 'a' twice"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, message):
    (tmp_path / "r").write_text(f"q Q0 a 1 1.0 t\n{line}\n")
    with pytest.raises(InputError, match=message):
        read_run(tmp_path / "r")
