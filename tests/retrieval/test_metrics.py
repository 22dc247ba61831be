"""Metrics agree with values by hand in float64, and with beir's; p values with their tests."""

import itertools
import math
import tracemalloc
from statistics import fmean

import numpy as np
import pytest
from scipy import stats

from ragcun.retrieval.metrics import evaluate_run, mean, paired_tests
from ragcun.retrieval.runs import read_run

METRICS = ("NDCG@10", "MRR@10", "MAP@100", "Recall@100", "P@10")
QUERIES, DOCUMENTS = 30, 250
UNANSWERED = {"q3", "q17", "q29"}


def by_hand(ranking: list[str], judged: dict[str, int]) -> dict[str, float]:
    """The metrics of one query, summed document by document in float64."""
    relevant = {document for document, grade in judged.items() if grade >= 1}
    dcg = reciprocal = precisions = 0.0
    hits = first_hits = 0
    for rank, document in enumerate(ranking[:100], start=1):
        if document in relevant:
            hits += 1
            precisions += hits / rank
            if rank <= 10:
                first_hits += 1
                reciprocal = reciprocal or 1 / rank
                dcg += judged[document] / math.log2(rank + 1)
    best = sorted((judged[document] for document in relevant), reverse=True)[:10]
    ideal = sum(grade / math.log2(rank + 1) for rank, grade in enumerate(best, start=1))
    count = len(relevant)
    means = (precisions / count if count else 0.0, hits / max(count, 1), first_hits / 10)
    return dict(zip(METRICS, (dcg / ideal if count else 0.0, reciprocal, *means), strict=True))


@pytest.fixture(params=range(3))
def case(request, tmp_path):
    """A run file, qrels, and the ranking of each query.

    Judgments have grades 0 to 3, most found documents have none, a query has no relevant document, some judged queries
    have no results, one query of the run has no judgment, and more than half of the scores are shared.
    """
    rng = np.random.default_rng(request.param)
    names = [f"d{i}" for i in range(DOCUMENTS)]
    qrels, rankings, lines = {}, {}, []
    for i in range(QUERIES):
        query = f"q{i}"
        judged = rng.choice(names, rng.integers(2, 40), replace=False)
        grades = rng.integers(0, 1 if i == 5 else 4, len(judged))
        qrels[query] = {str(document): int(grade) for document, grade in zip(judged, grades, strict=True)}
        if query in UNANSWERED:
            continue
        found = [str(document) for document in rng.choice(names, rng.integers(5, 200), replace=False)]
        scores = np.sort(rng.integers(0, len(found), len(found)) / 7)[::-1]
        rankings[query] = found
        for rank, (document, score) in enumerate(zip(found, scores, strict=True), start=1):
            lines.append(f"{query} Q0 {document} {rank} {float(score)!r} made\n")
    del qrels["q8"]
    (tmp_path / "tied.trec").write_text("".join(lines))
    return tmp_path / "tied.trec", qrels, rankings


def test_every_judged_query_has_the_value_that_follows_from_the_definition(case):
    """In float64 by hand; trec_eval computes in doubles, so that only the order of summation differs."""
    file, qrels, rankings = case
    expected = {query: by_hand(rankings.get(query, []), judged) for query, judged in qrels.items()}
    measured = evaluate_run(read_run(file), qrels, (10, 100))
    for name in METRICS:
        assert measured[name] == pytest.approx({query: expected[query][name] for query in qrels}, abs=1e-12), name
    assert 0.02 < fmean(each["NDCG@10"] for each in expected.values()) < 0.9


def test_beir_has_our_means(case):
    """It rounds to 5 decimals, and leaves out queries without results."""
    evaluation = pytest.importorskip("beir.retrieval.evaluation").EvaluateRetrieval
    _, qrels, rankings = case
    run = {query: {key: -rank for rank, key in enumerate(rankings.get(query, []))} for query in qrels}
    parts = (*evaluation.evaluate(qrels, run, [10, 100]), evaluation.evaluate_custom(qrels, run, [10], "mrr"))
    theirs = {name: value for part in parts for name, value in part.items() if name in METRICS}
    ours = mean(evaluate_run(run, qrels, (10, 100)))
    assert theirs == pytest.approx({name: ours[name] for name in METRICS}, abs=1e-5)


def test_only_the_cutoffs_asked_for_and_judged_queries_are_measured():
    run, qrels = {"q": {"a": 1.0}}, {"q": {"a": 1}, "unjudged": {}}
    assert set(evaluate_run(run, qrels, (3,))) == {"NDCG@3", "MAP@3", "Recall@3", "P@3"}
    measured = evaluate_run(run, qrels, (10,))
    assert set(measured) == {"NDCG@10", "MAP@10", "Recall@10", "P@10", "MRR@10"}
    assert all(values.keys() == {"q"} for values in measured.values())
    measured = evaluate_run({"q": {"z": 1.0, "a": 1.0 + 1e-12}}, {"q": {"a": 1}}, (1,))
    assert measured["NDCG@1"]["q"] == 1.0


@pytest.mark.parametrize(
    ("run", "qrels", "cutoffs", "facts"),
    [
        ({"q": {"a": 1.0}}, {"q": {}}, (10,), "no judgment"),
        ({"q": {"a": 1.0}}, {"q": {"a": 1}}, (0,), "at least 1"),
        ({"q": {"a": math.nan}}, {"q": {"a": 1}}, (10,), "not a finite number"),
        ({1: {"a": 1.0}}, {"1": {"a": 1}}, (10,), "no query of the run, such as 1, is judged; qrels have '1'"),
        *(
            ({"q": {"a": 1.0}}, {"p": {"a": 1}, "q": {"b": grade}}, (10,), f"query 'q': the grade of 'b' .* {words}")
            for grade, words in [(1001, "1001"), (-(2**31), "-2147483648"), (math.nan, "nan"), (None, "None")]
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(run, qrels, cutoffs, facts):
    with pytest.raises(ValueError, match=facts):
        evaluate_run(run, qrels, cutoffs)


def test_grades_are_whole_numbers_of_any_type():
    """Negative ones are not relevant, and those at the bound are measured."""
    run, exact = {"q": {"a": 2.0, "b": 1.0, "c": 0.5}}, {"q": {"a": -2, "b": 2, "c": 1000}}
    other = {"q": {"a": np.float64(-2), "b": 2.0, "c": np.int64(1000)}}
    found = evaluate_run(run, other)
    assert found == evaluate_run(run, exact)
    assert (found["P@1"]["q"], found["P@3"]["q"]) == (0.0, pytest.approx(2 / 3))


def scores(values):
    return {f"q{i}": float(value) for i, value in enumerate(values)}


@pytest.mark.parametrize("seed", range(4))
def test_small_samples_are_enumerated_and_the_t_test_is_the_closed_form(seed):
    rng = np.random.default_rng(seed)
    ours, baseline = rng.integers(0, 5, (2, 9)) / 4 + 0.1 * (seed + 1) * np.array([[1], [0]])
    differences = ours - baseline
    tosses = np.array([np.mean(differences * signs) for signs in itertools.product((1, -1), repeat=9)])
    expected = np.mean(np.abs(tosses) >= abs(differences.mean()) - 1e-12)
    tests = paired_tests(scores(ours), scores(baseline))
    assert tests.p_randomisation == pytest.approx(min(1.0, expected))
    assert (tests.n_queries, tests.mean_difference) == (9, pytest.approx(differences.mean()))
    t = differences.mean() / (differences.std(ddof=1) / 3)
    assert tests.p_t == pytest.approx(2 * stats.t.sf(abs(t), 8), rel=1e-9)


def test_sampled_p_value_agrees_with_enumeration():
    """Binomial: 10,000 tosses put p within 5 standard errors of the exact value (two tails of one, hence the 2)."""
    ours, baseline = scores(np.random.default_rng(5).normal(0.45, 1, 15)), scores(np.zeros(15))
    exact = paired_tests(ours, baseline, resamples=2**15).p_randomisation
    sampled = [paired_tests(ours, baseline, seed=seed).p_randomisation for seed in (0, 0, 1)]
    tail = exact / 2
    assert abs(sampled[0] - exact) < 2 * 5 * math.sqrt(tail * (1 - tail) / 10_000)
    assert 0.005 < exact < 0.5
    assert sampled[0] == sampled[1] != sampled[2]


def test_samples_without_variance_or_of_one_sign():
    same = scores(np.random.default_rng(0).random(20))
    tests = paired_tests(same, dict(reversed(same.items())))
    assert (tests.mean_difference, tests.p_randomisation, tests.p_t) == (0.0, 1.0, 1.0)
    assert paired_tests(scores([1.0, 0.5, 0.5]), scores([0.0, 0.5, 0.5])).p_randomisation == 1.0
    tests = paired_tests(scores([1.0] * 6), scores([0.5] * 6))
    assert (tests.p_t, tests.p_randomisation) == (0.0, pytest.approx(2 / 2**6))


def test_memory_is_bounded():
    """1,000 queries × 3,000 tosses are 24 MB of float64, of which scipy would hold eight at once."""
    first, second = map(scores, np.random.default_rng(4).random((2, 1_000)))
    paired_tests(first, second, resamples=10)
    tracemalloc.start()
    paired_tests(first, second, resamples=3_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6


@pytest.mark.parametrize(
    ("ours", "baseline", "facts"),
    [
        ({"a": 1.0, "b": 1.0, "c": 0.0}, {"c": 1.0, "d": 1.0}, "2 only in ours, 1 only in baseline"),
        ({"a": 1.0}, {"a": 0.0}, "at least 2 queries, got 1"),
        ({"a": 1.0, "b": math.nan}, {"a": 0.0, "b": 1.0}, "1 of 2 differences are not finite"),
    ],
)
def test_what_cannot_be_tested_is_refused(ours, baseline, facts):
    with pytest.raises(ValueError, match=facts):
        paired_tests(ours, baseline)
