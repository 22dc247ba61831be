"""A model and what it is compared with on one collection: figures, paired tests, and the files of each system."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ragcun.data.beir import Collection
from ragcun.data.overlap import HoldOut, read_held_out, read_seen, seen_queries
from ragcun.io import write_json
from ragcun.retrieval.evaluate import Evaluation, Retriever, StoredRetriever, evaluate_retriever
from ragcun.retrieval.quantization import titled
from ragcun.retrieval.runs import runs_folder, write_run
from ragcun.retrieval.significance import paired_tests
from ragcun.retrieval.systems import System

logger = logging.getLogger(__name__)

MODEL, BASE = "model", "untouched_base"
TESTED = "NDCG@10"
HIDDEN = "held_out"
Figures = dict[str, Any]
"""Metrics and tests on one collection; under ``seen`` and ``unseen`` the same on a part of its queries, and under
``held_out`` among a part of its documents."""


@dataclass(frozen=True)
class Measured:
    """What came of one collection.

    Attributes:
        about: split, number of queries and documents, SHA-256.
        figures: of each system, by slug.
        tested: what is tested, for each query, by slug.
    """

    about: dict[str, Any]
    figures: dict[str, Figures]
    tested: Mapping[str, Mapping[str, float]]


def describe(collection: Collection) -> dict[str, Any]:
    """Return what tells a collection from another one: split, number of queries and documents, SHA-256."""
    counts = {"queries": len(collection.qrels), "documents": len(collection.documents)}
    return {"split": collection.split, **counts, "sha256": collection.sha256()}


@dataclass(frozen=True)
class Contest:
    """A model, what it is compared with, and how.

    Attributes:
        model: what is evaluated.
        others: untouched base and baselines, by slug.
        output_file: the results file, beside which run files lie.
        cutoffs: of the metrics.
        seed: of the randomisation test.
        seen: hashes of the documents that training saw; None where that is unknown.
        held_out: which documents were hidden from training; None where none were.
    """

    model: Retriever
    others: Mapping[str, Retriever]
    output_file: Path
    cutoffs: tuple[int, ...]
    seed: int
    seen: frozenset[str] | None = None
    held_out: HoldOut | None = None

    @classmethod
    def between(
        cls, model: System, baselines: Sequence[System], output_file: Path, cutoffs: Sequence[int], seed: int
    ) -> Contest:
        """Return the contest of a model with its untouched base and baselines; a checkpoint's records are read.

        Raises:
            InputError: the checkpoint's record of seen or hidden documents is wrong.
        """
        seen = read_seen(model.retriever.name) if model.trained else None
        held_out = read_held_out(model.retriever.name) if model.trained else None
        others = _others(model, baselines)
        if held_out is not None:
            for slug in sorted(others.keys() - _rankers(others).keys()):
                logger.warning(
                    "%s: an earlier run cannot rank hidden documents alone; it has no held-out figures", slug
                )
        return cls(model.retriever, others, output_file, tuple(cutoffs), seed, seen, held_out)

    @property
    def systems(self) -> dict[str, Retriever]:
        """The model and the others, by slug."""
        return {MODEL: self.model, **self.others}

    def on(self, collection: Collection) -> Measured:
        """Evaluate every system on a collection, and write run files and per-query values."""
        sides, figures, tested = _sides(collection, self.seen), {}, {}
        for slug, ours, theirs in self._evaluate(collection):
            figures[slug] = _figures(ours, theirs, self.seed) | _by_side(ours, theirs, sides, self.seed)
            tested[slug] = (theirs or ours).per_query[TESTED]
        hidden = None if self.held_out is None else self.held_out.unseen_part(collection, self.seen or frozenset())
        if hidden is not None:
            for slug, values in replace(self, others=_rankers(self.others))._on_hidden(hidden).items():
                figures[slug][HIDDEN] = values
        summary = ", ".join(f"{slug} {values[TESTED]:.4f}" for slug, values in figures.items())
        logger.info("%s: %s", collection.name, summary)
        return Measured(describe(collection), figures, tested)

    def _on_hidden(self, hidden: Collection) -> dict[str, Figures]:
        """Return each system's figures on the hidden part of a collection."""
        if not hidden.qrels:
            return {slug: {"n_queries": 0} for slug in self.systems}
        return {
            slug: {"n_documents": len(hidden.documents)} | _block(ours, theirs, self.seed)
            for slug, ours, theirs in self._evaluate(hidden, f".{HIDDEN}")
        }

    def _evaluate(
        self, collection: Collection, suffix: str = ""
    ) -> Iterator[tuple[str, Evaluation, Evaluation | None]]:
        """Yield the model's own evaluation, then that of each other system beside the model's; write each."""
        ours = evaluate_retriever(self.model, collection, self.cutoffs)
        self._write(collection.name, f"{MODEL}{suffix}", ours)
        yield MODEL, ours, None
        for slug, retriever in self.others.items():
            theirs = evaluate_retriever(retriever, collection, self.cutoffs)
            self._write(collection.name, f"{slug}{suffix}", theirs)
            yield slug, ours, theirs

    def _write(self, collection: str, slug: str, evaluation: Evaluation) -> None:
        folder = runs_folder(self.output_file) / collection
        write_run(folder / f"{slug}.trec", evaluation.run, slug)
        write_json(folder / f"{slug}.per_query.json", evaluation.per_query)


def figures_of_tests(ours: Mapping[str, float], theirs: Mapping[str, float], seed: int) -> dict[str, float]:
    """Return the paired tests of a metric by query as figures; of fewer than 2 queries their number alone."""
    if len(ours) < 2:
        return {"n_queries": len(ours)}
    tests = paired_tests(ours, theirs, seed=seed)
    p_values = {"p_randomisation": tests.p_randomisation, "p_t": tests.p_t}
    return {"n_queries": tests.n, "mean_difference": tests.mean_difference, **p_values}


def _others(model: System, baselines: Sequence[System]) -> dict[str, Retriever]:
    others: dict[str, Retriever] = {}
    if model.untouched_base is not None:
        others[BASE] = model.untouched_base
    for system in baselines:
        others[_unique(_slug(titled(system.retriever.name, system.retriever.size)), others)] = system.retriever
    return others


def _rankers(others: Mapping[str, Retriever]) -> dict[str, Retriever]:
    """Leave out stored rankings: they end at a depth, so that the hidden documents below it are not in them."""
    return {slug: retriever for slug, retriever in others.items() if not isinstance(retriever, StoredRetriever)}


def _sides(collection: Collection, seen: frozenset[str] | None) -> dict[str, Set[str]]:
    """Return the judged queries on either side, nothing where the seen documents are unknown."""
    if seen is None:
        return {}
    known = seen_queries(collection, seen)
    return {"seen": known, "unseen": {query for query, judged in collection.qrels.items() if judged} - known}


def _by_side(
    ours: Evaluation, theirs: Evaluation | None, sides: Mapping[str, Set[str]], seed: int
) -> dict[str, Figures]:
    return {
        side: _block(ours.among(queries), theirs and theirs.among(queries), seed) if queries else {"n_queries": 0}
        for side, queries in sides.items()
    }


def _figures(ours: Evaluation, theirs: Evaluation | None, seed: int) -> Figures:
    if theirs is None:
        return dict(ours.mean)
    return dict(theirs.mean) | figures_of_tests(ours.per_query[TESTED], theirs.per_query[TESTED], seed)


def _block(ours: Evaluation, theirs: Evaluation | None, seed: int) -> Figures:
    return {"n_queries": len(ours.per_query[TESTED])} | _figures(ours, theirs, seed)


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-") or "system"


def _unique(slug: str, taken: Mapping[str, Any]) -> str:
    reserved = {*taken, MODEL}
    return next(
        name for n in range(1, len(reserved) + 2) if (name := slug if n == 1 else f"{slug}-{n}") not in reserved
    )
