"""Metrics of a run by trec_eval, paired tests, choices that these support, and the scores of several systems."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import astuple, dataclass
from statistics import fmean
from typing import Any, TypeVar

import numpy as np
import pytrec_eval

from ragcun.data.beir import Qrels, grade
from ragcun.results import METRIC, CollectionFacts, DocumentSpace, Scores
from ragcun.retrieval.runs import Run, check_finite, ranked

PerQuery = dict[str, dict[str, float]]
Setting = TypeVar("Setting")
MODEL, BASE = "model", "untouched_base"
CUTOFFS = (1, 3, 5, 10, 100)
MRR_CUTOFF = 10
LEVEL = 0.05
BATCH_VALUES = 1 << 20
TREC_MEASURES = {"NDCG": "ndcg_cut", "MAP": "map_cut", "Recall": "recall", "P": "P"}


def evaluate_run(
    run: Mapping[str, Mapping[str, float]], qrels: Mapping[str, Mapping[str, float]], cutoffs: Sequence[int] = CUTOFFS
) -> PerQuery:
    """Measure every judged query: ``{metric: {query id: value}}`` for NDCG, MAP, Recall and P at each cut-off, and MRR.

    NDCG has linear gain and a log₂(rank + 1) discount; a document is relevant from grade 1 on. MRR is there at 10 only,
    where 10 is among the cut-offs. As in trec_eval, a judged query that the run lacks scores 0, and so does one without
    a relevant document; unjudged queries are ignored. Documents rank by (score descending, order in the run).

    Raises:
        ValueError: no query is judged, or none of those in the run; a cut-off is below 1; a score is not finite; or a
            grade is not a whole number of at most 1,000.
    """
    judged = {query: judgments for query, judgments in whole_grades(qrels).items() if judgments}
    if not judged:
        raise ValueError(f"qrels hold no judgment (of {len(qrels)} queries); nothing can be measured")
    if run and not run.keys() & judged.keys():
        one, other = next(iter(run)), next(iter(judged))
        raise ValueError(f"no query of the run, such as {one!r:.60}, is judged; qrels have {other!r:.60} and others")
    if not cutoffs or min(cutoffs) < 1:
        raise ValueError(f"cut-offs must be at least 1, got {list(cutoffs)}")
    check_finite(run)
    by_rank = {  # trec_eval would break ties by document id
        query: {document: -float(rank) for rank, (document, _) in enumerate(ranked(run[query]))}
        for query in judged
        if run.get(query)
    }
    levels = ",".join(str(cutoff) for cutoff in cutoffs)
    measures = {"recip_rank", *(f"{measure}.{levels}" for measure in TREC_MEASURES.values())}
    measured = pytrec_eval.RelevanceEvaluator(judged, measures).evaluate(by_rank)
    names = {f"{name}@{c}": f"{measure}_{c}" for name, measure in TREC_MEASURES.items() for c in cutoffs}
    if MRR_CUTOFF in cutoffs:
        names[f"MRR@{MRR_CUTOFF}"] = "recip_rank"
        for found in measured.values():  # trec_eval's has no cut-off
            found["recip_rank"] *= found["recip_rank"] >= 1 / MRR_CUTOFF
    return {
        name: {query: measured[query][trec] if query in measured else 0.0 for query in judged}
        for name, trec in names.items()
    }


def whole_grades(qrels: Mapping[str, Mapping[str, float]]) -> Qrels:
    """Return judgments with grades as int (ValueError: one is not a whole number of at most 1,000)."""
    return {
        query: {key: grade(score, f"query {query!r}: the grade of {key!r}") for key, score in judgments.items()}
        for query, judgments in qrels.items()
    }


def mean(per_query: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Average each metric over its queries.

    >>> mean({"NDCG@10": {"q1": 1.0, "q2": 0.5}})
    {'NDCG@10': 0.75}
    """
    return {name: fmean(values.values()) for name, values in per_query.items()}


@dataclass(frozen=True)
class PairedTests:
    """Number of queries, mean of ours − baseline, and two-sided p-values of randomisation and paired t-test."""

    n_queries: int
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
    differences are 0 both p-values are 1; where they are equal and not 0, the t-test's is 0.

    Raises:
        ValueError: the query ids differ, there are fewer than 2 queries, or a value is not finite.
    """
    from scipy.stats import permutation_test, ttest_rel

    if ours.keys() != baseline.keys():
        only_ours, only_baseline = len(ours.keys() - baseline.keys()), len(baseline.keys() - ours.keys())
        raise ValueError(f"the runs have different queries: {only_ours} only in ours, {only_baseline} only in baseline")
    if len(ours) < 2:
        raise ValueError(f"paired tests need at least 2 queries, got {len(ours)}")
    first, second = (np.array([run[query] for query in ours], dtype=np.float64) for run in (ours, baseline))
    differences = first - second
    if not np.isfinite(differences).all():
        raise ValueError(f"{int((~np.isfinite(differences)).sum())} of {len(ours)} differences are not finite")
    difference = float(differences.mean())
    if not differences.any():
        return PairedTests(len(ours), difference, 1.0, 1.0)
    p_t = 0.0 if np.ptp(differences) == 0 else float(ttest_rel(first, second).pvalue)
    tossed, p = differences[differences != 0], 1.0
    if len(tossed) > 1:
        at_once, rng = max(1, BATCH_VALUES // len(tossed)), np.random.default_rng(seed)
        options = {"permutation_type": "samples", "vectorized": True, "n_resamples": resamples, "batch": at_once}
        p = float(permutation_test((tossed,), np.sum, **options, rng=rng).pvalue)
    return PairedTests(len(ours), difference, p, p_t)


def choose(
    search: Callable[[Setting], Run], settings: Sequence[Setting], qrels: Mapping[str, Mapping[str, int]], split: str
) -> dict[str, Any]:
    """Choose the setting with the best mean NDCG@10 where a paired test supports it against the first; a record of it.

    The test is the two-sided randomisation test at level .05; p is not corrected for the number of settings. Of equal
    means the first setting is taken.
    """
    scores = {each: evaluate_run(search(each), qrels, (10,))[METRIC] for each in settings}
    means = {each: fmean(values.values()) for each, values in scores.items()}
    first, best = settings[0], max(means, key=means.__getitem__)
    p = paired_tests(scores[best], scores[first]).p_randomisation
    chosen = best if means[best] > means[first] and p < LEVEL else first
    record = {"chosen": chosen, "best": best, "score": means[best], "without": means[first], "p": p}
    return {**record, "queries": len(scores[best]), "split": split}


@dataclass(frozen=True)
class CollectionScores:
    """The systems' scores on one collection, by slug, and their NDCG@10 for each query (`tested`)."""

    facts: CollectionFacts
    scores: dict[str, Scores]
    tested: Mapping[str, Mapping[str, float]]


def scores_on(per_query: Mapping[str, PerQuery], slug: str, seed: int, queries: Set[str] | None = None) -> Scores:
    """Return a system's scores on some queries (None: all), with tests of the model's NDCG@10 against its own."""
    ours, theirs = (
        {m: {q: v for q, v in values.items() if queries is None or q in queries} for m, values in system.items()}
        for system in (per_query[MODEL], per_query[slug])
    )
    if slug != MODEL and theirs[METRIC]:
        return Scores(mean(theirs), **_tests(ours[METRIC], theirs[METRIC], seed))
    count = None if queries is None else len(ours[METRIC])
    return Scores({} if count == 0 else mean(ours), n_queries=count)


def _tests(ours: Mapping[str, float], theirs: Mapping[str, float], seed: int) -> dict[str, Any]:
    # fields of `Scores`; of a single query the number of queries alone
    return vars(paired_tests(ours, theirs, seed=seed)) if len(ours) > 1 else {"n_queries": len(ours)}


def average_parts(parts: Mapping[str, CollectionScores], seed: int) -> CollectionScores:
    """Average over the parts of a set (CQADupStack's forums), each counting the same whatever its number of queries.

    A metric's difference between two systems is ``Σ_parts Σ_queries d_q / (P · n_part)``, so its randomisation test
    flips the sign of each query's weighted difference. There is no t-test, which knows no weights, and no scores on
    seen, unseen or held-out documents.
    """
    first, *_ = each = list(parts.values())
    weighted = {slug: _weighted({name: part.tested[slug] for name, part in parts.items()}) for slug in first.scores}
    scores = {}
    for slug in first.scores:
        metrics = {name: fmean(part.scores[slug].metrics[name] for part in each) for name in first.scores[slug].metrics}
        tests = {} if slug == MODEL else _tests(weighted[MODEL], weighted[slug], seed)
        space = _mean_space(part.scores[slug].space for part in each)
        scores[slug] = Scores(metrics, **{"n_queries": len(weighted[slug]), **tests, "p_t": None, "space": space})
    queries, documents = sum(part.facts.queries for part in each), sum(part.facts.documents for part in each)
    digest = hashlib.sha256("".join(str(part.facts.sha256) for part in each).encode()).hexdigest()
    return CollectionScores(CollectionFacts(queries, documents, first.facts.split, digest), scores, weighted)


def _mean_space(spaces: Iterable[DocumentSpace | None]) -> DocumentSpace | None:
    columns = zip(*(astuple(space) for space in spaces if space is not None), strict=True)
    known = [[value for value in column if value is not None] for column in columns]
    means: list[Any] = [fmean(values) if values else None for values in known]
    return DocumentSpace(*means) if means else None


def _weighted(parts: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    total = sum(len(values) for values in parts.values())
    return {
        f"{name} {query}": value * total / (len(parts) * len(values))
        for name, values in parts.items()
        for query, value in values.items()
    }
