"""Documents beyond the pairs: how a dataset holds them, and which answers to a query it knows."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragcun.data.beir import Collection, Document, pairs_from_collection
from ragcun.data.pairs import PairDataset
from ragcun.errors import InputError

ROWS = [("q1", "d1", None), ("q2", "d2", "d3"), ("q1", "d4", None), ("q1", "d1", "d2")]


def test_texts_of_the_corpus_follow_those_of_the_pairs_each_once() -> None:
    data = PairDataset.from_rows(ROWS, "made", corpus=["e1", "d2", "e2", "e1", "d1", "e3"])
    assert data.documents == ["d1", "d2", "d3", "d4", "e1", "e2", "e3"]
    assert data.unpaired() == ["e1", "e2", "e3"]


def test_a_corpus_leaves_the_pairs_and_their_digest_alone() -> None:
    without = PairDataset.from_rows(ROWS, "made")
    data = PairDataset.from_rows(ROWS, "made", corpus=(f"e{i}" for i in range(5)))
    assert list(data.rows()) == list(without.rows()) == ROWS
    assert (data.queries, data.sha256(), len(data)) == (without.queries, without.sha256(), len(without))
    for name in ("query_ids", "positive_ids", "negative_ids"):
        np.testing.assert_array_equal(getattr(data, name), getattr(without, name))


def test_a_corpus_alone_is_no_dataset() -> None:
    with pytest.raises(InputError, match="made holds no pairs"):
        PairDataset.from_rows([], "made", corpus=["e1", "e2"])


def some_pairs(seed: int) -> PairDataset:
    """Pairs of 9 queries and 12 documents, some with many answers, and 5 documents that answer nothing."""
    drawn = random.Random(seed)
    rows = [(f"q{drawn.randrange(9)}", f"d{drawn.randrange(12)}", drawn.choice([None, "n1", "d3"])) for _ in range(30)]
    return PairDataset.from_rows([row for row in rows if row[1] != row[2]], "made", (f"e{i}" for i in range(5)))


@given(st.integers(0, 10**6), st.lists(st.integers(0, 4)), st.lists(st.integers(0, 9)))
def test_known_is_what_the_pairs_say(seed: int, queries: list[int], documents: list[int]) -> None:
    """Against the set of (query, positive); indices may repeat, and either side may be empty."""
    data = some_pairs(seed)
    pairs = {(query, positive) for query, positive, _ in data.rows()}
    asked = np.array(queries, dtype=np.int64), np.array(documents, dtype=np.int64)
    found = data.known(*asked)
    assert found.shape == (len(queries), len(documents))
    expected = [[(data.queries[i], data.documents[j]) in pairs for j in documents] for i in queries]
    assert found.tolist() == expected


@given(st.integers(0, 10**6))
def test_answers_are_the_distinct_positives_of_a_query(seed: int) -> None:
    data = some_pairs(seed)
    for place, text in enumerate(data.queries):
        answers = data.answers(place).tolist()
        assert len(answers) == len(set(answers))
        assert {data.documents[answer] for answer in answers} == {p for q, p, _ in data.rows() if q == text}


@given(st.integers(0, 10**6))
def test_relevant_is_known_of_the_rows_own_queries_and_positives(seed: int) -> None:
    data = some_pairs(seed)
    rows = np.random.default_rng(seed).permutation(len(data))[:8]
    relevant, known = data.relevant(rows), data.known(data.query_ids[rows], data.positive_ids[rows])
    assert relevant is None or np.array_equal(relevant, known)
    assert known.diagonal().all()


@pytest.fixture
def collection() -> Collection:
    """Two training queries; one judgment is 0, one document has no text, one judged document is missing."""
    documents = {f"d{i}": Document(f"title {i}", f"text {i}") for i in range(5)} | {"empty": Document("", "")}
    qrels = {"q1": {"d1": 1, "d2": 0, "empty": 1}, "q2": {"d1": 2, "d3": 1, "gone": 1}}
    return Collection("made", documents, {"q1": "one", "q2": "two"}, qrels, "train")


def test_the_whole_corpus_comes_along_where_asked(collection: Collection) -> None:
    pairs, whole = (pairs_from_collection(collection, whole_corpus=asked) for asked in (False, True))
    assert list(whole.rows()) == list(pairs.rows())
    assert len(whole) == 3
    assert pairs.unpaired() == []
    assert set(whole.documents) == {document.content for document in collection.documents.values()} - {""}
    assert whole.unpaired() == [collection.documents[key].content for key in ("d0", "d2", "d4")]


def test_documents_of_one_text_are_one(collection: Collection) -> None:
    twin = replace(collection, documents=collection.documents | {"twin": collection.documents["d4"]})
    assert pairs_from_collection(twin, True).documents == pairs_from_collection(collection, True).documents
