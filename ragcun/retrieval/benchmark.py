"""A model, its untouched base and baselines on several collections: one table, with significance, and all on disk."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ragcun.data.beir import Collection
from ragcun.data.holdout import read_held_out
from ragcun.data.seen import read_seen, seen_queries
from ragcun.files import write_json
from ragcun.retrieval.evaluate import CUTOFFS, Evaluation, Retriever, StoredRetriever, evaluate_retriever
from ragcun.retrieval.quantize import titled
from ragcun.retrieval.runs import write_run
from ragcun.retrieval.significance import paired_tests
from ragcun.retrieval.systems import System, runs_folder

logger = logging.getLogger(__name__)

MODEL = "model"
TESTED = "NDCG@10"
HIDDEN = "held_out"
Figures = dict[str, Any]
"""Metrics and tests on one collection; under ``seen`` and ``unseen`` the same on a part of its queries, and under
``held_out`` among a part of its documents."""


def run_benchmark(
    model: System,
    baselines: Sequence[System],
    collections: Sequence[Collection],
    output_file: Path,
    manifest: Mapping[str, Any],
    cutoffs: Sequence[int] = CUTOFFS,
    seed: int = 0,
) -> dict[str, Any]:
    """Evaluate every system on every collection and write results, per-query values and run files.

    ``output_file`` holds ``model, distance, datasets, average, untouched_base, baselines, manifest``; beside it, in
    ``<name>.runs/<dataset>/``, lie ``<system>.trec`` and ``<system>.per_query.json``. Figures under ``untouched_base``
    and each baseline carry the paired tests of the model's NDCG@10 against theirs. Where the model is a checkpoint that
    knows its training positives, every system's figures on a collection also hold ``seen`` and ``unseen``: the same
    on the queries that have a relevant document among those positives, and on those that have none.

    Where documents were hidden from the checkpoint's training (`HoldOut`), figures also hold ``held_out``: the same
    where only the hidden documents of the collection are ranked, for the queries that have a relevant one among them.
    Their files are ``<system>.held_out.trec`` and ``<system>.held_out.per_query.json``.

    Returns:
        What was written to `output_file`.
    """
    contest = _Contest(model.retriever, _others(model, baselines), output_file, tuple(cutoffs), seed)
    figures: dict[str, dict[str, Figures]] = {slug: {} for slug in contest.systems}
    seen = read_seen(model.retriever.name) if model.trained else None
    held_out = read_held_out(model.retriever.name) if model.trained else None
    rankers = replace(contest, others={} if held_out is None else _rankers(contest.others))
    for collection in collections:
        for slug, values in contest.on_all(collection, _sides(collection, seen)).items():
            figures[slug][collection.name] = values
        hidden = None if held_out is None else held_out.unseen_part(collection, seen or frozenset())
        if hidden is not None:
            for slug, values in rankers.on_hidden(hidden).items():
                figures[slug][collection.name][HIDDEN] = values
        logger.info("%s: %s", collection.name, _summary(figures, collection.name))
    parts = {slug: _part(retriever, figures[slug]) for slug, retriever in contest.systems.items()}
    about = {collection.name: _about(collection) for collection in collections}
    protocol = {"seed": seed, "tested": TESTED, HIDDEN: held_out and held_out.to_dict()}
    results = {
        **parts.pop(MODEL),
        "distance": model.distance,
        "untouched_base": parts.pop("untouched_base", None),
        "baselines": parts,
        "manifest": {**manifest, "collections": about, **protocol},
    }
    write_json(output_file, results)
    return results


def _about(collection: Collection) -> dict[str, Any]:
    counts = {"queries": len(collection.qrels), "documents": len(collection.documents)}
    return {"split": collection.split, **counts, "sha256": collection.sha256()}


@dataclass(frozen=True)
class _Contest:
    """A model, what it is compared with, and how."""

    model: Retriever
    others: Mapping[str, Retriever]
    output_file: Path
    cutoffs: tuple[int, ...]
    seed: int

    @property
    def systems(self) -> dict[str, Retriever]:
        """The model and the others, by slug."""
        return {MODEL: self.model, **self.others}

    def on_all(self, collection: Collection, sides: Mapping[str, Set[str]]) -> dict[str, Figures]:
        """Return each system's figures on a collection and on either side of its queries."""
        return {
            slug: _figures(ours, theirs, self.seed) | _by_side(ours, theirs, sides, self.seed)
            for slug, ours, theirs in self._evaluate(collection)
        }

    def on_hidden(self, hidden: Collection) -> dict[str, Figures]:
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
        _write(self.output_file, collection.name, f"{MODEL}{suffix}", ours)
        yield MODEL, ours, None
        for slug, retriever in self.others.items():
            theirs = evaluate_retriever(retriever, collection, self.cutoffs)
            _write(self.output_file, collection.name, f"{slug}{suffix}", theirs)
            yield slug, ours, theirs


def _others(model: System, baselines: Sequence[System]) -> dict[str, Retriever]:
    others: dict[str, Retriever] = {}
    if model.untouched_base is not None:
        others["untouched_base"] = model.untouched_base
    for system in baselines:
        others[_unique(_slug(titled(system.retriever.name, system.retriever.size)), others)] = system.retriever
    return others


def _rankers(others: Mapping[str, Retriever]) -> dict[str, Retriever]:
    """Leave out stored rankings: they end at a depth, so that the hidden documents below it are not in them."""
    stored = [slug for slug, retriever in others.items() if isinstance(retriever, StoredRetriever)]
    for slug in stored:
        logger.warning("%s: an earlier run cannot rank hidden documents alone; it has no held-out figures", slug)
    return {slug: retriever for slug, retriever in others.items() if slug not in stored}


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
    return dict(ours.mean) if theirs is None else dict(theirs.mean) | _tests(ours, theirs, seed)


def _block(ours: Evaluation, theirs: Evaluation | None, seed: int) -> Figures:
    return {"n_queries": len(ours.per_query[TESTED])} | _figures(ours, theirs, seed)


def _part(retriever: Retriever, datasets: dict[str, Figures]) -> dict[str, Any]:
    shared = [metric for metric in next(iter(datasets.values()), {}) if "@" in metric]
    average = {metric: sum(values[metric] for values in datasets.values()) / len(datasets) for metric in shared}
    return {"model": retriever.name, **retriever.size, "datasets": datasets, "average": average}


def _tests(ours: Evaluation, theirs: Evaluation, seed: int) -> dict[str, float]:
    if len(ours.per_query[TESTED]) < 2:
        return {"n_queries": len(ours.per_query[TESTED])}
    tests = paired_tests(ours.per_query[TESTED], theirs.per_query[TESTED], seed=seed)
    p_values = {"p_randomisation": tests.p_randomisation, "p_t": tests.p_t}
    return {"n_queries": tests.n, "mean_difference": tests.mean_difference, **p_values}


def _write(output_file: Path, collection: str, slug: str, evaluation: Evaluation) -> None:
    folder = runs_folder(output_file) / collection
    write_run(folder / f"{slug}.trec", evaluation.run, slug)
    write_json(folder / f"{slug}.per_query.json", evaluation.per_query)


def _summary(figures: Mapping[str, Mapping[str, Figures]], collection: str) -> str:
    return ", ".join(f"{slug} {values[collection][TESTED]:.4f}" for slug, values in figures.items())


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-") or "system"


def _unique(slug: str, taken: Mapping[str, Any]) -> str:
    reserved = {*taken, "model"}
    return next(
        name for n in range(1, len(reserved) + 2) if (name := slug if n == 1 else f"{slug}-{n}") not in reserved
    )
