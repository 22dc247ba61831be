"""Passages of Wikipedia: no word is lost, cuts are where sentences end, and what is left out is counted."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragcun.data.documents import read_documents
from ragcun.data.hub_data import open_rows
from ragcun.data.hub_split import resolve_split
from ragcun.data.wikipedia import PassageKeeper, is_list_page, split_passages, write_passages
from ragcun.errors import InputError

WORDS = st.sampled_from(["heat", "flows.", "Why?", "Dr.", "Über", "3.5", "(so)", "e.g.", "naïve!", "東京"])
TEXTS = st.lists(st.tuples(WORDS, st.sampled_from([" ", " ", " ", "\n", "\n\n", "  "])), max_size=80).map(
    lambda pairs: "".join(word + blank for word, blank in pairs)
)


def article(key, text, title="Title"):
    return {"id": str(key), "url": "u", "title": title, "text": text}


def words(count, name="word"):
    return " ".join(f"{name}{i}" for i in range(count))


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.integers(1, 12), st.integers(1, 12))
def test_no_word_is_lost_or_moved_and_none_is_too_many(text, one, other):
    most, fewest = max(one, other), min(one, other)
    passages = split_passages(text, most, fewest)
    assert " ".join(passages).split() == text.split()
    assert all(1 <= len(passage.split()) <= most for passage in passages)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=5), max_size=8), st.integers(6, 20))
def test_cuts_are_at_sentence_ends_where_sentences_fit(lengths, most):
    paragraphs = [" ".join(words(count).capitalize() + "." for count in each) for each in lengths]
    passages = split_passages("\n\n".join(paragraphs), most)
    assert all(passage.endswith(".") for passage in passages)
    sizes = [sum(each) for each in lengths]
    for paragraph, size in zip(paragraphs, sizes, strict=True):
        if size <= most:
            assert any(paragraph in passage for passage in passages)


def test_a_paragraph_goes_whole_and_a_short_passage_is_filled_up():
    first, second = words(6, "a").capitalize() + ".", words(6, "b").capitalize() + "."
    assert split_passages(f"{first}\n\n{second}", 10) == [first, second]
    assert split_passages(f"{first}\n\n{second}", 12) == [f"{first}\n{second}"]
    heading = split_passages(f"History\n\n{first} {second}", 10, 3)
    assert heading == [f"History\n{first}", second]
    assert split_passages(words(25), 10) == [
        " ".join(f"word{i}" for i in part) for part in ((range(10)), range(10, 20), range(20, 25))
    ]


@pytest.mark.parametrize("lengths", [(5, 6), (0, 0), (3, 0)])
def test_impossible_lengths_are_refused(lengths):
    with pytest.raises(ValueError, match="lengths must be"):
        split_passages("text", *lengths)


@pytest.mark.parametrize(
    ("title", "text", "expected"),
    [
        ("List of rivers", "Long text.", True),
        ("Index of physics articles", "", True),
        ("Mercury (disambiguation)", "Mercury is a planet.", True),
        ("Mercury", "Mercury may refer to:\n\nMercury (planet)", True),
        ("Mercury", "Mercury most commonly refers to: \n\nMercury (planet)", True),
        ("Mercury", "The word may refer to a planet.\n\nMore.", False),
        ("Listening", "Listening is hearing.", False),
        ("Reference", "People refer to: a book.", False),
    ],
)
def test_pages_that_only_point_to_others_are_known(title, text, expected):
    assert is_list_page(title, text) is expected


def test_what_is_left_out_is_counted():
    keeper = PassageKeeper(100, max_length=10, min_length=5)
    rows = [
        article(1, f"{words(8)}.\n\n{words(9, 'other')}.\n\nToo short.", "Zwölf"),
        article(2, f"{words(8).upper()}.\n\n{words(6, 'new')}."),
        article(3, words(8), "List of words"),
        article(4, "  \n "),
        article(5, None, None),
    ]
    kept = [passage for row in rows for passage in keeper.take(row)]
    assert [(each["_id"], each["title"]) for each in kept] == [("1-0", "Zwölf"), ("1-1", "Zwölf"), ("2-0", "Title")]
    assert kept[2]["text"] == f"{words(6, 'new')}."
    assert keeper.have() == 3
    assert +keeper.counts == {
        "articles": 2, "passages": 3, "short_passages": 1, "repeated_passages": 1, "list_pages": 1,
        "articles_without_passage": 2,
    }  # fmt: skip


def test_exactly_as_many_passages_as_wanted():
    keeper = PassageKeeper(3, max_length=5, min_length=1)
    kept = [
        passage
        for key in range(4)
        for passage in keeper.take(article(key, f"{words(5, f'a{key}')}\n{words(5, f'b{key}')}"))
    ]
    assert len(kept) == keeper.have() == 3


def test_every_format_gives_the_same_documents(tmp_path):
    keeper = PassageKeeper(9, 10, 1)
    passages = keeper.take(article(1, 'Über "heat"\u2028flow \\ 🔥.\n\nSecond paragraph.', "Wärme, Größe"))
    (tmp_path / "w.jsonl").write_text("".join(json.dumps(each) + "\n" for each in passages))
    for name in ("w.json", "w.txt"):
        write_passages(tmp_path / name, iter(passages))
    lines, array, plain = (read_documents(tmp_path / f"w.{kind}") for kind in ("jsonl", "json", "txt"))
    assert lines == array
    assert len(lines) == len(plain) == len(passages) == 1
    assert plain[0].text.split() == lines[0].content.split()


def test_the_seed_orders_the_files_and_every_row_comes_once(tmp_path):
    for place in range(8):
        rows = [article(8 * place + i, "text") for i in range(8)]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"train-{place:05d}-of-00008.parquet", row_group_size=3)
    source = resolve_split(str(tmp_path), None, "train")
    orders = {seed: [row["id"] for row in open_rows(source, seed)] for seed in (None, 0, 1)}
    assert orders[None] == [str(i) for i in range(64)]
    assert orders[0] != orders[1]
    assert [row["id"] for row in open_rows(source, 0)] == orders[0]
    assert sorted(orders[0], key=int) == sorted(orders[1], key=int) == orders[None]
    for stop in (0, 3, 8, 9, 63):
        stream = open_rows(source, 0)
        rows = iter(stream)
        first = [next(rows)["id"] for _ in range(stop)]
        state = json.loads(json.dumps(stream.state_dict()))
        again = open_rows(source, 0)
        again.load_state_dict(state)
        assert first + [row["id"] for row in again] == orders[0]


def test_rows_that_are_no_articles_are_refused(tmp_path):
    pq.write_table(pa.Table.from_pylist([{"id": "1", "body": "text"}]), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="has the columns id, body; expected: id, title, text"):
        PassageKeeper(1, 1, 1).expect(open_rows(resolve_split(str(tmp_path), None, "train")))
