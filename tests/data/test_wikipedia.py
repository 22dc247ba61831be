"""Passages of Wikipedia: no word is lost, cuts are where sentences end, and what is left out is counted."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragcun.data.hub import is_list_page, open_rows, read_passages, split_passages, write_passages
from ragcun.data.records import read_documents
from ragcun.errors import InputError
from tests.hub import write_split

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
    assert [len(passage.split()) for passage in split_passages(words(25), 10)] == [10, 10, 5]


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


def test_what_is_left_out_is_counted_and_as_many_passages_come_as_wanted(tmp_path):
    rows = [
        article(1, f"{words(8)}.\n\n{words(9, 'other')}.\n\nToo short.", "Zwölf"),
        article(2, f"{words(8).upper()}.\n\n{words(6, 'new')}."),
        article(3, words(8), "List of words"),
        article(4, "  \n "),
        article(5, None, None),
    ]
    counts = Counter()
    stream = open_rows(str(write_split(tmp_path / "w", rows)), None, "train")
    kept = list(read_passages(stream, 100, 10, 5, counts))
    assert [(each["_id"], each["title"]) for each in kept] == [("1-0", "Zwölf"), ("1-1", "Zwölf"), ("2-0", "Title")]
    assert kept[2]["text"] == f"{words(6, 'new')}."
    assert +counts == {
        "rows_read": 5, "articles": 2, "passages": 3, "short_passages": 1, "repeated_passages": 1, "list_pages": 1,
        "articles_without_passage": 2,
    }  # fmt: skip
    rows = [article(key, f"{words(5, f'a{key}')}\n{words(5, f'b{key}')}\nshort") for key in range(4)]
    counts = Counter()
    stream = open_rows(str(write_split(tmp_path / "w", rows)), None, "train")
    assert len(list(read_passages(stream, 3, 5, 2, counts))) == counts["passages"] == 3
    assert (counts["rows_read"], counts["short_passages"]) == (2, 1)


@pytest.mark.parametrize("suffix", ["jsonl", "json", "txt"])
def test_every_format_gives_the_same_documents(tmp_path, suffix):
    passage = {"_id": "1-0", "title": "Wärme, Größe", "text": 'Über "heat"\u2028flow \\ 🔥.\n\nSecond paragraph.'}
    write_passages(tmp_path / f"w.{suffix}", iter([passage] * 2))
    first, second = read_documents(tmp_path / f"w.{suffix}")
    assert first == second
    assert first.content.split() == f"{passage['title']} {passage['text']}".split()


def test_the_seed_orders_the_files_and_every_row_comes_once(tmp_path):
    folder = write_split(tmp_path / "w", [article(i, "text") for i in range(64)], 8)
    orders = {seed: [row["id"] for row in open_rows(str(folder), None, "train", seed=seed)] for seed in (None, 0, 1)}
    assert orders[None] == [str(i) for i in range(64)]
    assert orders[0] != orders[1]
    assert [row["id"] for row in open_rows(str(folder), None, "train", seed=0)] == orders[0]
    assert sorted(orders[0], key=int) == sorted(orders[1], key=int) == orders[None]
    blocks = [orders[0][i : i + 8] for i in range(0, 64, 8)]
    assert all([int(each) - int(block[0]) for each in block] == list(range(8)) for block in blocks)


@pytest.mark.parametrize(
    ("row", "message"),
    [({"id": "1", "body": "text"}, "columns id, body; expected: id, title, text"), (article(1, "a b"), "5 words")],
)
def test_rows_without_passages_are_refused(tmp_path, row, message):
    stream = open_rows(str(write_split(tmp_path / "w", [row])), None, "train")
    with pytest.raises(InputError, match=message):
        list(read_passages(stream, 1, 9, 5, Counter()))
