"""Scores of systems on one collection: paired tests, the vectors of documents, and the mean over the parts of a set."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Set
from dataclasses import astuple, dataclass
from statistics import fmean
from typing import Any

import numpy as np

from ragcun.data.beir import Collection
from ragcun.isotropy.measures import isotropy_score
from ragcun.isotropy.moments import MeasureSettings, sample_rows
from ragcun.isotropy.spectrum import defined
from ragcun.results import METRIC, CollectionFacts, DocumentSpace, Scores
from ragcun.retrieval.metrics import PerQuery, mean, paired_tests
from ragcun.retrieval.runs import StoredRetriever
from ragcun.retrieval.systems import DenseRetriever, Retriever

MODEL, BASE = "model", "untouched_base"


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


def document_space(retriever: Retriever, collection: Collection) -> DocumentSpace | None:
    """Measure a random sample of the embeddings of the documents; None of a system without any."""
    if isinstance(retriever, StoredRetriever):
        return retriever.space(collection.name)
    if not isinstance(retriever, DenseRetriever) or len(collection.documents) < 2:
        return None
    # the same rows for all systems and evaluations
    rows = sample_rows(len(collection.documents), MeasureSettings.sample, seed=0)
    vectors = retriever.documents(collection).take(rows, axis=0).astype(np.float64)
    if retriever.vectors is not None:
        vectors = vectors[:, : retriever.vectors.kept]
    norms = np.linalg.norm(vectors, axis=1)
    return DocumentSpace(defined(isotropy_score, vectors), float(norms.mean()), float(norms.std()))


def facts_of(collection: Collection) -> CollectionFacts:
    """Return what distinguishes a collection."""
    about = (len(collection.qrels), len(collection.documents), str(collection.split), collection.sha256())
    return CollectionFacts(*about, notes=collection.notes() or None)


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
