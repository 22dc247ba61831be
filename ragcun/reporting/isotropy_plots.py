"""Figures of what systems' embeddings look like: spectrum, norms, distances, hubness, and queries by their documents.

All take the ``systems`` of an ``isotropy.json`` as `read_isotropy` returns them. The untouched base comes first in each
figure, and is grey where systems share a panel.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from ragcun.errors import InputError
from ragcun.reporting.histogram import WIDTH, draw_histogram, frame_constants
from ragcun.reporting.isotropy_file import read_isotropy
from ragcun.reporting.plots import BLUE, VERMILLION, write_png
from ragcun.reporting.size_plot import COLOURS
from ragcun.reporting.system_style import Look, legend_below, printed_grid, with_looks

System = Mapping[str, Any]
GREEN, PURPLE, LIGHT_GREY = COLOURS[2], COLOURS[3], "#999999"
SIDES = {"documents": (BLUE, "-"), "queries": (VERMILLION, "--")}
TITLE_CHARACTERS = 39
ZERO = 1e-12
"""An eigenvalue below this share of the mean is what rounding leaves of 0; a log axis has no place for it."""


def plot_isotropy(report_path: str | Path, output_dir: str | Path) -> list[Path]:
    """Write spectrum.png, norms.png, distances.png, hubness.png, and pca.png where there are judged queries.

    Args:
        report_path: an ``isotropy.json``.
        output_dir: the folder to write to; each file is complete or absent.

    Returns:
        The files written.

    Raises:
        InputError: the file is missing or is no isotropy report, or holds more systems than can be told apart.
    """
    systems = read_isotropy(report_path)["systems"]
    figures: dict[str, Callable[[Sequence[System]], Figure]] = {
        "spectrum": spectrum_figure, "norms": norms_figure, "distances": distances_figure, "hubness": hubness_figure,
    }  # fmt: skip
    if any("pairs" in system for system in systems):
        figures["pca"] = pca_figure
    written = []
    for name, draw in figures.items():
        written.append(Path(output_dir) / f"{name}.png")
        write_png(draw(systems), written[-1])
    return written


def spectrum_figure(systems: Sequence[System], space: str = "documents") -> Figure:
    """Draw each system's covariance eigenvalues over their mean λᵢ / λ̄ (log axis) against their index i, from 1.

    A grey line at 1 is the isotropic spectrum. Eigenvalues of 0 are left out and counted in the legend.

    Raises:
        InputError: no system has this space.
    """
    figure, (axes,) = printed_grid(1, 4.0)
    axes.axhline(1, color=LIGHT_GREY, linestyle=(0, (2, 1)), linewidth=1.2, label="isotropic: all are equal")
    for look, system in _having(systems, space):
        eigenvalues = np.asarray(system["spaces"][space]["spectrum"], dtype=np.float64)
        mean = eigenvalues.mean()
        shown = eigenvalues > ZERO * mean
        scaled = np.where(shown, eigenvalues, np.nan) / (mean or 1.0)
        zeros = f", {(~shown).sum()} of {len(shown)} are 0" if not shown.all() else ""
        _line(axes, np.arange(1, len(scaled) + 1), scaled, look, zeros)
    axes.set_yscale("log")
    axes.set(xlabel=f"index of the eigenvalue (dimension), {space}", ylabel="eigenvalue / mean eigenvalue (log scale)")
    legend_below(figure)
    return figure


def hubness_figure(systems: Sequence[System], space: str = "documents") -> Figure:
    """Draw the share of rows that are among the k nearest of at least x others, against x, both axes logarithmic.

    The complementary cumulative distribution needs no bins, and its log-log form shows hubs, which are few and far out.
    The legend counts the rows that are near to none. The mean of x is k whatever the geometry.

    Raises:
        InputError: no system has this space.
    """
    figure, (axes,) = printed_grid(1, 4.0)
    chosen = _having(systems, space)
    for look, system in chosen:
        occurrence = system["spaces"][space]["k_occurrence"]
        by_times = dict(sorted((int(times), rows) for times, rows in occurrence["counts"].items()))
        share = np.cumsum(list(by_times.values())[::-1])[::-1] / occurrence["n"]
        times = np.array(list(by_times))
        antihubs = f", {by_times.get(0, 0) / occurrence['n']:.1%} never"
        _line(axes, times[times > 0], share[times > 0], look, antihubs)
    for k in sorted({system["spaces"][space]["k_occurrence"]["k"] for _, system in chosen}):
        axes.axvline(k, color=LIGHT_GREY, linestyle=(0, (2, 1)), linewidth=1.2, label=f"mean of all: k = {k}")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("x: times among the k nearest of others (log scale)")
    axes.set_ylabel(f"share of {space} with x or more (log scale)")
    legend_below(figure)
    return figure


def norms_figure(systems: Sequence[System]) -> Figure:
    """Draw the distribution of the lengths of queries and documents, a panel for each system, each on its own scale."""
    found = with_looks(systems)
    figure, grid = printed_grid(len(found))
    for axes, (look, system) in zip(grid, found, strict=True):
        spaces = {side: system["spaces"][side]["norms"] for side in SIDES if side in system["spaces"]}
        for side, norms in spaces.items():
            draw_histogram(axes, norms, side, *SIDES[side])
        axes.set(title=look.name, xlabel="Euclidean length", ylabel="density (per unit of length)")
        frame_constants(axes)
    return _finish(figure)


def distances_figure(systems: Sequence[System]) -> Figure:
    """Draw distributions of Euclidean distances, a panel for each system, each on its own scale.

    Relevant and random pairs of query and document where there are judged queries, else random pairs of documents;
    beside them, from each document to its nearest other one.
    """
    found = with_looks(systems)
    figure, grid = printed_grid(len(found))
    for axes, (look, system) in zip(grid, found, strict=True):
        among = system["spaces"]["documents"]["distances"]
        if "pairs" in system:
            pairs = system["pairs"]["distances"]
            draw_histogram(axes, pairs["relevant"], "query to relevant document", BLUE, "-")
            draw_histogram(axes, pairs["random"], "query to random document", VERMILLION, "--")
        else:
            draw_histogram(axes, among["random"], "document to random document", PURPLE, "-.")
        draw_histogram(axes, among["nearest"], "document to nearest document", GREEN, ":")
        axes.set(title=look.name, xlabel="Euclidean distance", ylabel="density (per unit of distance)")
        frame_constants(axes)
    return _finish(figure)


def pca_figure(systems: Sequence[System]) -> Figure:
    """Draw judged queries, linked to their relevant documents, on the first two principal axes; a panel per system.

    Both axes of a panel have one scale. Their names say the share of the documents' variance that they hold.

    Raises:
        InputError: no system has judged queries.
    """
    found = [(look, system["pairs"]["pca"]) for look, system in with_looks(systems) if "pairs" in system]
    if not found:
        raise InputError("no system has judged queries to draw; measure with a collection that has qrels")
    figure, grid = printed_grid(len(found), 3.4)
    for axes, (look, pca) in zip(grid, found, strict=True):
        queries, documents = (
            np.asarray(pca[side], dtype=np.float64).reshape(-1, 2) for side in ("queries", "documents")
        )
        links = [(queries[query], documents[document]) for query, document in pca["links"]]
        axes.add_collection(LineCollection(links, colors=LIGHT_GREY, linewidths=0.8, zorder=1))
        axes.plot(*documents.T, "o", color=BLUE, markersize=4, label="relevant document", zorder=2)
        axes.plot(*queries.T, "^", color=VERMILLION, markersize=6.5, markeredgecolor="white", label="query", zorder=3)
        first, second = (f"principal axis {i} ({share:.1%} of variance)" for i, share in enumerate(pca["explained"], 1))
        axes.set(title=look.name, xlabel=first, ylabel=second)
        axes.set_aspect("equal", adjustable="datalim")
    return _finish(figure)


def _having(systems: Sequence[System], space: str) -> list[tuple[Look, System]]:
    found = [(look, system) for look, system in with_looks(systems) if space in system["spaces"]]
    if not found:
        raise InputError(f"no system has embeddings of {space}; measure with a collection that has queries")
    return found


def _line(axes: Axes, x: Any, y: Any, look: Look, note: str) -> None:
    axes.plot(x, y, color=look.colour, linestyle=look.line, linewidth=WIDTH, label=f"{look.name}{note}")


def _finish(figure: Figure) -> Figure:
    """Break long titles into lines, and add the legend."""
    for axes in figure.axes:
        axes.set_title(textwrap.fill(axes.get_title(), TITLE_CHARACTERS), fontsize=9)
    legend_below(figure)
    return figure
