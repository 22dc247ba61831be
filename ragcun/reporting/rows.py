"""From results files to the rows of a comparison: which system has which value, test and source on each dataset."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ragcun.errors import InputError
from ragcun.reporting.paired import SAME, p_against_base
from ragcun.reporting.results_files import NamedResults, ResultsFile
from ragcun.reporting.tables import all_systems

Kind = Literal["base", "baseline", "model"]
BM25 = "bm25"
UNTOUCHED = " (untouched)"
STORED = re.compile(r"--model[ =](?:(?! --).)*\.json(?: |$)")
"""In the command of an evaluation: the model was the rankings of an earlier one."""


@dataclass(frozen=True)
class Found:
    """A value of one system on one dataset in one file; for a model also its test against its untouched base.

    Attributes:
        value: of the metric.
        file: where it was found.
        difference: the model's value minus the base's.
        p: two-sided p-value of that difference, None where it was not tested.
        seen: how many queries have a relevant document that was a training positive, as far as is known.
    """

    value: float
    file: ResultsFile
    difference: float = 0.0
    p: float | None = None
    seen: int = 0


@dataclass
class Collected:
    """What files have of one row.

    Attributes:
        title: the row's name.
        kind: untouched base, baseline or model.
        base: title of the untouched base that a model is tested against.
        values: by dataset; several where seeds are averaged.
    """

    title: str
    kind: Kind
    base: str | None = None
    values: dict[str, list[Found]] = field(default_factory=dict)

    def add_once(self, dataset: str, found: Found, metric: str) -> None:
        """Keep the first value on a dataset, and refuse another one that differs.

        Raises:
            InputError: two values differ; both files are named.
        """
        first = self.values.setdefault(dataset, [found])[0]
        if abs(first.value - found.value) > SAME:
            remedy = "name them apart with NAME=FILE" if self.kind == "model" else "leave one out"
            raise InputError(
                f"{first.file.path} and {found.file.path} disagree on {metric} of {self.title} on {dataset} "
                f"({first.value:.6f} and {found.value:.6f}); {remedy}"
            )


def collect(results: Sequence[NamedResults], metric: str) -> list[Collected]:
    """Gather the rows of a table: untouched bases, baselines, models, each in order of first appearance.

    An untouched base or baseline that several files have is one row, and so is a baseline that another file has as its
    untouched base or its model. A model is a row by its title; files named together are one row, a value from each.

    Raises:
        InputError: files disagree on a system, two rows have one name, or a model has no untouched base.
    """
    rows = _Rows(metric)
    for named in results:
        rows.add(named)
    return rows.finished()


def kind_of(file: ResultsFile) -> Kind:
    """Tell what the model of a results file is: without an untouched base beside it, it must be one itself, or BM25.

    Raises:
        InputError: it is an earlier result or a model with small vectors, so that its untouched base is missing.
    """
    if file.content["untouched_base"] is not None:
        return "model"
    title, _ = all_systems(file.content)[-1]
    if file.content.get("distance") == BM25:
        return "baseline"
    if title != str(file.content["model"]) or STORED.search(str(file.content["manifest"].get("command", ""))):
        raise InputError(f"{file.path} has no untouched base beside {title}; evaluate again, so that it has one")
    return "base"


class _Rows:
    """The rows as they are gathered, by kind and key: a row's title, or for a named model ``=NAME``."""

    def __init__(self, metric: str) -> None:
        self.metric = metric
        self.rows: dict[Kind, dict[str, Collected]] = {"base": {}, "baseline": {}, "model": {}}
        self.trained: dict[str, ResultsFile] = {}
        self.names: dict[str, str] = {}

    def add(self, named: NamedResults) -> None:
        for file in named.files:
            *others, (title, model) = all_systems(file.content)
            for other, system in others:
                self._add_once("base" if system is file.content["untouched_base"] else "baseline", other, system, file)
            if (kind := kind_of(file)) == "model":
                self._add_model(named, file)
                continue
            if len(named.files) > 1:
                raise InputError(f"{file.path}: {title} was not trained and has no seeds to average; name it alone")
            title = title + UNTOUCHED if kind == "base" else title
            if named.name is not None:
                self.names[title] = named.name + UNTOUCHED if kind == "base" else named.name
            self._add_once(kind, title, model, file)

    def _add_once(self, kind: Kind, title: str, system: Mapping[str, Any], file: ResultsFile) -> None:
        row = self.rows[kind].setdefault(title, Collected(title, kind))
        for dataset, figures in file.figures_of(system).items():
            value = file.value(figures, self.metric, f"{title} on {dataset}")
            row.add_once(dataset, Found(value, file), self.metric)

    def _add_model(self, named: NamedResults, file: ResultsFile) -> None:
        (base_title, base), *_, (title, model) = all_systems(file.content)
        self.trained.setdefault(title, file)
        key = title if named.name is None else f"={named.name}"
        row = self.rows["model"].setdefault(key, Collected(named.name or title, "model", base_title))
        if row.base != base_title:
            raise InputError(
                f"{file.path}: {row.title} has two untouched bases, {row.base} and {base_title}; part them"
            )
        for dataset, figures in file.figures_of(model).items():
            value = file.value(figures, self.metric, f"{title} on {dataset}")
            before = file.value(base["datasets"].get(dataset, {}), self.metric, f"{base_title} on {dataset}")
            seen = int((figures.get("seen") or {}).get("n_queries", 0))
            found = Found(value, file, value - before, p_against_base(file, dataset, self.metric), seen)
            if len(named.files) > 1:
                row.values.setdefault(dataset, []).append(found)
            else:
                row.add_once(dataset, found, self.metric)

    def finished(self) -> list[Collected]:
        bases, baselines, models = self.rows["base"], self.rows["baseline"], self.rows["model"]
        for title, file in self.trained.items():
            if title + UNTOUCHED in bases:
                raise InputError(f"{title} is trained in {file.path} and an untouched base in another file; part them")
        for title in [title for title in baselines if title + UNTOUCHED in bases or title in models]:
            row = bases.get(title + UNTOUCHED) or models[title]
            for dataset, (found,) in baselines.pop(title).values.items():
                row.add_once(dataset, found, self.metric)
        rows = [*bases.values(), *baselines.values(), *models.values()]
        for row in rows:
            row.title = row.title if row.kind == "model" else self.names.get(row.title, row.title)
            row.base = None if row.base is None else self.names.get(row.base, row.base)
        titles = [row.title for row in rows]
        if twice := [title for title in titles if titles.count(title) > 1]:
            raise InputError(f"two rows would have the name {twice[0]!r}; tell them apart with NAME=FILE")
        if not bases:
            first = next(iter(rows[0].values.values()))[0].file.path
            raise InputError(f"{first} and the other files hold no untouched base; evaluate a model beside its base")
        return rows
