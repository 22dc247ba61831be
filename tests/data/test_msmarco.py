"""MS MARCO from files with the hub's layout: what is kept of rows, the split by query, and going on after a failure."""

import functools
import json
import random
from collections import Counter

import pandas as pd
import pytest

from ragcun import InputError, read_pairs
from ragcun.data.hub import open_rows
from ragcun.data.msmarco import gather, held_out_queries, write_split_pairs
from ragcun.data.texts import text_key
from tests.hub import write_split


def passages_row(query, passages):
    """Make a row of the hub's layout; passages that answer begin with an asterisk."""
    texts = [text.removeprefix("*") for text in passages]
    fields = {"is_selected": [int(text.startswith("*")) for text in passages], "passage_text": texts}
    return {"query": query, "query_id": 1, "passages": {**fields, "url": ["u"] * len(texts)}, "answers": ["a"]}


def some_rows(count, seed=0):
    """Draw rows with repeated queries and passages, empty ones, some without an answer, and a quarter seen before."""
    draw = random.Random(seed)
    texts = [f"passage {draw.randrange(60)} über Wärme" for _ in range(count)] + ["", "  "]
    rows = [
        passages_row(
            draw.choice([f"query {draw.randrange(count)}", f"Query  {draw.randrange(count)}"]),
            [draw.choice(["", "", "*"]) + draw.choice(texts) for _ in range(draw.randrange(1, 6))],
        )
        for _ in range(count)
    ]
    return [draw.choice(rows[:place]) if place % 4 == 3 else row for place, row in enumerate(rows)]


def hold_out(seed=0, fraction=0.0, number=None):
    return functools.partial(held_out_queries, seed=seed, fraction=fraction, number=number)


NOBODY = hold_out()


def keep(folder, dev=NOBODY, wanted=None):
    """Gather what a folder's rows hold."""
    return gather(open_rows(str(folder), None, "train"), dev, wanted)


def test_selected_passages_are_positives_and_the_others_are_offered(tmp_path):
    rows = [
        passages_row("wie heiß?", ["cold", "*sehr heiß 🔥\u2028ja", "warm", "*hot"]),
        passages_row("no answer", ["a", "b"]),
        passages_row("  ", ["*a"]),
        passages_row("only blanks", ["* ", "b"]),
        passages_row("and", ["*one", "", "one", "ONE ", "two", "two"]),
    ]
    found = keep(write_split(tmp_path / "d", rows))
    assert found.rows(2) == [
        ("wie heiß?", "sehr heiß 🔥\u2028ja", "cold"),
        ("wie heiß?", "sehr heiß 🔥\u2028ja", "warm"),
        ("wie heiß?", "hot", "cold"),
        ("wie heiß?", "hot", "warm"),
        ("and", "one", "two"),
    ]
    expected = {"rows_read": 5, "rows_kept": 2, "pairs": 3, "rows_without_positive": 2, "rows_without_query": 1}
    assert found.counts == Counter({**expected, "empty_passages": 2})
    assert found.pool == ["sehr heiß 🔥\u2028ja", "hot", "cold", "warm", "one", "two"]


def test_passages_may_be_a_list_of_objects(tmp_path):
    rows = [passages_row("q", ["a", "*b", "c"]), passages_row("r", ["*d"])]
    turned = [row | {"passages": pd.DataFrame(row["passages"]).to_dict("records")} for row in rows]
    fields = keep(write_split(tmp_path / "fields", rows))
    objects = keep(write_split(tmp_path / "objects", turned))
    assert fields == objects
    assert fields.rows(1) == [("q", "b", "a"), ("r", "d", None)]


@pytest.mark.parametrize("query", ["query", "anchor"])
def test_triplets_have_one_or_several_negatives(tmp_path, query):
    rows = [
        {query: "q1", "positive": "p1", **{f"negative_{i}": f"n{i}" for i in range(1, 12)}},
        {query: "q1", "positive": "p2", **{f"negative_{i}": "p1" if i == 1 else None for i in range(1, 12)}},
    ]
    in_order = [("q1", "p1", f"n{i}") for i in range(1, 12)]
    assert keep(write_split(tmp_path / "d", rows)).rows(20) == [*in_order, ("q1", "p2", None)]
    single = [{query: "q", "positive": "p", "negative": "n"}, {query: "Q ", "positive": "P", "negative": "m"}]
    found = keep(write_split(tmp_path / "s", single))
    assert found.rows(1) == [("q", "p", "n")]
    assert found.counts["repeated_pairs"] == 1


def test_what_a_row_offers_is_never_a_known_answer_of_its_query(tmp_path):
    rows = some_rows(300)
    found = keep(write_split(tmp_path / "d", rows))
    answers = {
        (text_key(row["query"]), text_key(text))
        for row in rows
        for text, chosen in zip(row["passages"]["passage_text"], row["passages"]["is_selected"], strict=True)
        if chosen and text.strip()
    }
    made = found.rows(9)
    assert {(text_key(query), text_key(positive)) for query, positive, _ in made} == answers
    negatives = [(text_key(query), text_key(text)) for query, _, text in made if text]
    assert len(negatives) > 100
    assert not answers & set(negatives)


@pytest.mark.parametrize("held_out", [{"fraction": 0.3}, {"number": 25}])
def test_no_query_is_in_both_files_and_counts_are_those_of_a_recount(tmp_path, held_out):
    found = keep(write_split(tmp_path / "d", some_rows(300)), hold_out(3, **held_out))
    made = write_split_pairs(tmp_path, found.rows(1), found.dev, {})
    train, dev = (read_pairs(tmp_path / f"{name}.jsonl") for name in ("train", "dev"))
    queries = [{text_key(query) for query in data.queries} for data in (train, dev)]
    assert not queries[0] & queries[1]
    assert made == {tmp_path / "train.jsonl": len(train), tmp_path / "dev.jsonl": len(dev)}
    assert found.counts["pairs"] == len(train) + len(dev)
    statistics = json.loads((tmp_path / "statistics.json").read_text())
    assert [statistics[name]["pairs"] for name in ("train", "dev")] == [len(train), len(dev)]
    if "number" in held_out:
        assert len(queries[1]) == 25


def test_an_earlier_dev_file_goes_where_no_query_is_held_out_and_some_must_be_left_for_training(tmp_path):
    rows = [("one", "first", None), ("two", "second", None)]
    with pytest.raises(InputError, match="none of the 2 pairs"):
        write_split_pairs(tmp_path, rows, {text_key("one"), text_key("two")}, {})
    assert not list(tmp_path.iterdir())
    assert len(write_split_pairs(tmp_path, rows, {text_key("two")}, {})) == 2
    assert write_split_pairs(tmp_path, rows, set(), {}) == {tmp_path / "train.jsonl": 2}
    assert not (tmp_path / "dev.jsonl").exists()


def test_who_is_held_out_does_not_depend_on_the_order():
    queries = [f"query {i}" for i in range(2000)]
    ways = hold_out(1, 0.0, 100), hold_out(1, 0.1)
    held_out = [way(queries) for way in ways]
    for order in (queries[::-1], [*random.Random(0).sample(queries, 2000), *(f" {q.upper()}" for q in queries[:50])]):
        assert [way(order) for way in ways] == held_out
    assert len(held_out[0]) == 100
    assert held_out[0] < held_out[1]  # both are those with the smallest hashes, here 100 and about 200
    # 2,000 draws at 0.1: standard deviation 13.4; six of these are exceeded with a probability of 2e-9
    assert abs(len(held_out[1]) - 200) < 81
    assert hold_out(1, 0.5, 0)(queries) == set()
    assert hold_out(2, 0.1)(queries) != held_out[1]


def of_training(found):
    return [row for row in found.rows(0) if text_key(row[0]) not in found.dev]


@pytest.mark.parametrize("number", [None, 10])
@pytest.mark.parametrize("wanted", [60, 63])
def test_enough_pairs_stop_the_stream_early(tmp_path, number, wanted):
    rows = some_rows(400)
    dev = hold_out(0, 0.1, number)
    found = keep(write_split(tmp_path / "d", rows, n_files=3), dev, wanted)
    train = of_training(found)
    assert len(train) == wanted
    assert found.counts["rows_read"] < 250
    whole = keep(write_split(tmp_path / "cut", rows[: found.counts["rows_read"]]), dev)
    assert whole.dev == found.dev
    assert train == of_training(whole)[:wanted]
    shorter = keep(write_split(tmp_path / "shorter", rows[: found.counts["rows_read"] - 1]), dev)
    assert len(of_training(shorter)) < wanted


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query_id": 1, "positive_id": 2}, "columns query_id, positive_id; expected: query and passages"),
        ({"query": 1, "positive": 2, "negative": 3}, "holds 1 where text"),
        ({"query": "q", "positive": "p", "label": 0}, "columns query, positive, label; expected"),
        ({"query": "q", "passages": {"passage_text": ["a"]}}, "is_selected"),
    ],
)
def test_wrong_columns_are_named_with_those_expected(tmp_path, row, message):
    with pytest.raises(InputError, match=message):
        keep(write_split(tmp_path / "d", [row]))
