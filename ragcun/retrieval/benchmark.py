"""A model, its untouched base and baselines on several collections, with significance; resumable set by set."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from ragcun.data.beir import Collection
from ragcun.data.beir_sets import CollectionFolder
from ragcun.data.overlap import HoldOut, read_held_out, read_seen, seen_queries
from ragcun.errors import InputError, require_same
from ragcun.io import as_json, write_json
from ragcun.models.checkpoint import trained_parameters
from ragcun.results import METRIC, CollectionFacts, Results, Scores, SystemScores
from ragcun.retrieval.metrics import BASE, CUTOFFS, MODEL, CollectionScores, PerQuery, average_parts, scores_on
from ragcun.retrieval.runs import is_stored, parts_of, runs_folder, write_run
from ragcun.retrieval.systems import Retriever, System, evaluate_retriever

logger = logging.getLogger(__name__)
Source = Collection | CollectionFolder
Report = Callable[[Results], None]
Remembered = Callable[[Collection], frozenset[str]]


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
    documents alone ``<system>.held_out.*``). Collections named ``SET/PART`` are parts of a set (`average_parts`), which
    averages count once. The results file is written after each set; with `resume`, sets that it has are kept. A
    `CollectionFolder` is in memory only during its turn.

    Scores of all but the model carry paired tests of the model's NDCG@10 against theirs. Where the documents that
    training saw are known, scores hold ``seen`` and ``unseen``: queries with a relevant document among them, and
    without. Where documents were hidden from training, ``held_out`` ranks the hidden documents alone.

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
    settings = _settings(model, systems, held_out, seed)
    made = {**manifest, "settings": settings, "seed": seed, "tested": METRIC, "held_out": settings["held_out"]}
    benchmark = _Benchmark(systems, output_file, model.distance, made, seed, seen, held_out, remembered, report)
    if resume and output_file.exists():
        benchmark.restore()
    for name in dict.fromkeys(each.name.split("/")[0] for each in collections):
        benchmark.evaluate_set(name, [each for each in collections if each.name.split("/")[0] == name])
    return benchmark.write()


@dataclass(frozen=True)
class _Benchmark:
    systems: Mapping[str, Retriever]  # by slug
    output_file: Path
    distance: str
    manifest: dict[str, Any]
    seed: int
    seen: frozenset[str] | None  # hashes of the documents; None where that is unknown
    held_out: HoldOut | None
    remembered: Remembered | None  # hashes of documents that baselines with memory have seen
    report: Report | None
    scores: dict[str, dict[str, Scores]] = field(default_factory=dict)  # by slug and collection
    collections: dict[str, CollectionFacts] = field(default_factory=dict)

    def restore(self) -> None:
        path, settings = self.output_file, self.manifest["settings"]
        earlier = Results.read(path)
        before = earlier.manifest.get("settings")
        if not isinstance(before, dict):
            raise InputError(f"{path} has no settings and cannot be resumed; leave out --resume, or name another file")
        place, remedy = f"{path} is of another evaluation", "evaluate as it was, or name another --output_file"
        require_same(before, {**dict.fromkeys(before), **settings}, place, remedy)
        systems = {MODEL: earlier.model, BASE: earlier.untouched_base, **earlier.baselines}
        self.scores.update({slug: dict(system.datasets) for slug, system in systems.items() if system is not None})
        self.collections.update(earlier.collections)
        for slug, chosen in (earlier.manifest.get("chosen") or {}).items():
            getattr(self.systems[slug], "chosen", {}).update(chosen)
        made = {key: value for key, value in earlier.manifest.items() if key != "earlier"}
        self.manifest["earlier"] = [*earlier.manifest.get("earlier", []), made]

    def evaluate_set(self, name: str, sources: Sequence[Source]) -> None:
        try:
            if name in self.collections:
                for source in sources:
                    self._require_unchanged(source)
                return
            parts = {source.name: self._evaluate(_loaded(source)) for source in sources}
        except InputError as error:
            done = ", ".join(name for name, facts in self.collections.items() if facts.part_of is None)
            if not done:
                raise
            kept = f"done and kept in {self.output_file}: {done}; continue with --resume"
            raise InputError(f"{error} ({kept})") from error
        whole = {} if set(parts) == {name} else {name: average_parts(parts, self.seed)}
        for each, found in {**parts, **whole}.items():
            self.collections[each] = replace(found.facts, part_of=None if each == name else name)
            for slug, scores in found.scores.items():
                self.scores.setdefault(slug, {})[each] = scores
        self.write()

    def write(self) -> Results:
        systems = {slug: self._system(slug, retriever) for slug, retriever in self.systems.items()}
        model, base = systems.pop(MODEL), systems.pop(BASE, None)
        chosen = {slug: getattr(each, "chosen", None) for slug, each in self.systems.items()}
        if any(chosen.values()):
            self.manifest["chosen"] = {slug: each for slug, each in chosen.items() if each}
        results = Results(model, self.distance, base, systems, dict(self.collections), self.manifest)
        results.write(self.output_file)
        if self.report is not None:
            self.report(results)
        return results

    def _system(self, slug: str, retriever: Retriever) -> SystemScores:
        datasets = dict(self.scores.get(slug, {}))
        counted = [each.metrics for name, each in datasets.items() if self.collections[name].part_of is None]
        trained = trained_parameters(retriever.name)
        average = {metric: fmean(each[metric] for each in counted) for metric in (counted[0] if counted else ())}
        return SystemScores(retriever.name, datasets, average, **retriever.size, trained_parameters=trained)

    def _require_unchanged(self, source: Source) -> None:
        before = self.collections.get(source.name, CollectionFacts(0, 0))
        now = replace(_facts_of(_loaded(source)), part_of=before.part_of, notes=before.notes)
        place = f"{source.name} is not what {self.output_file} has scores of"
        require_same(vars(before), vars(now), place, "restore that collection, or evaluate without --resume")

    def _evaluate(self, collection: Collection) -> CollectionScores:
        (per_query, notes), seen, scores = self._per_query(collection, self.systems), None, {}
        if self.seen is not None:
            more = frozenset() if self.remembered is None else self.remembered(collection)
            seen = seen_queries(collection, self.seen | more)
        held_out = self._on_hidden(collection)
        for slug, retriever in self.systems.items():
            space = retriever.space(collection) if hasattr(retriever, "space") else None
            parts: dict[str, Any] = {"held_out": held_out.get(slug), "note": notes.get(slug), "space": space}
            if seen is not None:
                parts["seen"] = scores_on(per_query, slug, self.seed, seen)
                parts["unseen"] = scores_on(per_query, slug, self.seed, per_query[MODEL][METRIC].keys() - seen)
            scores[slug] = replace(scores_on(per_query, slug, self.seed), **parts)
        logger.info("%s: %s", collection.name, ", ".join(f"{n} {s.metrics[METRIC]:.4f}" for n, s in scores.items()))
        tested = {slug: values[METRIC] for slug, values in per_query.items()}
        return CollectionScores(_facts_of(collection), scores, tested)

    def _on_hidden(self, collection: Collection) -> dict[str, Scores]:
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
        return {s: replace(scores_on(per_query, s, self.seed, queries), n_documents=count) for s in systems}

    def _per_query(
        self, collection: Collection, systems: Mapping[str, Retriever], suffix: str = ""
    ) -> tuple[dict[str, PerQuery], dict[str, str]]:
        folder, per_query, notes = runs_folder(self.output_file) / collection.name, {}, {}
        # stored runs first: what is wrong in them is found before any file of an earlier evaluation is replaced
        for slug, retriever in sorted(systems.items(), key=lambda system: not is_stored(system[1])):
            evaluation = evaluate_retriever(retriever, collection)
            write_run(folder / f"{slug}{suffix}.trec", evaluation.run, f"{slug}{suffix}")
            write_json(folder / f"{slug}{suffix}.per_query.json", evaluation.per_query)
            per_query[slug] = evaluation.per_query
            empty, asked = sum(not evaluation.run.get(query) for query in collection.qrels), len(collection.qrels)
            if empty > asked / 2:
                notes[slug] = f"no document is found for {empty} of {asked} queries"
                logger.warning("%s, %s: %s", collection.name, retriever.name, notes[slug])
        return {slug: per_query[slug] for slug in systems}, notes


def _settings(model: System, systems: Mapping[str, Retriever], held_out: HoldOut | None, seed: int) -> dict[str, Any]:
    # all that determines scores beside the collections; a system by its fingerprint, or name
    settings: dict[str, Any] = {
        "model": model.retriever.name,
        "distance": model.distance,
        "vectors": dict(model.retriever.size),
        "cutoffs": CUTOFFS,
        "tested": METRIC,
        "seed": seed,
        "held_out": held_out and vars(held_out),
        **{f"system {slug}": getattr(each, "fingerprint", each.name) for slug, each in systems.items()},
    }
    return as_json(settings)


def _facts_of(collection: Collection) -> CollectionFacts:
    """Return what distinguishes a collection."""
    about = (len(collection.qrels), len(collection.documents), str(collection.split), collection.sha256())
    return CollectionFacts(*about, notes=collection.notes() or None)


def _loaded(source: Source) -> Collection:
    return source if isinstance(source, Collection) else source.load()


def _slug(retriever: Retriever, taken: Set[str]) -> str:
    title = SystemScores(retriever.name, {}, {}, **retriever.size).title
    slug = re.sub(r"[^A-Za-z0-9]+", "-", title).strip("-") or "system"
    candidates = [slug, *(f"{slug}-{number}" for number in range(2, len(taken) + 2))]
    return next(each for each in candidates if each not in taken)
