"""Isotropy before and after: tables of measures and figures, from an isotropy.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ragcun.reporting import isotropy_plots as plots
from ragcun.reporting.html.gather import IsotropyFile, Run
from ragcun.reporting.html.layout import Cell, Table
from ragcun.reporting.html.pictures import Missing, Picture, picture_if_any
from ragcun.reporting.isotropy_table import (
    LABELS,
    joined_isotropic,
    joined_sizes,
    measured_spaces,
    number,
    titled,
)
from ragcun.reporting.tables import ABSENT

System = Mapping[str, Any]
FIGURES = (
    (plots.spectrum_figure, "Eigenvalues", "Spectrum of the documents' covariance.", "documents"),
    (plots.norms_figure, "Lengths of the vectors", "Lengths of queries and documents."),
    (plots.distances_figure, "Distances", "Distances of relevant, random and nearest pairs."),
    (plots.hubness_figure, "Hubness", "How often a document is among the nearest of others."),
    (plots.pca_figure, "Principal axes", "Queries and their relevant documents on the first two principal axes."),
)
"""Function, start of the alternative text, caption, further arguments."""


@dataclass(frozen=True)
class IsotropyView:
    """One isotropy file as the page shows it.

    Attributes:
        path: the file.
        data: what was embedded, in words.
        tables: measures of each space, and of the pairs.
        pictures: figures, or why there is none.
    """

    path: Path
    data: str
    tables: Sequence[Table]
    pictures: Sequence[Picture | Missing]


def view(file: IsotropyFile, run: Run) -> IsotropyView:
    """Lay out what an isotropy file says of a run and of the untouched base.

    Raises:
        InputError: a part of the file is missing.
    """
    systems = _about(file, run)
    data = file.content["data"]
    about = f"{data['name']}: {data['n_documents']:,} documents"
    about += f", {data['n_queries']:,} queries" if data["n_queries"] else ", no queries"
    tables = [_table(title, systems, measures) for title, measures in measured_spaces(systems).items()]
    return IsotropyView(file.path, about, tables, _pictures(systems))


def side_by_side(runs: Sequence[Run], space: str = "documents") -> Table:
    """Lay out the measures of several runs' embeddings and of their untouched bases, a column for each.

    Returns:
        A table without rows where none was measured.
    """
    found = {}
    for run in runs:
        for file in run.isotropy:
            for system in _about(file, run):
                title = titled(system) if system["untouched"] else run.name
                if space in system["spaces"]:
                    found[f"{title}, on {file.content['data']['name']}"] = system["spaces"][space]["measures"]
    names = dict.fromkeys(name for measures in found.values() for name in measures)
    rows = [[_label(name), *(_cell(measures.get(name)) for measures in found.values())] for name in names]
    return Table(f"isotropy of {space}", ["measure", *found], rows)


def _about(file: IsotropyFile, run: Run) -> list[System]:
    """Return the untouched bases and the systems of a file that are this run's, in the file's order."""
    return [system for system in file.content["systems"] if system["untouched"] or run.holds(system["model"])]


def _label(name: str) -> Cell:
    title, small = LABELS.get(name, (name, ""))
    return Cell(title, small=small)


def _table(title: str, systems: Sequence[System], measures: Sequence[Mapping[str, Any]]) -> Table:
    """Lay out measures: a row for each, a column for each system, then the isotropic value and the number of rows."""
    rows = []
    for name in dict.fromkeys(name for each in measures for name in each):
        found = [each.get(name) for each in measures]
        rows.append([_label(name), *map(_cell, found), Cell(joined_isotropic(found)), Cell(joined_sizes(found))])
    return Table(title, ["measure", *map(titled, systems), "isotropic", "rows"], rows)


def _cell(measure: Mapping[str, Any] | None) -> Cell:
    """Return a value with its interval below it."""
    if measure is None or measure["value"] is None:
        return Cell(ABSENT)
    low, high = measure["low"], measure["high"]
    return Cell(number(measure["value"]), small="" if low is None else f"{number(low)} to {number(high)}")


def _pictures(systems: Sequence[System]) -> list[Picture | Missing]:
    names = ", ".join(str(system["model"]) for system in systems)

    def drawn(draw: Callable[..., Figure], what: str, caption: str, *more: str) -> Picture | Missing:
        return picture_if_any(lambda: draw(list(systems), *more), f"{what} of {names}", caption)

    return [drawn(draw, what, caption, *more) for draw, what, caption, *more in FIGURES]
