"""Several evaluations in one comparison: untouched bases, baselines and models on every dataset."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd

from ragcun.errors import InputError
from ragcun.reporting.files import SAME, NamedResults, ResultsFile, check_alike, p_against_base
from ragcun.results import METRIC, SystemScores

Kind = Literal["base", "baseline", "model"]
KINDS: tuple[Kind, ...] = ("base", "baseline", "model")
LEVELS = (0.05, 0.01)
"""A p value below the first earns one mark, below the second two."""
AVERAGE, BM25, UNTOUCHED = "average", "bm25", " (untouched)"
STORED = re.compile(r"--model[ =](?:(?! --).)*\.json(?: |$)")
"""In the command of an evaluation: the model was the rankings of an earlier one."""


@dataclass(frozen=True)
class Comparison:
    """Systems × datasets.

    Attributes:
        metric: what is compared.
        cells: a row for each system and dataset, ``average`` being one: system, kind, dataset, queries, value (mean
            over seeds), sd (sample standard deviation), seeds, p (against the untouched base; the largest of the
            seeds), marks (1 or 2 for better at p < .05 or .01, negative for worse), seen (queries with a relevant
            document that was a training positive), best (of its dataset, at four decimals).
        queries: number of queries of each dataset.
        averaged: datasets that every system has; there is an average where they are at least two.
        bases: the untouched base of each model.
    """

    metric: str
    cells: pd.DataFrame
    queries: dict[str, int]
    averaged: list[str]
    bases: dict[str, str]

    @property
    def columns(self) -> list[str]:
        """The datasets, and the average where there is one."""
        return [*self.queries, *([AVERAGE] if len(self.averaged) > 1 else [])]


def compare(entries: Sequence[NamedResults], metric: str = METRIC) -> Comparison:
    """Put evaluations beside each other.

    Rows: each untouched base once, each baseline once, each model; files named together are one row of mean and sample
    standard deviation. A model is marked where the paired randomisation test against its own untouched base has
    p < .05 or p < .01, not corrected for the number of tests; with several seeds, where it does so for every seed and
    in one direction. The average is over the datasets that all rows have, if there are at least two.

    Raises:
        InputError: there are no files, none holds an untouched base, or they cannot be in one table: a metric is
            missing, collections of one name differ, or systems of one name do.
    """
    files = [file for entry in entries for file in entry.files]
    if not files:
        raise InputError("there are no results to compare; name results files of evaluate_beir.py")
    names = [entry.name for entry in entries if entry.name is not None]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"the name {twice[0]!r} is given twice; join its files with commas, or give another name")
    check_alike(files, metric)
    rows = _rows(entries, metric)
    queries = {name: file.results.collections[name].queries for file in files for name in file.results.datasets}
    averaged = [name for name in queries if all(name in row.values for row in rows)]
    bases = {row.title: row.base for row in rows if row.base is not None}
    return Comparison(metric, _cells(rows, queries, averaged), queries, averaged, bases)


class _Value(NamedTuple):
    """A value in one file; of a model also its difference from the untouched base, p value, and seen queries."""

    value: float
    path: Path
    difference: float = math.nan
    p: float = math.nan
    seen: int = 0


@dataclass
class _Row:
    """A system, and its values by dataset: one from each seed."""

    title: str
    kind: Kind
    base: str | None = None
    values: dict[str, list[_Value]] = field(default_factory=dict)

    def add(self, dataset: str, value: _Value, metric: str, several: bool = False) -> None:
        """Add a seed's value, or keep the first value and refuse another one."""
        if several:
            self.values.setdefault(dataset, []).append(value)
            return
        first = self.values.setdefault(dataset, [value])[0]
        if abs(first.value - value.value) > SAME:
            remedy = "name them apart with NAME=FILE" if self.kind == "model" else "leave one out"
            raise InputError(
                f"{first.path} and {value.path} disagree on {metric} of {self.title} on {dataset} "
                f"({first.value:.6f} and {value.value:.6f}); {remedy}"
            )


def _rows(entries: Sequence[NamedResults], metric: str) -> list[_Row]:
    """Return untouched bases, baselines and models; a baseline that is one of the others elsewhere is one row with it.

    Raises:
        InputError: files disagree on a system, two rows have one name, or there is no untouched base.
    """
    found = [each for entry in entries for file in entry.files for each in _systems(entry, file)]
    rows: dict[str, _Row] = {}
    for each in sorted(found, key=lambda each: ("base", "model", "baseline").index(each.kind)):
        key = f"={each.name}" if each.kind == "model" and each.name else each.title
        if each.kind == "baseline":
            key = next((merged for merged in (key + UNTOUCHED, key) if merged in rows), key)
        if each.kind == "model" and each.title + UNTOUCHED in rows:
            raise InputError(
                f"{each.title} is trained in {each.file.path} and an untouched base in another file; part them"
            )
        row = rows.setdefault(key, _Row(each.title, each.kind))
        row.title = each.name or row.title
        _add_values(row, each, metric)
    for row in rows.values():
        row.base = rows[row.base].title if row.base else None
    ordered = sorted(rows.values(), key=lambda row: KINDS.index(row.kind))
    titles = [row.title for row in ordered]
    if twice := [title for title in titles if titles.count(title) > 1]:
        raise InputError(f"two rows would have the name {twice[0]!r}; tell them apart with NAME=FILE")
    if ordered[0].kind != "base":
        path = entries[0].files[0].path
        raise InputError(f"{path} and the other files hold no untouched base; evaluate a model beside its base")
    return ordered


def kind_of(file: ResultsFile) -> Kind:
    """Tell what the model of a results file is: without an untouched base beside it, it must be one itself, or BM25.

    Raises:
        InputError: it is an earlier result or a model with small vectors, so that its untouched base is missing.
    """
    results = file.results
    if results.untouched_base is not None:
        return "model"
    if results.distance == BM25:
        return "baseline"
    title = results.model.title
    if title != results.model.name or STORED.search(str(results.manifest.get("command", ""))):
        raise InputError(f"{file.path} has no untouched base beside {title}; evaluate again, so that it has one")
    return "base"


class _System(NamedTuple):
    """A system of a file: what it is, its title and given name, its scores, and whether it is one of several seeds."""

    file: ResultsFile
    kind: Kind
    title: str
    scores: SystemScores
    name: str | None = None
    several: bool = False


def _systems(entry: NamedResults, file: ResultsFile) -> Iterator[_System]:
    for title, system in file.results.systems[:-1]:
        yield _System(file, "base" if system is file.results.untouched_base else "baseline", title, system)
    kind, model, several = kind_of(file), file.results.model, len(entry.files) > 1
    if kind != "model" and several:
        raise InputError(f"{file.path}: {model.title} was not trained and has no seeds to average; name it alone")
    ending = UNTOUCHED if kind == "base" else ""
    yield _System(file, kind, model.title + ending, model, entry.name and entry.name + ending, several)


def _add_values(row: _Row, system: _System, metric: str) -> None:
    results = system.file.results
    base = results.untouched_base if system.kind == "model" else None
    if base is not None:
        title = base.name + UNTOUCHED
        if row.base not in (None, title):
            raise InputError(
                f"{system.file.path}: {row.title} has two untouched bases, {row.base} and {title}; part them"
            )
        row.base = title
    for dataset, scores in system.scores.datasets.items():
        if results.collections[dataset].part_of is not None:
            continue
        value = _Value(scores.metrics[metric], system.file.path)
        if base is not None:
            seen = scores.part("seen")
            difference = value.value - base.datasets[dataset].metrics[metric]
            p = p_against_base(system.file, dataset, metric)
            value = value._replace(difference=difference, p=p, seen=(seen and seen.n_queries) or 0)
        row.add(dataset, value, metric, system.several)


def _cells(rows: Sequence[_Row], queries: Mapping[str, int], averaged: Sequence[str]) -> pd.DataFrame:
    records = [
        {"system": row.title, "kind": row.kind, "dataset": dataset, **value._asdict()}
        for row in rows for dataset, values in row.values.items() for value in values
    ]  # fmt: skip
    found = pd.DataFrame(records)
    cells = found.groupby(["system", "kind", "dataset"], sort=False, as_index=False).agg(
        value=("value", "mean"), sd=("value", "std"), seeds=("value", "size"), low=("difference", "min"),
        high=("difference", "max"), p=("p", lambda p: p.max(skipna=False)), seen=("seen", "max"),
    )  # fmt: skip
    level = sum((cells["p"] < limit).astype(int) for limit in LEVELS)
    cells["marks"] = level * ((cells["low"] > 0).astype(int) - (cells["high"] < 0).astype(int))
    if len(averaged) > 1:
        averages = [_average(row, found[found["dataset"].isin(averaged)]) for row in rows]
        cells = pd.concat([cells, pd.DataFrame(averages)], ignore_index=True)
    orders = {"system": [row.title for row in rows], "dataset": [*queries, AVERAGE]}
    cells = cells.sort_values(list(orders), key=lambda names: names.map(orders[names.name].index), ignore_index=True)
    cells["queries"] = cells["dataset"].map(queries).astype("Int64")
    shown = cells["value"].round(4)
    cells["best"] = shown == shown.groupby(cells["dataset"]).transform("max")
    return cells


def _average(row: _Row, found: pd.DataFrame) -> dict[str, Any]:
    """Average each seed over datasets where all datasets have the same seeds, else the means of datasets."""
    mine = found[found["system"] == row.title]
    if mine.groupby("dataset")["path"].agg(tuple).nunique() == 1:
        seeds = mine.groupby("path")["value"].mean()
    else:
        seeds = pd.Series([mine.groupby("dataset")["value"].mean().mean()])
    spread = {"value": seeds.mean(), "sd": seeds.std(), "seeds": len(seeds)}
    return {"system": row.title, "kind": row.kind, "dataset": AVERAGE, **spread, "marks": 0, "seen": 0}
