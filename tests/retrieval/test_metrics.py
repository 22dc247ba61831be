from __future__ import annotations

import numpy as np
import pytest

from ragcun.retrieval.metrics import evaluate_run, mean

CUTOFFS = (1, 3, 5, 10, 100)


def reference(run, qrels, k):
    """All five metrics at `k` from their definitions, in float64."""
    values = {name: {} for name in ("NDCG", "MAP", "Recall", "P", "MRR")}
    for query, judgments in qrels.items():
        order = sorted(run.get(query, {}), key=lambda document: -run[query][document])[:k]
        gains = np.array([max(judgments.get(document, 0), 0) for document in order] + [0.0])
        ideal = np.array(sorted(judgments.values(), reverse=True)[:k], dtype=float).clip(0)
        relevant = sum(grade > 0 for grade in judgments.values())
        hits = gains > 0
        ranks = np.arange(1, len(gains) + 1)
        best = (ideal / np.log2(np.arange(2, len(ideal) + 2))).sum()
        values["NDCG"][query] = (gains / np.log2(ranks + 1)).sum() / best if best else 0.0
        values["MAP"][query] = (hits * np.cumsum(hits) / ranks).sum() / relevant if relevant else 0.0
        values["Recall"][query] = hits.sum() / relevant if relevant else 0.0
        values["P"][query] = hits.sum() / k
        values["MRR"][query] = (hits / ranks).max()
    return values


def random_run(seed, queries=12, documents=40, empty=True):
    rng = np.random.default_rng(seed)
    names = [f"d{i}" for i in range(documents)]
    run, qrels = {}, {}
    for i in range(queries):
        judged = rng.choice(names, rng.integers(1, 25), replace=False)
        qrels[f"q{i}"] = {str(document): int(rng.integers(0, 4)) for document in judged}
        if empty and i % 5 == 4:
            continue
        found = rng.choice(names, rng.integers(1, 30), replace=False)
        run[f"q{i}"] = {str(document): rng.normal() for document in found}
    return run, qrels


@pytest.mark.parametrize("seed", range(5))
def test_matches_the_definitions(seed):
    run, qrels = random_run(seed)
    measured = evaluate_run(run, qrels, CUTOFFS)
    for k in CUTOFFS:
        expected = reference(run, qrels, k)
        for name in ("NDCG", "MAP", "Recall", "P", *(("MRR",) if k == 10 else ())):
            assert measured[f"{name}@{k}"] == pytest.approx(expected[name], abs=1e-6), f"{name}@{k}"


def test_matches_beir_where_every_query_is_answered():
    evaluation = pytest.importorskip("beir.retrieval.evaluation")
    run, qrels = random_run(9, empty=False)
    expected = {}
    for part in evaluation.EvaluateRetrieval.evaluate(qrels, run, list(CUTOFFS)):
        expected.update(part)
    measured = mean(evaluate_run(run, qrels, CUTOFFS))
    assert {name: measured[name] for name in expected} == pytest.approx(expected, abs=1.1e-5)


def test_judged_queries_that_the_run_lacks_score_zero():
    qrels = {"q1": {"a": 1}, "q2": {"a": 1}, "q3": {"a": 1}, "q4": {"b": 0}, "unjudged": {}}
    measured = evaluate_run({"q1": {"a": 1.0}, "q2": {}, "other": {"a": 1.0}}, qrels, (10,))
    for values in measured.values():
        assert list(values) == ["q1", "q2", "q3", "q4"]
        assert values["q2"] == values["q3"] == values["q4"] == 0.0
    assert mean(measured)["NDCG@10"] == mean(measured)["MRR@10"] == 0.25
    assert mean(evaluate_run({}, qrels, (10,)))["Recall@10"] == 0.0


@pytest.mark.parametrize("order", [("a", "b", "c"), ("c", "b", "a"), ("b", "c", "a")])
def test_equal_scores_rank_in_the_order_of_the_run(order):
    """trec_eval itself would rank c, b, a whatever the run says."""
    measured = evaluate_run({"q": dict.fromkeys(order, 0.5)}, {"q": {"a": 1}}, (1, 10))
    assert measured["MRR@10"]["q"] == pytest.approx(1 / (order.index("a") + 1))
    assert measured["P@1"]["q"] == float(order[0] == "a")


def test_scores_that_float32_cannot_tell_apart_keep_their_order():
    measured = evaluate_run({"q": {"z": 1.0, "a": 1.0 + 1e-12}}, {"q": {"a": 1}}, (1,))
    assert measured["NDCG@1"]["q"] == 1.0


def test_only_the_cutoffs_asked_for_are_measured():
    run, qrels = random_run(1)
    assert set(evaluate_run(run, qrels, (3,))) == {"NDCG@3", "MAP@3", "Recall@3", "P@3"}
    assert set(evaluate_run(run, qrels, (10,))) == {"NDCG@10", "MAP@10", "Recall@10", "P@10", "MRR@10"}


def test_mrr_stops_at_rank_10():
    found = {f"d{rank}": -float(rank) for rank in range(1, 21)}
    assert evaluate_run({"q": found}, {"q": {"d10": 1}}, (10,))["MRR@10"]["q"] == pytest.approx(0.1)
    assert evaluate_run({"q": found}, {"q": {"d11": 1}}, (10,))["MRR@10"]["q"] == 0.0


def test_wrong_calls_are_refused():
    with pytest.raises(ValueError, match="no judgment"):
        evaluate_run({"q": {"a": 1.0}}, {"q": {}})
    with pytest.raises(ValueError, match="at least 1"):
        evaluate_run({"q": {"a": 1.0}}, {"q": {"a": 1}}, (0,))
    with pytest.raises(ValueError, match="not a finite number"):
        evaluate_run({"q": {"a": float("nan")}}, {"q": {"a": 1}})
