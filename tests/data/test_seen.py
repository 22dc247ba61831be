from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragcun.data.beir import Collection, Document
from ragcun.data.overlap import SEEN, read_seen, seen_queries, text_hash, text_hashes, training_documents
from ragcun.data.pairs import PairDataset
from ragcun.errors import InputError

BLANKS = st.text(" \t\n\r\u00a0\u2003", min_size=1)
WORDS = st.lists(st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1), min_size=1)


def pairs(*rows):
    return PairDataset.from_rows(rows, source="test")


def keep(folder, value):
    (folder / SEEN).parent.mkdir(parents=True, exist_ok=True)
    (folder / SEEN).write_text(json.dumps(value))
    return folder


@given(words=WORDS, data=st.data())
def test_only_the_amount_of_white_space_is_passed_over(words, data):
    spaced = data.draw(BLANKS) + "".join(word + data.draw(BLANKS) for word in words)
    assert text_hash(spaced) == text_hash(" ".join(words))
    assert text_hash(" ".join([*words, "more"])) != text_hash(spaced)


def test_words_and_case_count():
    assert len(text_hashes(["a b", "ab", "A b", "b a", " a  b "])) == 4


def test_blank_texts_and_unpaired_surrogates():
    assert text_hashes(["", " \n"]) == frozenset()
    assert len(text_hashes(["\ud800", "\ud801"])) == 2


def test_positives_count_and_negatives_do_not():
    train = pairs(("q1", "one", "two"), ("q2", "one", None), ("q3", "three", "one"))
    assert training_documents(train, None, None) == text_hashes(["one", "three"])


def test_a_document_of_which_a_part_was_the_positive_counts_whole(tmp_path):
    (tmp_path / "documents.jsonl").write_text('{"title": "T", "text": "one two"}\n{"title": "", "text": ""}\n')
    seen = training_documents(pairs(("one", "two", None)), str(tmp_path / "documents.jsonl"), None)
    assert seen == text_hashes(["two", "T one two"])


def test_going_on_keeps_what_was_seen_and_unknown_stays_unknown(tmp_path, caplog):
    train = pairs(("q", "new", None), ("q", "both", None))
    before = text_hashes(["old", "both"])
    known = keep(tmp_path / "known", sorted(before))
    assert training_documents(train, None, str(known)) == before | text_hashes(["new"])
    assert not caplog.records
    assert training_documents(train, None, str(tmp_path / "older")) is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "seen documents are unknown" in caplog.text


@pytest.mark.parametrize("value", [{}, None, [3], ["ab"], ["G" * 32], ["a" * 33], ["a" * 32 + "\n"]])
def test_what_are_no_hashes_is_refused(tmp_path, value):
    with pytest.raises(InputError, match="not an array of hashes"):
        read_seen(keep(tmp_path, value))


@pytest.mark.parametrize("seed", range(5))
def test_seen_queries_against_every_pair_of_texts(seed):
    """Documents repeat under other ids, judgments may be 0 or negative, or of a document that the corpus lacks."""
    rng = random.Random(seed)
    documents = {f"d{i}": Document(rng.choice(["", "T"]), rng.choice(["", "a", "b c", "b  c", "d"])) for i in range(15)}
    qrels = {f"q{i}": {f"d{rng.randrange(18)}": rng.choice([-1, 0, 1, 2]) for _ in range(3)} for i in range(25)}
    texts = ["T a", "b c ", "T"]
    expected = {
        query
        for query, judged in qrels.items()
        for key, score in judged.items()
        if score > 0 and key in documents
        for text in texts
        if documents[key].content.split() == text.split()
    }
    collection = Collection("c", documents, dict.fromkeys(qrels, "text"), qrels, "test")
    assert seen_queries(collection, text_hashes(texts)) == expected
    assert 0 < len(expected) < len(qrels)
    assert seen_queries(collection, frozenset()) == frozenset()
