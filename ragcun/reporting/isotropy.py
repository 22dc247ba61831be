"""Tables of the measures of isotropy reports, and figures with the untouched base first."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from ragcun.io import read_json
from ragcun.isotropy.pairs import Distribution
from ragcun.isotropy.report import IsotropyReport, SystemReport
from ragcun.isotropy.spectrum import Measure
from ragcun.reporting import plots
from ragcun.reporting.plots import BLUE, LIGHT_GREY, VERMILLION, Look, finish, panel_grid
from ragcun.reporting.tables import ABSENT, Table, markdown_table

SPACES = ("documents", "queries", "together")
ZERO = 1e-12  # an eigenvalue below this share of the mean is what rounding leaves of 0; a log axis has no place for it
CONSTANT = 1e-4  # values whose range is below this share of their mean are drawn as one line: bins would show rounding
REFERENCE: dict[str, Any] = {"color": LIGHT_GREY, "linestyle": (0, (2, 1)), "linewidth": 1.2}


LABELS: dict[str, dict[str, str]] = read_json(Path(__file__).with_name("measures.json"))
"""Of each measure its title, its unit or range for an axis, and a note on how to read it."""


def title_of(system: SystemReport) -> str:
    """Return the heading of a system's column."""
    return f"{system.model}{' (untouched)' if system.untouched else ''}"


def measure_tables(systems: Sequence[SystemReport]) -> list[Table]:
    """Lay out what was measured of all systems: a table for each space, and one for pairs."""
    found: dict[str, list[Mapping[str, Measure]]] = {}
    for space in SPACES:
        spaces = [system.spaces[space] for system in systems if space in system.spaces]
        dims = " and ".join(dict.fromkeys(f"{each.dim:,}" for each in spaces))
        found[f"{space}, {dims} dimensions"] = [each.measures for each in spaces]
    found["queries and their relevant documents"] = [each.pairs.measures for each in systems if each.pairs is not None]
    titles = list(map(title_of, systems))
    return [measure_table(caption, titles, each) for caption, each in found.items() if len(each) == len(systems)]


def measure_table(caption: str, titles: Sequence[str], measures: Sequence[Mapping[str, Measure]]) -> Table:
    """Lay out measures by name: values with 95 % intervals by title, what N(0, I) gives, and the rows measured."""
    rows = []
    for name in dict.fromkeys(itertools.chain(*measures)):
        about = [(_number(each[name].isotropic), f"{each[name].n:,}") for each in measures if name in each]
        shared = (" / ".join(dict.fromkeys(texts)) for texts in zip(*about, strict=True))
        rows.append([name, *(_cell(each.get(name)) for each in measures), *shared])
    return Table(caption, ["measure", *titles, "isotropic", "rows"], rows)


def isotropy_table(report: IsotropyReport) -> str:
    """Lay out a report as Markdown tables, as `measure_tables` does."""
    return "\n".join(
        markdown_table(
            [f"{report.name}: {table.caption}", *table.header[1:]],
            [[LABELS[name]["title"] if name in LABELS else name, *texts] for name, *texts in table.rows],
        )
        for table in measure_tables(report.systems)
    )


def _number(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.4g}"


def _cell(measure: Measure | None) -> str:
    if measure is None or measure.value is None:
        return ABSENT
    ends = "" if measure.low is None else f" ({_number(measure.low)} … {_number(measure.high)})"
    return f"{_number(measure.value)}{ends}"


def plot_isotropy(report_path: str | Path, output_dir: str | Path) -> list[Path]:
    """Write each figure of a report as a PNG, and return the files."""
    drawn = figures_of(IsotropyReport.read(report_path).systems)
    for name, figure in drawn.items():
        plots.write_png(figure, Path(output_dir) / f"{name}.png")
    return [Path(output_dir) / f"{name}.png" for name in drawn]


def spectrum_figure(systems: Sequence[SystemReport]) -> Figure:
    """Draw each system's covariance eigenvalues λᵢ / λ̄ (log axis) against i; zeros are counted in the legend."""
    figure, (axes,) = panel_grid(1, 4.0)
    axes.axhline(1, **REFERENCE, label="isotropic: all are equal")
    for look, system in _with_looks(systems):
        eigenvalues = np.asarray(system.spaces["documents"].spectrum, dtype=np.float64)
        mean = eigenvalues.mean()
        shown = eigenvalues > ZERO * mean
        scaled = np.where(shown, eigenvalues, np.nan) / (mean or 1.0)
        zeros = f", {(~shown).sum()} of {len(shown)} are 0" if not shown.all() else ""
        index, label = np.arange(1, len(scaled) + 1), f"{look.name}{zeros}"
        axes.plot(index, scaled, label=label, color=look.colour, linestyle=look.line, linewidth=1.6)
    axes.set(yscale="log", xlabel="index of the eigenvalue (dimension), documents")
    axes.set_ylabel("eigenvalue / mean eigenvalue (log scale)")
    return finish(figure)


def hubness_figure(systems: Sequence[SystemReport]) -> Figure:
    """Draw the share of rows among the k nearest of at least x others, against x (log axes); its mean is k anywhere."""
    figure, (axes,) = panel_grid(1, 4.0)
    for look, system in _with_looks(systems):
        occurrence = system.spaces["documents"].k_occurrence
        by_times = dict(sorted((int(times), rows) for times, rows in occurrence.counts.items()))
        share = np.cumsum(list(by_times.values())[::-1])[::-1] / occurrence.n
        times = np.array(list(by_times))
        label = f"{look.name}, {by_times.get(0, 0) / occurrence.n:.1%} never"
        axes.plot(
            times[times > 0], share[times > 0], label=label, color=look.colour, linestyle=look.line, linewidth=1.6
        )
    for k in sorted({system.spaces["documents"].k_occurrence.k for system in systems}):
        axes.axvline(k, **REFERENCE, label=f"mean of all: k = {k}")
    axes.set(xscale="log", yscale="log", xlabel="x: times among the k nearest of others (log scale)")
    axes.set_ylabel("share of documents with x or more (log scale)")
    return finish(figure)


def histograms_figure(systems: Sequence[SystemReport], of: str) -> Figure:
    """Draw densities of Euclidean lengths or distances, a panel for each system, each on its own scale."""
    found = _with_looks(systems)
    figure, grid = panel_grid(len(found))
    for axes, (look, system) in zip(grid, found, strict=True):
        for each in _outlines(system, of):
            _outline(axes, *each)
        axes.set(title=look.name, xlabel=f"Euclidean {of}", ylabel=f"density (per unit of {of})")
        if not axes.patches:
            places = [float(np.asarray(line.get_xdata())[0]) for line in axes.lines]
            room = 0.1 * max(map(abs, places)) or 1.0
            axes.set(xlim=(min(places) - room, max(places) + room), yticks=[], ylabel="no spread (all are equal)")
    return finish(figure)


def _outlines(system: SystemReport, of: str) -> list[tuple[str, Distribution, str, str]]:
    # each distribution with its label, colour and line
    if of == "length":
        sides = {"documents": (BLUE, "-"), "queries": (VERMILLION, "--")}
        return [(side, system.spaces[side].norms, *style) for side, style in sides.items() if side in system.spaces]
    among = system.spaces["documents"].distances
    nearest = ("document to nearest document", among["nearest"], plots.GREEN, ":")
    if system.pairs is None:
        return [("document to random document", among["random"], plots.PURPLE, "-."), nearest]
    pairs = system.pairs.distances
    relevant = ("query to relevant document", pairs["relevant"], BLUE, "-")
    return [relevant, ("query to random document", pairs["random"], VERMILLION, "--"), nearest]


def _outline(axes: Axes, label: str, values: Distribution, colour: str, line: str) -> None:
    if values.max - values.min <= CONSTANT * abs(values.mean):
        axes.axvline(values.mean, color=colour, linestyle=line, linewidth=1.6, label=label)
        return
    counts, edges = np.asarray(values.counts, dtype=np.float64), np.asarray(values.edges)
    n, bins = counts.sum(), len(counts)
    # bins are joined until there are at most 2∛n of them (the Rice rule): few values in many bins show noise
    joined = next(each for each in range(1, bins + 1) if bins % each == 0 and bins / each <= max(1, 2 * n ** (1 / 3)))
    counts, edges = counts.reshape(-1, joined).sum(1), edges[::joined]
    axes.stairs(counts / (n * np.diff(edges)), edges, color=colour, linestyle=line, linewidth=1.6, label=label)


def pca_figure(systems: Sequence[SystemReport]) -> Figure:
    """Draw judged queries, linked to their relevant documents, on the first two principal axes; a panel per system."""
    found = [(look, system.pairs.pca) for look, system in _with_looks(systems) if system.pairs is not None]
    figure, grid = panel_grid(len(found), 3.4)
    for axes, (look, pca) in zip(grid, found, strict=True):
        queries, documents = (np.asarray(rows, dtype=np.float64) for rows in (pca.queries, pca.documents))
        links = [(queries[query], documents[document]) for query, document in pca.links]
        axes.add_collection(LineCollection(links, colors=LIGHT_GREY, linewidths=0.8, zorder=1))
        axes.plot(*documents.T, "o", color=BLUE, markersize=4, label="relevant document", zorder=2)
        axes.plot(*queries.T, "^", color=VERMILLION, markersize=6.5, markeredgecolor="white", label="query", zorder=3)
        first, second = (f"principal axis {i} ({share:.1%} of variance)" for i, share in enumerate(pca.explained, 1))
        axes.set(title=look.name, xlabel=first, ylabel=second)
        axes.set_aspect("equal", adjustable="datalim")
    return finish(figure)


FIGURES: dict[str, Callable[[Sequence[SystemReport]], Figure]] = {
    "spectrum": spectrum_figure, "norms": partial(histograms_figure, of="length"),
    "distances": partial(histograms_figure, of="distance"), "hubness": hubness_figure, "pca": pca_figure,
}  # fmt: skip


def figures_of(systems: Sequence[SystemReport]) -> dict[str, Figure]:
    """Draw each figure that can be drawn of systems; pca needs judged queries."""
    judged = any(system.pairs is not None for system in systems)
    return {name: draw(systems) for name, draw in FIGURES.items() if judged or name != "pca"}


def _with_looks(systems: Sequence[SystemReport]) -> list[tuple[Look, SystemReport]]:
    ordered = sorted(systems, key=lambda system: not system.untouched)
    found = plots.looks([system.model for system in ordered], [system.untouched for system in ordered])
    return list(zip(found, ordered, strict=True))
