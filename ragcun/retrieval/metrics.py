"""Retrieval metrics of a run against judgments (qrels), by trec_eval, and paired tests of their differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import fmean

import numpy as np
import pytrec_eval
from numpy.typing import NDArray
from scipy.stats import permutation_test, ttest_rel

from ragcun.retrieval.runs import check_finite, ranked

PerQuery = dict[str, dict[str, float]]
CUTOFFS = (1, 3, 5, 10, 100)
MRR_CUTOFF = 10
BATCH_VALUES = 1 << 20
TREC_MEASURES = {"NDCG": "ndcg_cut", "MAP": "map_cut", "Recall": "recall", "P": "P"}


def evaluate_run(
    run: Mapping[str, Mapping[str, float]], qrels: Mapping[str, Mapping[str, int]], cutoffs: Sequence[int] = CUTOFFS
) -> PerQuery:
    """Measure every judged query: ``{metric: {query id: value}}`` for NDCG, MAP, Recall and P at each cut-off, and MRR.

    NDCG has linear gain and a log₂(rank + 1) discount; a document is relevant from grade 1 on. MRR is there at 10 only,
    where 10 is among the cut-offs. As in trec_eval, a judged query that the run lacks scores 0, and so does one without
    a relevant document; unjudged queries are ignored. Documents rank by (score descending, order in the run).

    Raises:
        ValueError: no query is judged, a cut-off is below 1, or a score is not finite.
    """
    judged = {query: dict(judgments) for query, judgments in qrels.items() if judgments}
    if not judged:
        raise ValueError(f"qrels hold no judgment (of {len(qrels)} queries); nothing can be measured")
    if not cutoffs or min(cutoffs) < 1:
        raise ValueError(f"cut-offs must be at least 1, got {list(cutoffs)}")
    check_finite(run)
    by_rank = {  # trec_eval would break ties by document id
        query: {document: -float(rank) for rank, (document, _) in enumerate(ranked(run[query]))}
        for query in judged
        if run.get(query)
    }
    levels = ",".join(str(cutoff) for cutoff in cutoffs)
    names = {f"{name}@{c}": f"{measure}_{c}" for name, measure in TREC_MEASURES.items() for c in cutoffs}
    values = _trec_eval(by_rank, judged, {f"{measure}.{levels}" for measure in TREC_MEASURES.values()}, names)
    if MRR_CUTOFF in cutoffs:
        top = {query: dict(islice(documents.items(), MRR_CUTOFF)) for query, documents in by_rank.items()}
        values |= _trec_eval(top, judged, {"recip_rank"}, {f"MRR@{MRR_CUTOFF}": "recip_rank"})
    return values


def mean(per_query: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Average each metric over its queries.

    >>> mean({"NDCG@10": {"q1": 1.0, "q2": 0.5}})
    {'NDCG@10': 0.75}
    """
    return {name: fmean(values.values()) for name, values in per_query.items()}


def _trec_eval(run: PerQuery, qrels: dict[str, dict[str, int]], measures: set[str], names: dict[str, str]) -> PerQuery:
    measured = pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(run)
    return {
        name: {query: measured[query][trec] if query in measured else 0.0 for query in qrels}
        for name, trec in names.items()
    }


@dataclass(frozen=True)
class PairedTests:
    """Number of queries, mean of ours − baseline, and two-sided p-values of randomisation and paired t-test."""

    n: int
    mean_difference: float
    p_randomisation: float
    p_t: float


def paired_tests(
    ours: Mapping[str, float], baseline: Mapping[str, float], resamples: int = 10_000, seed: int = 0
) -> PairedTests:
    """Test whether two runs differ in a metric, given its value for each query.

    Randomisation (Fisher; Smucker, Allan and Carterette, CIKM 2007): under the null hypothesis the sign of each query's
    difference is a coin toss; p is twice the share of tosses whose mean is at least as far out on the observed side,
    over all tosses where there are no more than `resamples`, else over a seeded sample and the observed one. Where all
    differences are 0 both p-values are 1; where they are equal and not 0, so that their variance is 0, the t-test's is
    0.

    Raises:
        ValueError: the query ids differ, there are fewer than 2 queries, or a value is not finite.
    """
    if ours.keys() != baseline.keys():
        only_ours, only_baseline = len(ours.keys() - baseline.keys()), len(baseline.keys() - ours.keys())
        raise ValueError(f"the runs have different queries: {only_ours} only in ours, {only_baseline} only in baseline")
    if len(ours) < 2:
        raise ValueError(f"paired tests need at least 2 queries, got {len(ours)}")
    first = np.array([ours[query] for query in ours], dtype=np.float64)
    second = np.array([baseline[query] for query in ours], dtype=np.float64)
    differences = first - second
    if not np.isfinite(differences).all():
        raise ValueError(f"{int((~np.isfinite(differences)).sum())} of {len(ours)} differences are not finite")
    difference = float(differences.mean())
    if not differences.any():
        return PairedTests(len(ours), difference, 1.0, 1.0)
    p_t = 0.0 if np.ptp(differences) == 0 else float(ttest_rel(first, second).pvalue)
    return PairedTests(len(ours), difference, _randomisation(differences, resamples, seed), p_t)


def _randomisation(differences: NDArray[np.float64], resamples: int, seed: int) -> float:
    tossed = differences[differences != 0]
    if len(tossed) < 2:
        return 1.0
    result = permutation_test(
        (tossed,),
        np.sum,
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, BATCH_VALUES // len(tossed)),
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)
