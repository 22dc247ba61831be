"""Several evaluations in one comparison: untouched bases, baselines and models on every dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

from ragcun.errors import InputError
from ragcun.reporting.results_files import NamedResults, check_alike
from ragcun.reporting.rows import Collected, Found, Kind, collect
from ragcun.reporting.tables import METRIC, with_best_bold

LEVELS = (0.05, 0.01)
"""A p-value below the first earns one mark, below the second two."""
AVERAGE = "average"


@dataclass(frozen=True)
class Cell:
    """A system's value on one dataset, or its average.

    Attributes:
        value: the metric; with several seeds their mean.
        seeds: how many results it is the mean of.
        sd: sample standard deviation over seeds, None for one.
        p: p-value of the model against its untouched base, with several seeds the largest; None where not tested.
        marks: 1 or 2 where the model is better than its base at that level, −1 or −2 where it is worse, else 0.
        seen: how many queries have a relevant document that was a training positive, with several seeds the most.
        best: whether no row shows a higher value, at four decimals.
    """

    value: float
    seeds: int = 1
    sd: float | None = None
    p: float | None = None
    marks: int = 0
    seen: int = 0
    best: bool = False


@dataclass(frozen=True)
class Row:
    """A system: its name, its kind, its cells by dataset, its average, and the title of its untouched base."""

    title: str
    kind: Kind
    cells: Mapping[str, Cell]
    average: Cell | None = None
    base: str | None = None


@dataclass(frozen=True)
class Comparison:
    """Rows × datasets.

    Attributes:
        metric: what is compared.
        queries: how many queries each dataset has, in the order of the columns.
        rows: untouched bases, baselines, models.
        averaged: the datasets that the average is over: those of every row; without average where they are below two.
    """

    metric: str
    queries: Mapping[str, int]
    rows: tuple[Row, ...]
    averaged: tuple[str, ...]

    @property
    def has_average(self) -> bool:
        """Whether the rows share at least two datasets."""
        return len(self.averaged) > 1

    @property
    def columns(self) -> list[tuple[str, int | None]]:
        """Name and number of queries of each column; the average has no number."""
        return [*self.queries.items(), *([(AVERAGE, None)] if self.has_average else [])]

    def cells(self, row: Row) -> list[Cell | None]:
        """Return a row's cell in each column, None where it has none."""
        return [*map(row.cells.get, self.queries), *([row.average] if self.has_average else [])]


def compare(results: Sequence[NamedResults], metric: str = METRIC) -> Comparison:
    """Put evaluations beside each other.

    Rows: each untouched base once, each baseline once, each model; files named together are one row of mean and sample
    standard deviation. A model is marked where the paired randomisation test against its own untouched base has
    p < 0.05 or p < 0.01, not corrected for the number of tests; with several seeds, where it does so for every seed and
    in one direction. The average is over the datasets that all rows have, if there are at least two.

    Raises:
        InputError: there are no files, none holds an untouched base, or they cannot stand in one table: a metric is
            missing, collections of one name differ, or systems of one name do.
    """
    files = [file for named in results for file in named.files]
    if not files:
        raise InputError("there are no results to compare; name results files of evaluate_beir.py")
    names = [named.name for named in results if named.name is not None]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"the name {twice[0]!r} stands twice; join its files with commas, or give another name")
    check_alike(files, metric)
    collected = collect(results, metric)
    queries = {name: file.collections[name]["queries"] for file in files for name in file.datasets}
    averaged = tuple(name for name in queries if all(name in row.values for row in collected))
    rows = [_row(row, averaged) for row in collected]
    return Comparison(metric, queries, tuple(_with_best(rows, list(queries))), averaged)


def _row(row: Collected, averaged: Sequence[str]) -> Row:
    cells = {dataset: _cell(found) for dataset, found in row.values.items()}
    average = _average(row, averaged) if len(averaged) > 1 else None
    return Row(row.title, row.kind, cells, average, row.base)


def _cell(found: Sequence[Found]) -> Cell:
    p_values = [each.p for each in found if each.p is not None]
    p = max(p_values) if len(p_values) == len(found) else None
    cell = _spread([each.value for each in found])
    return replace(cell, p=p, marks=0 if p is None else _marks(p, found), seen=max(each.seen for each in found))


def _spread(values: Sequence[float]) -> Cell:
    return Cell(fmean(values), len(values), stdev(values) if len(values) > 1 else None)


def _marks(p: float, found: Sequence[Found]) -> int:
    """Return the marks of a row whose largest p-value is `p`; none where its seeds differ in direction."""
    level = sum(p < limit for limit in LEVELS)
    if all(each.difference > 0 for each in found):
        return level
    return -level if all(each.difference < 0 for each in found) else 0


def _average(row: Collected, averaged: Sequence[str]) -> Cell:
    """Average each seed over datasets where all datasets have the same seeds, else the means of datasets."""
    found = [row.values[dataset] for dataset in averaged]
    sources = [[each.file.path for each in seeds] for seeds in found]
    if all(paths == sources[0] for paths in sources):
        return _spread([fmean(each.value for each in seed) for seed in zip(*found, strict=True)])
    return Cell(fmean(fmean(each.value for each in seeds) for seeds in found))


def _with_best(rows: Sequence[Row], datasets: Sequence[str]) -> list[Row]:
    """Tell which cells of each column show its highest value."""
    bold = {name: _best([row.cells.get(name) for row in rows]) for name in datasets}
    averages = _best([row.average for row in rows])
    return [
        replace(
            row,
            cells={name: replace(row.cells[name], best=bold[name][place]) for name in row.cells if name in bold},
            average=None if row.average is None else replace(row.average, best=averages[place]),
        )
        for place, row in enumerate(rows)
    ]


def _best(cells: Sequence[Cell | None]) -> list[bool]:
    return [text.startswith("**") for text in with_best_bold([None if cell is None else cell.value for cell in cells])]
