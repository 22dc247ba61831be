"""Plots of a training run, and the style that all plots share."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ragcun.errors import InputError
from ragcun.io import read_json_lines, replacing_file
from ragcun.results import METRIC, Count, Number, typed

Points = dict[int, float | None]
Values = dict[str, Number | None]

BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, "#E69F00", "#56B4E9")  # Okabe and Ito's, told apart by the colour-blind
GREY, LIGHT_GREY = "#555555", "#999999"
LINES: tuple[Any, ...] = ("--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (9, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
MOST = math.lcm(len(COLOURS), len(LINES))  # systems that differ in colour or line, and from the next in both
LONGEST_NAME, TITLE_CHARACTERS = 39, 39
PRINTED_WIDTH = 6.8  # inches between the margins of A4: figures are not shrunk in print, and letters keep their size
LEGEND_CHARACTERS, LEGEND_LINE = 90, 0.19  # characters beside each other in a legend, and inches that a line takes
CURVES = {"training": (BLUE, ""), "validation": (VERMILLION, "o"), "model": (GREEN, "s")}


class Look(NamedTuple):
    """What a system is called and how it is drawn; the untouched base is a solid grey line and a star."""

    name: str
    colour: str
    line: Any
    marker: str
    untouched: bool


def looks(names: Sequence[str], untouched: Sequence[bool]) -> list[Look]:
    """Give each of 1 to `MOST` systems its look, in the order given; a long name is shown by its end."""
    if not 1 <= len(names) <= MOST:
        raise InputError(f"{len(names)} systems to draw; give 1 to {MOST}")
    short = [_shortened(name) for name in names]
    titles = [name.replace("$", r"\$") for name in (short if len(set(short)) == len(set(names)) else names)]
    cycle = zip(itertools.cycle(COLOURS), itertools.cycle(LINES), itertools.cycle(MARKERS), strict=False)
    return [
        Look(f"{title} (untouched)", GREY, "-", "*", True) if base else Look(title, *next(cycle), False)
        for title, base in zip(titles, untouched, strict=True)
    ]


def _shortened(name: str) -> str:
    if len(name) <= LONGEST_NAME:
        return name
    end = name[1 - LONGEST_NAME :]
    whole_parts = end[max(0, end.find("/")) :]
    return f"…{whole_parts if len(whole_parts) > LONGEST_NAME // 2 else end}"


def panel_grid(panels: int, height: float = 2.9) -> tuple[Figure, list[Axes]]:
    """Return a figure of a page's width (one panel: nine tenths of it) and its panels, two in a row."""
    columns = min(2, panels)
    rows = math.ceil(panels / columns)
    width = PRINTED_WIDTH if panels > 1 else 0.9 * PRINTED_WIDTH
    figure = Figure(figsize=(width, height * rows), dpi=200, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for unused in grid[panels:]:
        unused.remove()
    for axes in grid[:panels]:
        axes.grid(alpha=0.3)
        axes.tick_params(labelsize=9)
        axes.xaxis.label.set_fontsize(9.5)
        axes.yaxis.label.set_fontsize(9.5)
    return figure, grid[:panels]


def finish(figure: Figure) -> Figure:
    """Break long titles into lines, and name each kind of line once below the panels of a higher figure."""
    named: dict[str, Artist] = {}
    for axes in figure.axes:
        axes.set_title(textwrap.fill(axes.get_title(), TITLE_CHARACTERS), fontsize=9)
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    columns = max(1, min(len(named), LEGEND_CHARACTERS // (8 + max(map(len, named), default=1))))
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + LEGEND_LINE * (math.ceil(len(named) / columns) + 1))
    figure.legend(list(named.values()), list(named), loc="outside lower center", ncols=columns, fontsize=9)
    return figure


def write_png(figure: Figure, output: str | Path) -> None:
    """Write a figure as a PNG; the file is complete or absent."""
    with replacing_file(output) as temporary:
        FigureCanvasAgg(figure).print_png(temporary)


def loss_figure(metrics_path: str | Path) -> Figure:
    """Draw a run's total loss, every unweighted term and the dev score over its steps (InputError without any)."""
    total, dev = {"training": Points(), "validation": Points()}, Points()
    panels: dict[str, dict[str, Points]] = {"total loss": total}
    base: float | None = None
    for place, row in _rows(metrics_path, "step", "epoch", "base"):
        score = (typed(Values | None, row.get("dev"), place, "dev") or {}).get(METRIC)
        if row["kind"] == "base":
            base = score
            continue
        step = typed(Count, row.get("step"), place, "step")
        if row["kind"] == "epoch":
            dev[step] = score
            total["validation"][step] = typed(Number | None, row.get("val_total"), place, "val_total")
            continue
        total["training"][step] = typed(Number, row.get("total"), place, "total")
        for name, value in (typed(Values | None, row.get("terms"), place, "terms") or {}).items():
            panels.setdefault(f"{name} (unweighted)", {"training": Points()})["training"][step] = value
    if not total["training"]:
        raise InputError(f"{metrics_path} holds no row of kind 'step'; train for at least one step before plotting")
    if has_dev := any(value is not None for value in dev.values()):
        panels[f"dev {METRIC}"] = {"model": dev}
    figure, grid = panel_grid(len(panels))
    for axes, (title, curves) in zip(grid, panels.items(), strict=True):
        axes.set(title=title, xlabel="step", ylabel=METRIC if "model" in curves else "loss")
        for label, points in curves.items():
            colour, marker = CURVES[label]
            if shown := {step: value for step, value in points.items() if value is not None}:
                marker = marker or ("." if len(shown) == 1 else "")
                axes.plot([*shown], [*shown.values()], color=colour, marker=marker, label=label, linewidth=1.4)
    if has_dev and base is not None:
        grid[-1].axhline(base, color=GREY, linestyle="--", label="untouched base")
    return finish(figure)


def _rows(path: str | Path, *kinds: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, row in read_json_lines(path):
        if row.get("kind") in kinds:
            yield f"{path}, line {number}", row


def rank_figure(metrics_path: str | Path) -> Figure | None:
    """Draw the effective rank of the monitored queries and documents over a run's steps; None without any check."""
    names = ("rank_query", "rank_document", "rank_bound")
    ranks: dict[str, list[float]] = {name: [] for name in names}
    steps, collapses = [], []
    for place, row in _rows(metrics_path, "probe", "collapse"):
        step = typed(Count, row.get("step"), place, "step")
        if row["kind"] == "collapse":
            collapses.append((step, typed(str, row.get("collapse"), place, "collapse")))
            continue
        found = typed(dict[str, Any], row.get("figures"), place, "figures")
        for name in names:
            ranks[name].append(typed(Number, found.get(name), place, f"figures.{name}"))
        steps.append(step)
    if not steps:
        return None
    figure, (axes,) = panel_grid(1, 3.6)
    for name, label, style, colour in zip(names, ("queries", "documents"), ("-o", "--s"), COLOURS, strict=False):
        axes.plot(steps, ranks[name], style, color=colour, label=label, linewidth=1.6, markersize=4.5)
    axes.axhline(max(ranks["rank_bound"]), color=GREY, linestyle=":", label="highest rank the batch can show")
    for (step, kind), marker in zip(collapses, itertools.cycle("vXDP"), strict=False):
        axes.plot(
            [step, step], [0, 1], f"{marker}-.", color="black", transform=axes.get_xaxis_transform(), linewidth=1.2,
            label=f"{kind} collapse, step {step}", clip_on=False, markevery=[1],
        )  # fmt: skip
    axes.set(title="effective rank of the monitored embeddings", xlabel="step", ylabel="effective rank (dimensions)")
    axes.set_ylim(bottom=0)
    return finish(figure)
