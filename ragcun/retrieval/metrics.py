"""Retrieval metrics of a run against judgments (qrels), by trec_eval through pytrec_eval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

import pytrec_eval

from ragcun.retrieval.runs import check_finite, ranked

PerQuery = dict[str, dict[str, float]]
MRR_CUTOFF = 10
TREC_MEASURES = {"NDCG": "ndcg_cut", "MAP": "map_cut", "Recall": "recall", "P": "P"}


def evaluate_run(
    run: Mapping[str, Mapping[str, float]],
    qrels: Mapping[str, Mapping[str, int]],
    cutoffs: Sequence[int] = (1, 3, 5, 10, 100),
) -> PerQuery:
    """Measure every judged query: ``{metric: {query id: value}}`` for NDCG, MAP, Recall and P at each cut-off, and MRR.

    NDCG has linear gain and a log₂(rank + 1) discount; a document is relevant from grade 1 on. MRR is there at 10 only,
    where 10 is among the cut-offs. Queries are those with at least one judgment: one that the run lacks scores 0, and
    so does one without a relevant document (as in trec_eval); queries of the run without judgments are passed over.

    Documents rank by (score descending, order in the run). trec_eval would break ties by document id, so it is handed
    minus the rank in place of the score.

    Raises:
        ValueError: no query is judged, a cut-off is below 1, or a score is not finite.
    """
    judged = {query: dict(judgments) for query, judgments in qrels.items() if judgments}
    if not judged:
        raise ValueError(f"qrels hold no judgment (of {len(qrels)} queries); nothing can be measured")
    if not cutoffs or min(cutoffs) < 1:
        raise ValueError(f"cut-offs must be at least 1, got {list(cutoffs)}")
    check_finite(run)
    by_rank = {
        query: {document: -float(rank) for rank, (document, _) in enumerate(ranked(run[query]))}
        for query in judged
        if run.get(query)
    }
    levels = ",".join(str(cutoff) for cutoff in cutoffs)
    measured = _trec_eval(by_rank, judged, {f"{measure}.{levels}" for measure in TREC_MEASURES.values()})
    names = {f"{name}@{c}": f"{measure}_{c}" for name, measure in TREC_MEASURES.items() for c in cutoffs}
    values = {
        name: {query: measured[query][trec] if query in measured else 0.0 for query in judged}
        for name, trec in names.items()
    }
    if MRR_CUTOFF in cutoffs:
        top = {query: dict(list(documents.items())[:MRR_CUTOFF]) for query, documents in by_rank.items()}
        measured = _trec_eval(top, judged, {"recip_rank"})
        name = f"MRR@{MRR_CUTOFF}"
        values[name] = {query: measured[query]["recip_rank"] if query in measured else 0.0 for query in judged}
    return values


def mean(per_query: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Average each metric over its queries.

    >>> mean({"NDCG@10": {"q1": 1.0, "q2": 0.5}})
    {'NDCG@10': 0.75}
    """
    return {name: fmean(values.values()) for name, values in per_query.items()}


def _trec_eval(
    run: dict[str, dict[str, float]], qrels: dict[str, dict[str, int]], measures: set[str]
) -> dict[str, dict[str, float]]:
    return pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(run)
