"""Four ways to measure one run file agree: ours, ir_measures (of several evaluators), by hand in float64, and beir."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest

from ragcun.retrieval.metrics import evaluate_run, mean
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
def case(request, tmp_path) -> tuple[Path, Path, dict[str, dict[str, int]], dict[str, list[str]]]:
    """A run file, a file of the same ranking with ranks for scores, qrels, and the ranking of each query.

    Judgments have grades 0 to 3, most found documents have none, a query has no relevant document, some judged queries
    have no results, one query of the run has no judgment, and more than half of the first file's scores are shared.
    """
    rng = np.random.default_rng(request.param)
    names = [f"d{i}" for i in range(DOCUMENTS)]
    qrels, rankings, tied, ranks = {}, {}, [], []
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
            tied.append(f"{query} Q0 {document} {rank} {float(score)!r} made\n")
            ranks.append(f"{query} Q0 {document} {rank} {-rank} made\n")
    del qrels["q8"]
    files = tmp_path / "tied.trec", tmp_path / "ranks.trec"
    for file, lines in zip(files, (tied, ranks), strict=True):
        file.write_text("".join(lines))
    return *files, qrels, rankings


def ours(file: Path, qrels) -> dict[str, dict[str, float]]:
    measured = evaluate_run(read_run(file), qrels, (10, 100))
    return {name: measured[name] for name in METRICS}


def by_ir_measures(file: Path, qrels) -> dict[str, dict[str, float]]:
    measures = pytest.importorskip("ir_measures")
    named = dict(zip(METRICS, ("nDCG@10", "RR@10", "AP@100", "R@100", "P@10"), strict=True))
    judgments = file.with_name("qrels.txt")
    judgments.write_text("".join(f"{q} 0 {d} {grade}\n" for q, judged in qrels.items() for d, grade in judged.items()))
    wanted = {measures.parse_measure(theirs): name for name, theirs in named.items()}
    values: dict[str, dict[str, float]] = {name: {} for name in METRICS}
    run = list(measures.read_trec_run(str(file)))
    for each in measures.iter_calc(list(wanted), list(measures.read_trec_qrels(str(judgments))), run):
        values[wanted[each.measure]][each.query_id] = each.value
    return values


def test_every_judged_query_has_the_value_that_follows_from_the_definition(case):
    """In float64 by hand; trec_eval computes in doubles, so that only the order of summation differs."""
    tied, ranks, qrels, rankings = case
    expected = {query: by_hand(rankings.get(query, []), judged) for query, judged in qrels.items()}
    for file in (tied, ranks):
        for name, values in ours(file, qrels).items():
            assert values == pytest.approx({query: expected[query][name] for query in qrels}, abs=1e-12), name
    assert 0.02 < fmean(each["NDCG@10"] for each in expected.values()) < 0.9


def test_ir_measures_agrees_where_no_scores_are_shared(case):
    """Its RR@10 is another program's (MS MARCO's); the others go through trec_eval."""
    _, ranks, qrels, _ = case
    there, here = by_ir_measures(ranks, qrels), ours(ranks, qrels)
    for name in METRICS:
        assert there[name] == pytest.approx(here[name], abs=1e-9), name
        assert there[name].keys() == qrels.keys()
        assert all(here[name][query] == 0 for query in UNANSWERED | {"q5"})


def test_shared_scores_leave_the_order_to_each_program_and_ours_is_the_files(case):
    """trec_eval takes the larger id first, MS MARCO's the smaller one: a file in that order has their value here."""
    tied, _, qrels, _ = case
    there = by_ir_measures(tied, qrels)
    lines = [line.split() for line in tied.read_text().splitlines()]
    ordered = tied.with_name("ordered.trec")
    for names, last_first in ((("NDCG@10", "MAP@100", "Recall@100", "P@10"), True), (("MRR@10",), False)):
        lines.sort(key=lambda line: line[2], reverse=last_first)
        lines.sort(key=lambda line: -float(line[4]))
        ordered.write_text("".join(" ".join(line) + "\n" for line in lines))
        here = ours(ordered, qrels)
        for name in names:
            assert there[name] == pytest.approx(here[name], abs=1e-9), name
    assert max(abs(there["NDCG@10"][query] - ours(tied, qrels)["NDCG@10"][query]) for query in qrels) > 0.01


def test_beir_leaves_unanswered_queries_out_of_all_means_but_its_mrr(case):
    """An empty answer counts as 0 in beir, a missing one not at all; beir rounds to 5 decimals."""
    evaluation = pytest.importorskip("beir.retrieval.evaluation").EvaluateRetrieval
    _, ranks, qrels, _ = case
    run = {query: found for query, found in read_run(ranks).items() if query in qrels}
    here = ours(ranks, qrels)

    def theirs(results) -> dict[str, float]:
        parts = evaluation.evaluate(qrels, results, [10, 100])
        values = {name: value for part in parts for name, value in part.items()}
        values |= evaluation.evaluate_custom(qrels, results, [10], "mrr")
        return {name: values[name] for name in METRICS}

    assert theirs({query: run.get(query, {}) for query in qrels}) == pytest.approx(mean(here), abs=1e-5)
    answered = {name: fmean(values[query] for query in run) for name, values in here.items()}
    partial = theirs(run)
    assert partial == pytest.approx({**answered, "MRR@10": mean(here)["MRR@10"]}, abs=1e-5)
    assert partial["NDCG@10"] > mean(here)["NDCG@10"] * (1 + len(UNANSWERED) / QUERIES)
