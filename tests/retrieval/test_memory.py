"""Documents moved towards their training queries, against a loop; what held-out queries make of memory."""

import numpy as np
import pytest

from ragcun import load_collection
from ragcun.retrieval.memory import AppendedQueries, Labels, MovedDocuments, choose_strength, move_documents
from tests.models.helpers import unit
from tests.retrieval.conftest import Random


def test_moved_documents_follow_the_closed_form_and_others_stay():
    random = np.random.default_rng(0)
    documents, queries = random.normal(size=(5, 3)), random.normal(size=(4, 3))
    pairs = [(0, 1), (2, 1), (3, 4), (0, 4)]
    moved = move_documents(documents, queries, pairs, 0.7)
    for row, document in enumerate(documents):
        own = [unit(queries[query]) for query, answer in pairs if answer == row]
        expected = document
        if own:
            expected = np.linalg.norm(document) * unit(unit(document) + 0.7 * unit(np.sum(own, axis=0)))
        assert moved[row] == pytest.approx(expected, abs=1e-6)
    for unchanged in (move_documents(documents, queries, pairs, 0.0), move_documents(documents, queries, [], 1.0)):
        assert np.array_equal(unchanged, documents.astype(np.float32))


@pytest.mark.parametrize("pairs", [[(4, 0)], [(0, 5)], [(-1, 0)]])
def test_pairs_must_name_rows_that_are_there(pairs):
    with pytest.raises(ValueError, match="4 queries and 5 documents"):
        move_documents(np.ones((5, 3)), np.ones((4, 3)), pairs, 1.0)


def test_strength_is_that_of_held_out_queries_and_0_where_memory_does_not_help():
    """Queries of one document are alike, or have nothing in common with one another."""
    random = np.random.default_rng(1)
    documents = random.normal(size=(50, 16)).astype(np.float32)
    pairs = np.array([(row, row % 50) for row in range(400)])
    topics = random.normal(size=(50, 16))
    alike = (topics[pairs[:, 1]] + 0.3 * random.normal(size=(400, 16))).astype(np.float32)
    record = choose_strength(documents, alike, pairs)
    strength = record["chosen"]
    assert strength > 0
    assert record["queries"] == 120
    assert record["p"] < 0.05
    assert np.array_equal(move_documents(documents, alike, pairs), move_documents(documents, alike, pairs, strength))
    answered = (documents[pairs[:, 1]] + random.normal(size=(400, 16))).astype(np.float32)
    noise = np.where(pairs[:, :1] % 2, answered, random.normal(size=(400, 16))).astype(np.float32)
    assert choose_strength(documents, noise, pairs)["chosen"] < strength
    assert choose_strength(documents, alike, pairs[:100])["chosen"] == 0


@pytest.fixture
def labelled(collection_folder):
    """Return the toy collection and its labels."""
    return load_collection(collection_folder), Labels({"toy": collection_folder})


def test_memory_knows_training_queries_alone(labelled, dense):
    """A strength that is given moves the documents of training queries, and no test query is among these."""
    collection, labels = labelled
    pairs = labels.pairs(collection)
    assert not {text for text, _ in pairs} & set(collection.queries.values())
    memory = MovedDocuments.of(dense("x", 1), labels)
    before = Random(1).encode_document([document.content for document in collection.documents.values()])
    moved = (memory.moved(collection, 1.0) != before).any(axis=1)
    asked = {name for _, name in pairs}
    changed = {name for name, is_moved in zip(collection.documents, moved, strict=True) if is_moved}
    assert asked - {"d13"} <= changed <= asked  # the query of d13 is its text
    texts = AppendedQueries(labels=labels).texts(collection, 1.0)
    assert {name for name, text in texts.items() if text != collection.documents[name].content} == asked
    assert len(labels.seen(collection)) == len(asked)


def test_memory_without_queries_to_choose_by_is_no_memory(labelled, dense):
    collection, _ = labelled
    memory = MovedDocuments.of(dense("x", 1), Labels())
    assert memory.retrieve(collection, 10) == dense("x", 1).retrieve(collection, 10)
    assert memory.chosen["toy"]["memory"]["chosen"] == 0
