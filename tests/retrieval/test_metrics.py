from __future__ import annotations

import pytest

from ragcun.retrieval.metrics import evaluate_run, mean


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
    run, qrels = {"q": {"a": 1.0}}, {"q": {"a": 1}}
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
