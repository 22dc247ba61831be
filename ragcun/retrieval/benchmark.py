"""A model, its untouched base and baselines on several collections, with significance; resumable set by set."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from ragcun.data.beir import Collection
from ragcun.data.beir_sets import CollectionFolder
from ragcun.errors import InputError
from ragcun.results import METRIC, CollectionFacts, Results, Scores, SystemScores
from ragcun.retrieval.comparison import BASE, MODEL, Compared, Comparison, average_parts, facts_of
from ragcun.retrieval.evaluate import CUTOFFS
from ragcun.retrieval.systems import System

Source = Collection | CollectionFolder
Report = Callable[[Results], None]


def run_benchmark(
    model: System,
    baselines: Sequence[System],
    collections: Sequence[Source],
    output_file: Path,
    manifest: Mapping[str, Any],
    cutoffs: Sequence[int] = CUTOFFS,
    seed: int = 0,
    resume: bool = False,
    report: Report | None = None,
) -> Results:
    """Evaluate every system on every collection and write results, per-query values and run files.

    Beside `output_file`, ``<name>.runs/<dataset>/`` holds ``<system>.trec`` and ``<system>.per_query.json``. Scores of
    the untouched base and each baseline carry paired tests of the model's NDCG@10 against theirs. Where the checkpoint
    knows its training positives, scores also hold ``seen`` and ``unseen``: queries with a relevant document among those
    positives, and without. Where documents were hidden from training (`HoldOut`), ``held_out`` ranks the hidden
    documents alone, in files ``<system>.held_out.*``.

    Collections named ``SET/PART`` are parts of a set, which has scores of its own (`average_parts`); the average counts
    the set once. The results file is written after each set, so that what is done stays when a later one fails; a
    `CollectionFolder` is in memory only during its turn. With `resume`, sets that `output_file` already has are kept.

    Raises:
        InputError: a collection is wrong, or `output_file` is of another evaluation.
    """
    comparison = Comparison.between(model, baselines, output_file, cutoffs, seed)
    settings = settings_of(comparison, model.distance)
    held_out = settings["held_out"]
    recorded = {**manifest, "settings": settings, "seed": seed, "tested": METRIC, "held_out": held_out}
    benchmark = _Benchmark(comparison, model.distance, recorded, {slug: {} for slug in comparison.systems}, {})
    if resume and output_file.exists():
        benchmark.restore(settings)
    sets: dict[str, list[Source]] = {}
    for source in collections:
        sets.setdefault(source.name.partition("/")[0], []).append(source)
    try:
        for name, sources in sets.items():
            benchmark.evaluate(name, sources, report)
    except InputError as error:
        done = ", ".join(name for name, facts in benchmark.collections.items() if facts.part_of is None)
        if not done:
            raise
        raise InputError(f"{error} (done and kept in {output_file}: {done}; continue with --resume)") from error
    return benchmark.write(report)


@dataclass(frozen=True)
class _Benchmark:
    comparison: Comparison
    distance: str
    manifest: dict[str, Any]
    scores: dict[str, dict[str, Scores]]
    collections: dict[str, CollectionFacts]

    def restore(self, settings: Mapping[str, Any]) -> None:
        path = self.comparison.output_file
        earlier = Results.read(path)
        before = earlier.manifest.get("settings")
        if not isinstance(before, dict):
            raise InputError(f"{path} has no settings and cannot be resumed; leave out --resume, or name another file")
        for key in {**before, **settings}:
            if before.get(key) != settings.get(key):
                raise InputError(
                    f"{path} is of another evaluation: {key} is {before.get(key)!r} there and {settings.get(key)!r} "
                    "now; evaluate as it was, or name another --output_file"
                )
        systems = {MODEL: earlier.model, BASE: earlier.untouched_base, **earlier.baselines}
        for slug, scores in self.scores.items():
            if (system := systems.get(slug)) is not None:
                scores.update(system.datasets)
        self.collections.update(earlier.collections)
        made = {key: value for key, value in earlier.manifest.items() if key != "earlier"}
        self.manifest["earlier"] = [*earlier.manifest.get("earlier", []), made]

    def evaluate(self, name: str, sources: Sequence[Source], report: Report | None) -> None:
        if name in self.collections:
            for source in sources:
                self._require_unchanged(source)
            return
        parts = {source.name: self.comparison.on(_loaded(source)) for source in sources}
        for each, compared in parts.items():
            self._add(each, compared, None if each == name else name)
        if set(parts) != {name}:
            self._add(name, average_parts(parts, self.comparison.seed), None)
        self.write(report)

    def write(self, report: Report | None) -> Results:
        systems = {slug: self._system(slug) for slug in self.scores}
        model, base = systems.pop(MODEL), systems.pop(BASE, None)
        results = Results(model, self.distance, base, systems, dict(self.collections), self.manifest)
        results.write(self.comparison.output_file)
        if report is not None:
            report(results)
        return results

    def _add(self, name: str, compared: Compared, part_of: str | None) -> None:
        self.collections[name] = replace(compared.facts, part_of=part_of)
        for slug, scores in compared.scores.items():
            self.scores[slug][name] = scores

    def _system(self, slug: str) -> SystemScores:
        retriever, datasets = self.comparison.systems[slug], dict(self.scores[slug])
        counted = [each.metrics for name, each in datasets.items() if self.collections[name].part_of is None]
        average = {metric: fmean(each[metric] for each in counted) for metric in (counted[0] if counted else ())}
        return SystemScores(retriever.name, datasets, average, **retriever.size)

    def _require_unchanged(self, source: Source) -> None:
        before = asdict(self.collections.get(source.name, CollectionFacts(0, 0)))
        for fact, value in asdict(facts_of(_loaded(source))).items():
            if fact != "part_of" and before[fact] != value:
                raise InputError(
                    f"{source.name} is not what {self.comparison.output_file} has scores of: {fact} is "
                    f"{before[fact]!r} there and {value!r} now; restore that collection, or evaluate without --resume"
                )


def settings_of(comparison: Comparison, distance: str) -> dict[str, Any]:
    """Return all that determines scores beside the collections; a system by its fingerprint, or name."""
    settings = {
        "model": comparison.model.name,
        "distance": distance,
        "vectors": dict(comparison.model.size),
        "cutoffs": list(comparison.cutoffs),
        "tested": METRIC,
        "seed": comparison.seed,
        "held_out": comparison.held_out and comparison.held_out.to_dict(),
        **{f"system {slug}": getattr(each, "fingerprint", each.name) for slug, each in comparison.systems.items()},
    }
    return dict(json.loads(json.dumps(settings)))


def _loaded(source: Source) -> Collection:
    return source if isinstance(source, Collection) else source.load()
