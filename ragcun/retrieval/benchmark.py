"""A model, its untouched base and baselines on several collections, with significance; resumable set by set."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from ragcun.data.beir import Collection
from ragcun.data.beir_sets import CollectionFolder
from ragcun.data.overlap import read_held_out, read_seen
from ragcun.errors import InputError, require_same
from ragcun.io import as_json
from ragcun.models.checkpoint import trained_parameters
from ragcun.results import METRIC, CollectionFacts, Results, Scores, SystemScores
from ragcun.retrieval.comparison import BASE, MODEL, Remembered, SystemEvaluator, average_parts, facts_of
from ragcun.retrieval.metrics import CUTOFFS
from ragcun.retrieval.runs import is_stored
from ragcun.retrieval.systems import Retriever, System

logger = logging.getLogger(__name__)
Source = Collection | CollectionFolder
Report = Callable[[Results], None]


def run_benchmark(
    model: System,
    baselines: Sequence[System],
    collections: Sequence[Source],
    output_file: Path,
    manifest: Mapping[str, Any],
    seed: int = 0,
    resume: bool = False,
    report: Report | None = None,
    remembered: Remembered | None = None,
) -> Results:
    """Evaluate every system on every collection and write results, per-query values and run files.

    Beside `output_file`, ``<name>.runs/<dataset>/`` holds ``<system>.trec`` and ``<system>.per_query.json`` (of hidden
    documents alone ``<system>.held_out.*``); see `SystemEvaluator`. Collections named ``SET/PART`` are parts of a set
    (`average_parts`), which averages count once. The results file is written after each set; with `resume`, sets that
    it has are kept. A `CollectionFolder` is in memory only during its turn.

    Raises:
        InputError: a collection or a checkpoint's record is wrong, or `output_file` is of another evaluation.
    """
    systems: dict[str, Retriever] = {MODEL: model.retriever}
    if model.untouched_base is not None:
        systems[BASE] = model.untouched_base
    for system in baselines:
        systems[_slug(system.retriever, systems.keys())] = system.retriever
    seen = read_seen(model.retriever.name) if model.trained else None if remembered is None else frozenset()
    held_out = read_held_out(model.retriever.name) if model.trained else None
    if held_out is not None and (stored := [slug for slug, each in systems.items() if is_stored(each)]):
        logger.warning("stored runs cannot rank hidden documents alone: no held-out scores of %s", ", ".join(stored))
    evaluator = SystemEvaluator(systems, output_file, seed, seen, held_out, remembered)
    settings = _settings(evaluator, model.distance)
    made = {**manifest, "settings": settings, "seed": seed, "tested": METRIC, "held_out": settings["held_out"]}
    benchmark = _Benchmark(evaluator, model.distance, made, {slug: {} for slug in evaluator.systems}, {}, report)
    if resume and output_file.exists():
        benchmark.restore()
    for name in dict.fromkeys(each.name.split("/")[0] for each in collections):
        benchmark.evaluate(name, [each for each in collections if each.name.split("/")[0] == name])
    return benchmark.write()


@dataclass(frozen=True)
class _Benchmark:
    evaluator: SystemEvaluator
    distance: str
    manifest: dict[str, Any]
    scores: dict[str, dict[str, Scores]]
    collections: dict[str, CollectionFacts]
    report: Report | None

    def restore(self) -> None:
        path, settings = self.evaluator.output_file, self.manifest["settings"]
        earlier = Results.read(path)
        before = earlier.manifest.get("settings")
        if not isinstance(before, dict):
            raise InputError(f"{path} has no settings and cannot be resumed; leave out --resume, or name another file")
        place, remedy = f"{path} is of another evaluation", "evaluate as it was, or name another --output_file"
        require_same(before, {**dict.fromkeys(before), **settings}, place, remedy)
        systems = {MODEL: earlier.model, BASE: earlier.untouched_base, **earlier.baselines}
        for slug, scores in self.scores.items():
            if (system := systems.get(slug)) is not None:
                scores.update(system.datasets)
        self.collections.update(earlier.collections)
        for slug, chosen in (earlier.manifest.get("chosen") or {}).items():
            getattr(self.evaluator.systems[slug], "chosen", {}).update(chosen)
        made = {key: value for key, value in earlier.manifest.items() if key != "earlier"}
        self.manifest["earlier"] = [*earlier.manifest.get("earlier", []), made]

    def evaluate(self, name: str, sources: Sequence[Source]) -> None:
        try:
            if name in self.collections:
                for source in sources:
                    self._require_unchanged(source)
                return
            parts = {source.name: self.evaluator.evaluate(_loaded(source)) for source in sources}
        except InputError as error:
            done = ", ".join(name for name, facts in self.collections.items() if facts.part_of is None)
            if not done:
                raise
            kept = f"done and kept in {self.evaluator.output_file}: {done}; continue with --resume"
            raise InputError(f"{error} ({kept})") from error
        whole = {} if set(parts) == {name} else {name: average_parts(parts, self.evaluator.seed)}
        for each, found in {**parts, **whole}.items():
            self.collections[each] = replace(found.facts, part_of=None if each == name else name)
            for slug, scores in found.scores.items():
                self.scores[slug][each] = scores
        self.write()

    def write(self) -> Results:
        systems = {slug: self._system(slug) for slug in self.scores}
        model, base = systems.pop(MODEL), systems.pop(BASE, None)
        chosen = {slug: getattr(each, "chosen", None) for slug, each in self.evaluator.systems.items()}
        if any(chosen.values()):
            self.manifest["chosen"] = {slug: each for slug, each in chosen.items() if each}
        results = Results(model, self.distance, base, systems, dict(self.collections), self.manifest)
        results.write(self.evaluator.output_file)
        if self.report is not None:
            self.report(results)
        return results

    def _system(self, slug: str) -> SystemScores:
        retriever, datasets = self.evaluator.systems[slug], dict(self.scores[slug])
        counted = [each.metrics for name, each in datasets.items() if self.collections[name].part_of is None]
        trained = trained_parameters(retriever.name)
        average = {metric: fmean(each[metric] for each in counted) for metric in (counted[0] if counted else ())}
        return SystemScores(retriever.name, datasets, average, **retriever.size, trained_parameters=trained)

    def _require_unchanged(self, source: Source) -> None:
        before = self.collections.get(source.name, CollectionFacts(0, 0))
        now = replace(facts_of(_loaded(source)), part_of=before.part_of, notes=before.notes)
        place = f"{source.name} is not what {self.evaluator.output_file} has scores of"
        require_same(vars(before), vars(now), place, "restore that collection, or evaluate without --resume")


def _settings(evaluator: SystemEvaluator, distance: str) -> dict[str, Any]:
    # all that determines scores beside the collections; a system by its fingerprint, or name
    systems, held_out = evaluator.systems, evaluator.held_out
    settings: dict[str, Any] = {
        "model": systems[MODEL].name,
        "distance": distance,
        "vectors": dict(systems[MODEL].size),
        "cutoffs": CUTOFFS,
        "tested": METRIC,
        "seed": evaluator.seed,
        "held_out": held_out and vars(held_out),
        **{f"system {slug}": getattr(each, "fingerprint", each.name) for slug, each in systems.items()},
    }
    return as_json(settings)


def _loaded(source: Source) -> Collection:
    return source if isinstance(source, Collection) else source.load()


def _slug(retriever: Retriever, taken: Set[str]) -> str:
    title = SystemScores(retriever.name, {}, {}, **retriever.size).title
    slug = re.sub(r"[^A-Za-z0-9]+", "-", title).strip("-") or "system"
    candidates = [slug, *(f"{slug}-{number}" for number in range(2, len(taken) + 2))]
    return next(each for each in candidates if each not in taken)
