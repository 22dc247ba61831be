"""A model and the systems it is compared with on one collection: scores, paired tests and run files."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from ragcun.data.beir import Collection
from ragcun.data.overlap import HoldOut, seen_queries
from ragcun.io import write_json
from ragcun.isotropy.measures import isotropy_score
from ragcun.isotropy.moments import MeasureSettings, sample_rows
from ragcun.isotropy.spectrum import defined
from ragcun.results import METRIC, CollectionFacts, DocumentSpace, Scores
from ragcun.retrieval.metrics import PerQuery, mean, paired_tests
from ragcun.retrieval.runs import StoredRetriever, is_stored, parts_of, runs_folder, write_run
from ragcun.retrieval.systems import DenseRetriever, Retriever, evaluate_retriever

logger = logging.getLogger(__name__)

Remembered = Callable[[Collection], frozenset[str]]
MODEL, BASE = "model", "untouched_base"


@dataclass(frozen=True)
class CollectionScores:
    """The systems' scores on one collection, by slug, and their NDCG@10 for each query (`tested`)."""

    facts: CollectionFacts
    scores: dict[str, Scores]
    tested: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class SystemEvaluator:
    """Evaluates a model, its untouched base and baselines, by slug, on one collection after the other.

    Scores of all but the model carry paired tests of the model's NDCG@10 against theirs. Where the documents that
    training saw are known, scores hold ``seen`` and ``unseen``: queries with a relevant document among them, and
    without. Where documents were hidden from training, ``held_out`` ranks the hidden documents alone.
    """

    systems: Mapping[str, Retriever]
    output_file: Path
    seed: int
    seen: frozenset[str] | None  # hashes of the documents; None where that is unknown
    held_out: HoldOut | None
    remembered: Remembered | None  # hashes of documents that baselines with memory have seen

    def evaluate(self, collection: Collection) -> CollectionScores:
        """Evaluate every system on a collection; write run files and per-query values."""
        (per_query, notes), seen, scores = self._per_query(collection, self.systems), None, {}
        if self.seen is not None:
            more = frozenset() if self.remembered is None else self.remembered(collection)
            seen = seen_queries(collection, self.seen | more)
        held_out = self._held_out(collection)
        for slug, retriever in self.systems.items():
            parts: dict[str, Any] = {"held_out": held_out.get(slug), "note": notes.get(slug)}
            parts["space"] = document_space(retriever, collection)
            if seen is not None:
                parts["seen"] = self._scores(per_query, slug, seen)
                parts["unseen"] = self._scores(per_query, slug, per_query[MODEL][METRIC].keys() - seen)
            scores[slug] = replace(self._scores(per_query, slug), **parts)
        logger.info("%s: %s", collection.name, ", ".join(f"{n} {s.metrics[METRIC]:.4f}" for n, s in scores.items()))
        tested = {slug: values[METRIC] for slug, values in per_query.items()}
        return CollectionScores(facts_of(collection), scores, tested)

    def _held_out(self, collection: Collection) -> dict[str, Scores]:
        hidden = None if self.held_out is None else self.held_out.unseen_part(collection, self.seen or frozenset())
        if hidden is None:
            return {}
        systems = {
            slug: each
            for slug, each in self.systems.items()
            if not is_stored(each) and not any(hasattr(part, "labels") for part in parts_of(each))
        }
        if not hidden.qrels:
            return dict.fromkeys(systems, Scores({}, n_queries=0))
        per_query, _ = self._per_query(hidden, systems, ".held_out")
        queries, count = per_query[MODEL][METRIC].keys(), len(hidden.documents)
        return {slug: replace(self._scores(per_query, slug, queries), n_documents=count) for slug in systems}

    def _per_query(
        self, collection: Collection, systems: Mapping[str, Retriever], suffix: str = ""
    ) -> tuple[dict[str, PerQuery], dict[str, str]]:
        folder, per_query, notes = runs_folder(self.output_file) / collection.name, {}, {}
        for slug, retriever in systems.items():
            evaluation = evaluate_retriever(retriever, collection)
            write_run(folder / f"{slug}{suffix}.trec", evaluation.run, f"{slug}{suffix}")
            write_json(folder / f"{slug}{suffix}.per_query.json", evaluation.per_query)
            per_query[slug] = evaluation.per_query
            empty, asked = sum(not evaluation.run.get(query) for query in collection.qrels), len(collection.qrels)
            if empty > asked / 2:
                notes[slug] = f"nothing is found for {empty} of {asked} queries"
                logger.warning("%s, %s: %s", collection.name, retriever.name, notes[slug])
        return per_query, notes

    def _scores(self, per_query: Mapping[str, PerQuery], slug: str, queries: Set[str] | None = None) -> Scores:
        ours, theirs = (
            {m: {q: v for q, v in values.items() if queries is None or q in queries} for m, values in system.items()}
            for system in (per_query[MODEL], per_query[slug])
        )
        if slug != MODEL and theirs[METRIC]:
            return Scores(mean(theirs), **_tests(ours[METRIC], theirs[METRIC], self.seed))
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
