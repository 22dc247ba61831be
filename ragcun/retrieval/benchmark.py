"""A model, its untouched base and baselines on several collections: one table, with significance, and all on disk."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from ragcun.data.beir import Collection
from ragcun.data.seen import read_seen, seen_queries
from ragcun.files import write_json
from ragcun.retrieval.evaluate import CUTOFFS, Evaluation, Retriever, evaluate_retriever
from ragcun.retrieval.runs import write_run
from ragcun.retrieval.significance import paired_tests
from ragcun.retrieval.systems import System, runs_folder

logger = logging.getLogger(__name__)

TESTED = "NDCG@10"
Figures = dict[str, Any]
"""Metrics and tests on one collection, and under ``seen`` and ``unseen`` the same on a part of its queries."""


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

    Returns:
        What was written to `output_file`.
    """
    others: dict[str, Retriever] = {}
    if model.untouched_base is not None:
        others["untouched_base"] = model.untouched_base
    others |= {_unique(_slug(system.retriever.name), others): system.retriever for system in baselines}
    names = {"model": model.retriever.name} | {slug: retriever.name for slug, retriever in others.items()}
    figures: dict[str, dict[str, Figures]] = {slug: {} for slug in names}
    seen = None if model.untouched_base is None else read_seen(model.retriever.name)
    for collection in collections:
        sides = _sides(collection, seen)
        ours = evaluate_retriever(model.retriever, collection, cutoffs)
        _write(output_file, collection.name, "model", ours)
        figures["model"][collection.name] = dict(ours.mean) | _by_side(ours, None, sides, seed)
        for slug, retriever in others.items():
            theirs = evaluate_retriever(retriever, collection, cutoffs)
            _write(output_file, collection.name, slug, theirs)
            figures[slug][collection.name] = _figures(ours, theirs, seed) | _by_side(ours, theirs, sides, seed)
        logger.info("%s: %s", collection.name, _summary(figures, collection.name))
    parts = {slug: _part(names[slug], datasets) for slug, datasets in figures.items()}
    described = {
        c.name: {"split": c.split, "queries": len(c.qrels), "documents": len(c.documents)} for c in collections
    }
    results = {
        **parts.pop("model"),
        "distance": model.distance,
        "untouched_base": parts.pop("untouched_base", None),
        "baselines": parts,
        "manifest": {**manifest, "collections": described, "seed": seed, "tested": TESTED},
    }
    write_json(output_file, results)
    return results


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
        side: _figures(ours.among(queries), theirs and theirs.among(queries), seed) if queries else {"n_queries": 0}
        for side, queries in sides.items()
    }


def _figures(ours: Evaluation, theirs: Evaluation | None, seed: int) -> Figures:
    if theirs is None:
        return dict(ours.mean) | {"n_queries": len(ours.per_query[TESTED])}
    return dict(theirs.mean) | _tests(ours, theirs, seed)


def _part(name: str, datasets: dict[str, Figures]) -> dict[str, Any]:
    shared = [metric for metric in next(iter(datasets.values()), {}) if "@" in metric]
    average = {metric: sum(values[metric] for values in datasets.values()) / len(datasets) for metric in shared}
    return {"model": name, "datasets": datasets, "average": average}


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
