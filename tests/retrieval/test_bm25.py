import numpy as np
import pytest

from ragcun.retrieval.bm25 import BM25
from ragcun.retrieval.metrics import evaluate_run, mean
from tests.data.test_hard_negatives import bm25_loop

DOCUMENTS = {"a": "zebra zebra lion", "b": "zebra tiger lion elephant", "c": "tiger", "d": "", "e": "tiger"}


def test_scores_are_those_of_the_formula_and_queries_without_a_known_word_have_an_empty_result():
    found, score = BM25(DOCUMENTS).run({"q": "zebra lion"})["q"], bm25_loop([*DOCUMENTS.values()])
    assert found == pytest.approx({"a": score("zebra lion", 0), "b": score("zebra lion", 1)}, rel=1e-5)
    assert list(found) == ["a", "b"]
    assert BM25(DOCUMENTS).run({"q": "submarine", "empty": "", "r": "lion submarine"}).keys() == {"q", "empty", "r"}
    assert BM25(DOCUMENTS).run({"q": "submarine"}) == {"q": {}}
    assert BM25({"a": "", "b": "the"}).run({"q": "tiger"}) == {"q": {}}


def test_ties_follow_the_ids_whatever_the_order_of_the_documents_at_every_cutoff():
    equal = {f"d{i:02d}": "tiger" for i in np.random.default_rng(0).permutation(40)}
    whole = list(BM25(equal).run({"q": "tiger"})["q"])
    assert whole == sorted(equal)
    for k in (1, 7, 39):
        assert list(BM25(equal).run({"q": "tiger"}, k=k)["q"]) == whole[:k]


@pytest.mark.parametrize(("name", "floor"), [("scifact", 0.66), ("nfcorpus", 0.31)])
def test_is_as_good_as_published_on_beir(shared_data, name, floor):
    from ragcun.data.beir import load_collection

    collection = load_collection(shared_data / name, "test")
    documents = {key: document.content for key, document in collection.documents.items()}
    run = BM25(documents).run({key: collection.queries[key] for key in collection.qrels}, k=10)
    assert mean(evaluate_run(run, collection.qrels, cutoffs=(10,)))["NDCG@10"] >= floor
