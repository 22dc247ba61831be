"""What a results file says of a run: tables of metrics, and in words whether the model is better than its base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ragcun.errors import InputError
from ragcun.reporting.heldout_table import HELD_OUT
from ragcun.reporting.html.layout import Cell, Table, best_of
from ragcun.reporting.results_files import ResultsFile
from ragcun.reporting.tables import (
    ABSENT,
    BYTES,
    METRIC,
    SIDES,
    all_systems,
    difference_of,
    part_of,
    value_of,
    with_best_bold,
)

METRICS = (METRIC, "MRR@10", "MAP@100", "Recall@100", "P@10")
LEVEL = 0.05
UNBROKEN = "\u00a0"
"""A blank at which no line ends."""
BETTER, WORSE, SAME, UNTESTED = "better", "worse", "not distinguishable", "not tested"
PARTS = {
    None: "all judged queries",
    SIDES[0]: "queries with a relevant document that was a training positive (seen)",
    SIDES[1]: "queries with no relevant document that was a training positive (unseen)",
    HELD_OUT: "among documents hidden from training (held out)",
}


@dataclass(frozen=True)
class Verdict:
    """Whether the model differs from the untouched base on one part of a dataset.

    Attributes:
        dataset: name of the collection.
        part: of its queries or documents; None for all.
        word: better, worse, not distinguishable, or not tested.
        difference: model minus base in NDCG@10, with the p-value.
        n_queries: how many queries.
    """

    dataset: str
    part: str | None
    word: str
    difference: str
    n_queries: int

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        of = f"on {self.dataset}" if self.part is None else f"on {self.dataset}, {PARTS[self.part]}"
        relation = {BETTER: "than", WORSE: "than", SAME: "from", UNTESTED: "against"}[self.word]
        queries = f"{self.n_queries:,} {'query' if self.n_queries == 1 else 'queries'}"
        difference = self.difference.replace("(", f"(p{UNBROKEN}={UNBROKEN}").replace(f"={UNBROKEN}<", f"<{UNBROKEN}")
        return f"{self.word} {relation} the untouched base {of}: {METRIC} {difference}, {queries}"


@dataclass(frozen=True)
class EvaluationView:
    """One results file as the page shows it.

    Attributes:
        path: the file.
        title: the model's name, and how its vectors were made small.
        summary: on how many datasets the model is better than its base; empty where the file has no base.
        verdicts: on each dataset and each of its parts.
        tables: metrics of each dataset and each of its parts.
    """

    path: Path
    title: str
    summary: Sequence[str]
    verdicts: Sequence[Verdict]
    tables: Sequence[Table]


def view(file: ResultsFile) -> EvaluationView:
    """Lay out a results file.

    Raises:
        InputError: a part of the results is missing.
    """
    results = file.content
    parts = [(name, part) for name in file.datasets for part in _parts_of(results, name)]
    verdicts = [found for name, part in parts if (found := verdict(results, name, part)) is not None]
    title = all_systems(results)[-1][0]
    tables = [_table(results, name, part) for name, part in parts]
    return EvaluationView(file.path, title, summary(verdicts), verdicts, tables)


def verdict(results: Mapping[str, Any], name: str, part: str | None = None) -> Verdict | None:
    """Judge the model against its untouched base by the paired randomisation test at level .05, two-sided.

    Returns:
        None where there is no untouched base.

    Raises:
        InputError: a part of the results is missing.
    """
    base = results.get("untouched_base")
    if base is None:
        return None
    ours, theirs = value_of(results, name, part), value_of(base, name, part)
    if ours is None or theirs is None:
        raise InputError(f"the results lack {METRIC} on {name}; write them again with evaluate_beir.py")
    figures = _figures(base, name, part)
    difference, p = difference_of(results, base, name, part), figures.get("p_randomisation")
    word = SAME if ours == theirs or (p is not None and p >= LEVEL) else BETTER if ours > theirs else WORSE
    return Verdict(name, part, UNTESTED if p is None else word, difference, n_queries(results, name, part))


def summary(verdicts: Sequence[Verdict]) -> list[str]:
    """Count the verdicts: a sentence on whole datasets, and one each on their unseen queries and held-out documents."""
    openings = {
        None: f"Against the untouched base, by {METRIC}",
        SIDES[1]: "On queries whose relevant documents were no training positives",
        HELD_OUT: "Among documents hidden from training",
    }
    counted = {part: _count([each for each in verdicts if each.part == part]) for part in openings}
    return [f"{opening}: {counted[part]}." for part, opening in openings.items() if counted[part]]


def _count(verdicts: Sequence[Verdict]) -> str:
    """Say on how many datasets the model is better, worse, and so on."""
    phrases = []
    for word in (BETTER, WORSE, SAME, UNTESTED):
        names = [verdict.dataset for verdict in verdicts if verdict.word == word]
        level = f", p{UNBROKEN}<{UNBROKEN}{LEVEL:g}".replace("0.", ".") if word in (BETTER, WORSE) else ""
        of = "the only dataset" if len(verdicts) == 1 else f"{len(names)} of {len(verdicts)} datasets"
        if names:
            phrases.append(f"{word} on {of} ({', '.join(names)}{level})")
    return "; ".join(phrases)


def n_queries(results: Mapping[str, Any], name: str, part: str | None = None) -> int:
    """Return how many queries of a dataset, or of a part of it, were judged."""
    for _, system in reversed(all_systems(results)):
        figures = _figures(system, name, part)
        if "n_queries" in figures:
            return int(figures["n_queries"])
    return int(results["manifest"]["collections"][name]["queries"])


def _figures(system: Mapping[str, Any], name: str, part: str | None) -> Mapping[str, Any]:
    figures = part_of(system, "datasets", "the results of a system").get(name) or {}
    return figures if part is None else figures.get(part) or {}


def _parts_of(results: Mapping[str, Any], name: str) -> list[str | None]:
    """Return the parts of a dataset that have queries; its sides only where both have."""
    figures = _figures(results, name, None)
    with_queries = [part for part in (*SIDES, HELD_OUT) if figures.get(part, {}).get("n_queries", 0) > 0]
    both = all(side in with_queries for side in SIDES)
    return [None, *(part for part in with_queries if both or part == HELD_OUT)]


def _table(results: Mapping[str, Any], name: str, part: str | None) -> Table:
    """Lay out one part of a dataset: a row for each system, a column for each metric."""
    systems = all_systems(results)
    present = [metric for metric in METRICS if metric in _figures(results, name, part)]
    columns = []
    for metric in present:
        values = [_figures(system, name, part).get(metric) for _, system in systems]
        columns.append(best_of(with_best_bold(values)))
    differences = [Cell(difference_of(results, system, name, part)) for _, system in systems[:-1]] + [Cell(ABSENT)]
    header = ["system", METRIC, "this model − it (p)", *present[1:]]
    sizes = [system.get(BYTES) for _, system in systems]
    rows = [
        [Cell(title), first, difference, *others]
        for (title, _), difference, first, *others in zip(systems, differences, *columns, strict=True)
    ]
    if len({size for size in sizes if size is not None}) > 1:
        header.append("bytes per vector")
        rows = [[*row, Cell(ABSENT if size is None else f"{size:,}")] for row, size in zip(rows, sizes, strict=True)]
    caption = f"{name}: {PARTS[part]}, n = {n_queries(results, name, part):,}"
    documents = _figures(results, name, part).get("n_documents")
    return Table(caption if documents is None else f"{caption}; {documents:,} documents are ranked", header, rows)
