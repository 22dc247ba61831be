"""A document of the query's id is ranked, by every system, unless it is the query itself or a flag leaves it out."""

from dataclasses import replace

import pytest

from ragcun.data.beir import Collection, Document, load_collection, write_collection
from ragcun.distributed.search import ShardedRetriever, ShardedSearch, run_here
from ragcun.retrieval.hybrid import HybridRetriever
from ragcun.retrieval.memory import AppendedQueries, MovedDocuments
from ragcun.retrieval.runs import StoredRetriever, write_run
from ragcun.retrieval.systems import BM25Retriever, evaluate_retriever

QUERIES = {"1": "red apple", "2": "Green  PEAR", "3": "blue plum", "4": "red"}
DOCUMENTS = {
    "1": Document("", "a red apple tree"),  # the answer, in the same row of a table
    "2": Document("", "green pear"),
    "3": Document("Fruit", "blue plum"),
    "4": Document("red", "the colour of an apple"),
    "5": Document("", "green or blue or red, pear or plum or apple"),
}
QRELS = {query: {query: 1, "5": 1} for query in QUERIES}


@pytest.fixture
def collection() -> Collection:
    return Collection("fruit", DOCUMENTS, QUERIES, QRELS, "test")


def stored(path) -> StoredRetriever:
    write_run(path, {query: dict.fromkeys(DOCUMENTS, 1.0) for query in QUERIES}, "any")
    return StoredRetriever("any", path)


@pytest.fixture(params=["dense", "bm25", "hybrid", "moved", "appended", "stored", "sharded"])
def system(request, dense, tmp_path, tiny_bert):
    model, folder = dense("model", 1), tmp_path / "shards"
    return {
        "dense": lambda: model,
        "bm25": BM25Retriever,
        "hybrid": lambda: HybridRetriever((model, BM25Retriever())),
        "moved": lambda: MovedDocuments.of(model, AppendedQueries().labels),
        "appended": AppendedQueries,
        "stored": lambda: stored(tmp_path / "any.trec"),
        "sharded": lambda: ShardedRetriever("tiny", ShardedSearch(folder, tiny_bert), run_here),
    }[request.param]()


def test_every_system_leaves_out_the_query_itself_alone(system, collection):
    assert {query for query, found in system.retrieve(collection, 5).items() if query in found} == {"1", "4"}
    without = evaluate_retriever(system, replace(collection, drop_own_ids=True))
    assert not any(query in found for query, found in without.run.items())
    assert max(without.per_query["Recall@100"].values()) == 0.5


def test_judged_documents_that_this_costs_and_those_that_are_ranked_are_counted(collection, tmp_path):
    lost, ranked = collection.notes()
    assert lost.startswith("2 relevant documents are the query itself")
    assert ranked.startswith("2 documents have a query's id but another text")
    assert [note[:2] for note in replace(collection, drop_own_ids=True).notes()] == ["4 "]
    assert replace(collection, queries={"q": "red"}, qrels={"q": {"1": 1}}).notes() == []
    assert collection.sha256() != replace(collection, drop_own_ids=True).sha256()  # whose figures are others
    write_collection(tmp_path / "fruit", DOCUMENTS, QUERIES, {"test": QRELS})
    assert load_collection(tmp_path / "fruit").own_ids == {"2", "3"}
    assert load_collection(tmp_path / "fruit", drop_own_ids=True).own_ids == set(QUERIES)
