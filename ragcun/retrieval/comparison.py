"""A model and the systems it is compared with on one collection: scores, paired tests and run files."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from ragcun.data.beir import Collection
from ragcun.data.overlap import HoldOut, read_held_out, read_seen, seen_queries
from ragcun.io import write_json
from ragcun.isotropy.intervals import SAMPLE
from ragcun.isotropy.measures import isotropy_score
from ragcun.isotropy.moments import sample_rows
from ragcun.isotropy.spectrum import UndefinedMeasure
from ragcun.results import METRIC, CollectionFacts, DocumentSpace, Scores, SystemScores
from ragcun.retrieval.metrics import PerQuery, mean, paired_tests
from ragcun.retrieval.runs import runs_folder, write_run
from ragcun.retrieval.stored import StoredRetriever, is_stored, parts_of
from ragcun.retrieval.systems import DenseRetriever, Retriever, System, evaluate_retriever

logger = logging.getLogger(__name__)

Remembered = Callable[[Collection], frozenset[str]]
MODEL, BASE = "model", "untouched_base"
SPACE_SEED = 0
"""Which documents of a large collection are measured is the same for all systems and evaluations."""


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
    cutoffs: tuple[int, ...]
    seed: int
    seen: frozenset[str] | None = None  # hashes of the documents; None where that is unknown
    held_out: HoldOut | None = None
    remembered: Remembered | None = None  # hashes of documents that baselines with memory have seen

    @classmethod
    def of(
        cls,
        model: System,
        baselines: Sequence[System],
        output_file: Path,
        cutoffs: Sequence[int],
        seed: int,
        remembered: Remembered | None = None,
    ) -> SystemEvaluator:
        """Name the systems and read a checkpoint's records of documents (InputError: one of these is wrong)."""
        seen = read_seen(model.retriever.name) if model.trained else None if remembered is None else frozenset()
        held_out = read_held_out(model.retriever.name) if model.trained else None
        systems: dict[str, Retriever] = {MODEL: model.retriever}
        if model.untouched_base is not None:
            systems[BASE] = model.untouched_base
        for system in baselines:
            systems[_slug(system.retriever, systems.keys())] = system.retriever
        for slug, retriever in systems.items():
            if held_out is not None and is_stored(retriever):
                logger.warning("%s: a stored run cannot rank hidden documents alone; it has no held-out scores", slug)
        return cls(systems, output_file, tuple(cutoffs), seed, seen, held_out, remembered)

    def evaluate(self, collection: Collection) -> CollectionScores:
        """Evaluate every system on a collection; write run files and per-query values."""
        per_query = self._per_query(collection, self.systems)
        scores = {slug: self._scores(per_query, slug) for slug in per_query}
        if self.seen is not None:
            more = frozenset() if self.remembered is None else self.remembered(collection)
            seen = seen_queries(collection, self.seen | more)
            unseen = per_query[MODEL][METRIC].keys() - seen
            for slug, whole in scores.items():
                sides = [self._scores(per_query, slug, queries) for queries in (seen, unseen)]
                scores[slug] = replace(whole, seen=sides[0], unseen=sides[1])
        for slug, held_out in self._held_out(collection).items():
            scores[slug] = replace(scores[slug], held_out=held_out)
        for slug, retriever in self.systems.items():
            scores[slug] = replace(scores[slug], space=document_space(retriever, collection))
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
        per_query = self._per_query(hidden, systems, ".held_out")
        queries, count = per_query[MODEL][METRIC].keys(), len(hidden.documents)
        return {slug: replace(self._scores(per_query, slug, queries), n_documents=count) for slug in systems}

    def _per_query(
        self, collection: Collection, systems: Mapping[str, Retriever], suffix: str = ""
    ) -> dict[str, PerQuery]:
        folder, per_query = runs_folder(self.output_file) / collection.name, {}
        for slug, retriever in systems.items():
            evaluation = evaluate_retriever(retriever, collection, self.cutoffs)
            write_run(folder / f"{slug}{suffix}.trec", evaluation.run, f"{slug}{suffix}")
            write_json(folder / f"{slug}{suffix}.per_query.json", evaluation.per_query)
            per_query[slug] = evaluation.per_query
        return per_query

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
    """Measure the embeddings of the documents, at most `SAMPLE` drawn at random; None of a system without any.

    The isotropy score is `ragcun.isotropy.measures.isotropy_score`.
    """
    if isinstance(retriever, StoredRetriever):
        return retriever.space(collection.name)
    if not isinstance(retriever, DenseRetriever) or len(collection.documents) < 2:
        return None
    rows = sample_rows(len(collection.documents), SAMPLE, SPACE_SEED)
    vectors = retriever.documents(collection).take(rows, axis=0).astype(np.float64)
    if retriever.vectors is not None:
        vectors = vectors[:, : retriever.vectors.kept]
    norms = np.linalg.norm(vectors, axis=1)
    try:
        score = isotropy_score(vectors)
    except UndefinedMeasure:
        score = None
    return DocumentSpace(score, float(norms.mean()), float(norms.std()))


def facts_of(collection: Collection) -> CollectionFacts:
    """Return what distinguishes a collection."""
    return CollectionFacts(len(collection.qrels), len(collection.documents), str(collection.split), collection.sha256())


def _tests(ours: Mapping[str, float], theirs: Mapping[str, float], seed: int) -> dict[str, Any]:
    # fields of `Scores`; of a single query the number of queries alone
    if len(ours) < 2:
        return {"n_queries": len(ours)}
    tests = paired_tests(ours, theirs, seed=seed)
    p_values = {"p_randomisation": tests.p_randomisation, "p_t": tests.p_t}
    return {"n_queries": tests.n, "mean_difference": tests.mean_difference, **p_values}


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
        space = _mean_space([part.scores[slug].space for part in each])
        scores[slug] = Scores(metrics, **{"n_queries": len(weighted[slug]), **tests, "p_t": None, "space": space})
    queries, documents = sum(part.facts.queries for part in each), sum(part.facts.documents for part in each)
    digest = hashlib.sha256("".join(str(part.facts.sha256) for part in each).encode()).hexdigest()
    return CollectionScores(CollectionFacts(queries, documents, first.facts.split, digest), scores, weighted)


def _mean_space(spaces: Sequence[DocumentSpace | None]) -> DocumentSpace | None:
    known = [space for space in spaces if space is not None]
    if not known:
        return None
    scores = [space.isotropy_score for space in known if space.isotropy_score is not None]
    norms = (fmean(getattr(space, name) for space in known) for name in ("mean_norm", "norm_deviation"))
    return DocumentSpace(fmean(scores) if scores else None, *norms)


def _weighted(parts: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    total = sum(len(values) for values in parts.values())
    return {
        f"{name} {query}": value * total / (len(parts) * len(values))
        for name, values in parts.items()
        for query, value in values.items()
    }


def _slug(retriever: Retriever, taken: Set[str]) -> str:
    title = SystemScores(retriever.name, {}, {}, **retriever.size).title
    slug = re.sub(r"[^A-Za-z0-9]+", "-", title).strip("-") or "system"
    candidates = [slug, *(f"{slug}-{number}" for number in range(2, len(taken) + 2))]
    return next(each for each in candidates if each not in taken)
