"""A model, its untouched base and baselines on several collections: one table, with significance, and all on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ragcun.data.beir import Collection
from ragcun.data.beir_sets import PART_OF, CollectionFolder
from ragcun.errors import InputError
from ragcun.io import write_json
from ragcun.retrieval.comparison import BASE, HIDDEN, MODEL, TESTED, Contest, Figures, Measured, describe
from ragcun.retrieval.evaluate import CUTOFFS
from ragcun.retrieval.macro_average import set_of, whole
from ragcun.retrieval.resume import SETTINGS, read_earlier, require_same, settings_of
from ragcun.retrieval.systems import System

Source = Collection | CollectionFolder
Report = Callable[[dict[str, Any]], None]


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

    Collections named ``SET/PART`` are parts of a set, which has figures of its own (`whole`); the average counts the
    set once and not its parts. A `CollectionFolder` is read when its turn comes, and let go before the next one.
    The results file is written after each set, so that what is done stays when a later one fails.

    Args:
        model: what is evaluated.
        baselines: what else is.
        collections: on what; the parts of a set one after the other.
        output_file: the results file; an earlier one is replaced.
        manifest: what else is recorded.
        cutoffs: of the metrics.
        seed: of the randomisation test.
        resume: whether to keep what `output_file` already has, and add the sets that it lacks.
        report: called with the results each time that they were written.

    Returns:
        What was written to `output_file`.

    Raises:
        InputError: a collection is wrong, or what is to be gone on with is another evaluation.
    """
    contest = Contest.between(model, baselines, output_file, cutoffs, seed)
    settings = settings_of(contest, model.distance)
    book = _Book(contest, model.distance, {**manifest, SETTINGS: settings}, {slug: {} for slug in contest.systems}, {})
    earlier = read_earlier(output_file, settings) if resume else None
    if earlier is not None:
        book.take(earlier)
    try:
        book.fill(collections, report)
    except InputError as error:
        if not book.about:
            raise
        done = ", ".join(dict.fromkeys(map(set_of, book.about)))
        raise InputError(f"{error} (done and kept in {output_file}: {done}; go on with --resume)") from error
    return book.write(report)


@dataclass(frozen=True)
class _Book:
    """What is known so far.

    Attributes:
        contest: who takes part.
        distance: what the model compares by.
        manifest: what is recorded beside the figures.
        figures: by slug and collection.
        about: what tells each collection from another one.
    """

    contest: Contest
    distance: str
    manifest: dict[str, Any]
    figures: dict[str, dict[str, Figures]]
    about: dict[str, dict[str, Any]]

    def take(self, earlier: Mapping[str, Any]) -> None:
        """Take over the figures of an earlier evaluation of the same systems, and remember how it was made."""
        parts = {MODEL: earlier, BASE: earlier[BASE], **earlier["baselines"]}
        for slug, figures in self.figures.items():
            figures.update(parts[slug]["datasets"])
        made = {key: value for key, value in earlier["manifest"].items() if key not in ("collections", "earlier")}
        self.about.update(earlier["manifest"]["collections"])
        self.manifest["earlier"] = [*earlier["manifest"].get("earlier", []), made]

    def fill(self, collections: Sequence[Source], report: Report | None) -> None:
        """Evaluate what is not known yet, and write after each set.

        Raises:
            InputError: a collection is wrong, or not the one of that name that is known.
        """
        for name, sources in _by_set(collections).items():
            if name in self.about:
                _require_unchanged(self.about, sources, self.contest.output_file)
                continue
            self.add(name, {source.name: self.contest.on(_loaded(source)) for source in sources})
            self.write(report)

    def add(self, name: str, measured: Mapping[str, Measured]) -> None:
        """Enter a set: its parts, and itself where it has some."""
        is_split = set(measured) != {name}
        for each, part in {**measured, **({name: whole(measured, self.contest.seed)} if is_split else {})}.items():
            self.about[each] = part.about | ({PART_OF: name} if each != name else {})
            for slug, values in part.figures.items():
                self.figures[slug][each] = values

    def write(self, report: Report | None) -> dict[str, Any]:
        """Write the results file, tell `report`, and return what the file holds."""
        results = self._results()
        write_json(self.contest.output_file, results)
        if report is not None:
            report(results)
        return results

    def _results(self) -> dict[str, Any]:
        parts = {slug: self._part(slug) for slug in self.contest.systems}
        held_out = self.contest.held_out and self.contest.held_out.to_dict()
        protocol = {"seed": self.contest.seed, "tested": TESTED, HIDDEN: held_out}
        return {
            **parts.pop(MODEL),
            "distance": self.distance,
            BASE: parts.pop(BASE, None),
            "baselines": parts,
            "manifest": {**self.manifest, "collections": dict(self.about), **protocol},
        }

    def _part(self, slug: str) -> dict[str, Any]:
        retriever, datasets = self.contest.systems[slug], dict(self.figures[slug])
        counted = [values for name, values in datasets.items() if PART_OF not in self.about[name]]
        shared = [metric for metric in next(iter(counted), {}) if "@" in metric]
        average = {metric: sum(values[metric] for values in counted) / len(counted) for metric in shared}
        return {"model": retriever.name, **retriever.size, "datasets": datasets, "average": average}


def _by_set(collections: Sequence[Source]) -> dict[str, list[Source]]:
    sets: dict[str, list[Source]] = {}
    for source in collections:
        sets.setdefault(set_of(source.name), []).append(source)
    return sets


def _loaded(source: Source) -> Collection:
    return source if isinstance(source, Collection) else source.load()


def _require_unchanged(about: Mapping[str, Mapping[str, Any]], sources: Sequence[Source], output_file: Path) -> None:
    for source in sources:
        require_same(source.name, about.get(source.name, {}), describe(_loaded(source)), output_file)
