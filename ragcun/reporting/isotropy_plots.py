"""Figures of what systems' embeddings look like: spectrum, lengths, distances, hubness, and queries by their documents.

The untouched base comes first in each figure, and is grey where systems share a panel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from ragcun.isotropy.pairs import Distribution
from ragcun.isotropy.report import SystemReport
from ragcun.reporting.isotropy import read_isotropy
from ragcun.reporting.plots import (
    BLUE,
    GREEN,
    LIGHT_GREY,
    PURPLE,
    VERMILLION,
    Look,
    finish,
    looks,
    panel_grid,
    write_png,
)

ZERO = 1e-12
"""An eigenvalue below this share of the mean is what rounding leaves of 0; a log axis has no place for it."""
CONSTANT = 1e-4
"""Values whose range is below this share of their mean are drawn as one line: bins would show rounding."""
SIDES = {"documents": (BLUE, "-"), "queries": (VERMILLION, "--")}
REFERENCE: dict[str, Any] = {"color": LIGHT_GREY, "linestyle": (0, (2, 1)), "linewidth": 1.2}
Outline = tuple[str, Distribution, str, str]
"""A distribution to draw: its label, what it is, its colour and its line."""


def plot_isotropy(report_path: str | Path, output_dir: str | Path) -> list[Path]:
    """Write spectrum.png, norms.png, distances.png, hubness.png, and pca.png where there are judged queries.

    Raises:
        InputError: the file is missing or is no isotropy report, or holds more systems than can be told apart.
    """
    systems = read_isotropy(report_path).systems
    written = []
    for name, draw in figures_of(systems).items():
        written.append(Path(output_dir) / f"{name}.png")
        write_png(draw(systems), written[-1])
    return written


def spectrum_figure(systems: Sequence[SystemReport]) -> Figure:
    """Draw each system's covariance eigenvalues over their mean λᵢ / λ̄ (log axis) against their index i, from 1.

    A grey line at 1 is the isotropic spectrum. Eigenvalues of 0 are left out and counted in the legend.
    """
    figure, (axes,) = panel_grid(1, 4.0)
    axes.axhline(1, **REFERENCE, label="isotropic: all are equal")
    for look, system in _with_looks(systems):
        eigenvalues = np.asarray(system.spaces["documents"].spectrum, dtype=np.float64)
        mean = eigenvalues.mean()
        shown = eigenvalues > ZERO * mean
        scaled = np.where(shown, eigenvalues, np.nan) / (mean or 1.0)
        zeros = f", {(~shown).sum()} of {len(shown)} are 0" if not shown.all() else ""
        _line(axes, np.arange(1, len(scaled) + 1), scaled, look, zeros)
    axes.set_yscale("log")
    axes.set(xlabel="index of the eigenvalue (dimension), documents", ylabel="eigenvalue / mean eigenvalue (log scale)")
    return finish(figure)


def hubness_figure(systems: Sequence[SystemReport]) -> Figure:
    """Draw the share of rows that are among the k nearest of at least x others, against x, both axes logarithmic.

    The complementary cumulative distribution needs no bins, and its log-log form shows hubs, which are few and far out.
    The legend counts the rows that are near to none. The mean of x is k whatever the geometry.
    """
    figure, (axes,) = panel_grid(1, 4.0)
    chosen = _with_looks(systems)
    for look, system in chosen:
        occurrence = system.spaces["documents"].k_occurrence
        by_times = dict(sorted((int(times), rows) for times, rows in occurrence.counts.items()))
        share = np.cumsum(list(by_times.values())[::-1])[::-1] / occurrence.n
        times = np.array(list(by_times))
        antihubs = f", {by_times.get(0, 0) / occurrence.n:.1%} never"
        _line(axes, times[times > 0], share[times > 0], look, antihubs)
    for k in sorted({system.spaces["documents"].k_occurrence.k for _, system in chosen}):
        axes.axvline(k, **REFERENCE, label=f"mean of all: k = {k}")
    axes.set(xscale="log", yscale="log", xlabel="x: times among the k nearest of others (log scale)")
    axes.set_ylabel("share of documents with x or more (log scale)")
    return finish(figure)


def norms_figure(systems: Sequence[SystemReport]) -> Figure:
    """Draw the distribution of the lengths of queries and documents, a panel for each system, each on its own scale."""
    return _histograms(
        systems,
        "length",
        lambda system: [(side, system.spaces[side].norms, *SIDES[side]) for side in SIDES if side in system.spaces],
    )


def distances_figure(systems: Sequence[SystemReport]) -> Figure:
    """Draw distributions of Euclidean distances, a panel for each system, each on its own scale.

    Relevant and random pairs of query and document where there are judged queries, else random pairs of documents;
    beside them, from each document to its nearest other one.
    """

    def outlines(system: SystemReport) -> list[Outline]:
        among = system.spaces["documents"].distances
        shown: list[Outline] = [("document to random document", among["random"], PURPLE, "-.")]
        if system.pairs is not None:
            pairs = system.pairs.distances
            shown = [("query to relevant document", pairs["relevant"], BLUE, "-")]
            shown.append(("query to random document", pairs["random"], VERMILLION, "--"))
        return [*shown, ("document to nearest document", among["nearest"], GREEN, ":")]

    return _histograms(systems, "distance", outlines)


def pca_figure(systems: Sequence[SystemReport]) -> Figure:
    """Draw judged queries, linked to their relevant documents, on the first two principal axes; a panel per system.

    Both axes of a panel have one scale. Their names say the share of the documents' variance that they hold.
    """
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
    "spectrum": spectrum_figure, "norms": norms_figure, "distances": distances_figure, "hubness": hubness_figure,
    "pca": pca_figure,
}  # fmt: skip


def figures_of(systems: Sequence[SystemReport]) -> dict[str, Callable[[Sequence[SystemReport]], Figure]]:
    """Return the figures that can be drawn of systems: all, without judged queries all but the last."""
    judged = any(system.pairs is not None for system in systems)
    return {name: draw for name, draw in FIGURES.items() if judged or name != "pca"}


def _histograms(
    systems: Sequence[SystemReport], quantity: str, outlines: Callable[[SystemReport], list[Outline]]
) -> Figure:
    found = _with_looks(systems)
    figure, grid = panel_grid(len(found))
    for axes, (look, system) in zip(grid, found, strict=True):
        for each in outlines(system):
            _outline(axes, *each)
        axes.set(title=look.name, xlabel=f"Euclidean {quantity}", ylabel=f"density (per unit of {quantity})")
        if not axes.patches:
            places = [float(np.asarray(line.get_xdata())[0]) for line in axes.lines]
            room = 0.1 * max(map(abs, places)) or 1.0
            axes.set(xlim=(min(places) - room, max(places) + room), yticks=[], ylabel="no spread (all are equal)")
    return finish(figure)


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


def _line(axes: Axes, x: Any, y: Any, look: Look, note: str) -> None:
    axes.plot(x, y, color=look.colour, linestyle=look.line, linewidth=1.6, label=f"{look.name}{note}")


def _with_looks(systems: Sequence[SystemReport]) -> list[tuple[Look, SystemReport]]:
    ordered = sorted(systems, key=lambda system: not system.untouched)
    found = looks([system.model for system in ordered], [system.untouched for system in ordered])
    return list(zip(found, ordered, strict=True))
