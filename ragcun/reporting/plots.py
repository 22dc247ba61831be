"""Plots of a training run from what it wrote to disk."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ragcun.errors import InputError
from ragcun.io import read_json_lines, replacing_file
from ragcun.reporting.results_form import is_number

DEV_METRIC = "NDCG@10"
BLUE, VERMILLION, GREY = "#0072B2", "#D55E00", "#555555"
COLUMNS = 3
PANEL_INCHES = (4.2, 3.0)
RANK_INCHES = (6.0, 4.0)


@dataclass
class _Series:
    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, step: int, value: float | None) -> None:
        if value is not None:
            self.steps.append(step)
            self.values.append(float(value))


@dataclass
class _Curves:
    total: _Series = field(default_factory=_Series)
    terms: dict[str, _Series] = field(default_factory=dict)
    validation: _Series = field(default_factory=_Series)
    dev: _Series = field(default_factory=_Series)
    base: float | None = None


@dataclass
class _Ranks:
    query: _Series = field(default_factory=_Series)
    document: _Series = field(default_factory=_Series)
    bound: float = 0.0
    collapses: list[tuple[int, str]] = field(default_factory=list)


def plot_loss_curves(metrics_path: str | Path, output: str | Path) -> None:
    """Write `loss_figure` of a run's ``metrics.jsonl`` as a PNG, which is complete or absent.

    Raises:
        InputError: as of `loss_figure`.
    """
    write_png(loss_figure(metrics_path), output)


def loss_figure(metrics_path: str | Path) -> Figure:
    """Draw a run over its steps: a panel each for the total loss, every unweighted term, and the dev score.

    The total's panel also shows the validation total, the dev panel the untouched base; each where the run has it.

    Args:
        metrics_path: the run's ``metrics.jsonl``; rows of other kinds than ``step``, ``epoch``, ``base`` are ignored.

    Raises:
        InputError: the file is missing, holds no step, or a row lacks its step or total.
    """
    curves = _read_curves(metrics_path)
    panels = 1 + len(curves.terms) + bool(curves.dev.steps)
    figure, grid = panel_grid(panels)
    _draw(grid[0], "total loss", "loss", [("training", curves.total), ("validation", curves.validation)])
    for axes, (name, series) in zip(grid[1:], curves.terms.items(), strict=False):
        _draw(axes, f"{name} (unweighted)", "loss", [("training", series)])
    if curves.dev.steps:
        _draw_dev(grid[panels - 1], curves)
    return figure


def rank_figure(metrics_path: str | Path) -> Figure | None:
    """Draw the effective rank of the probe's queries and documents over a run's steps; None where it never looked.

    A grey line is the highest rank that the probe can show, an upright line with a marker a collapse that was found.

    Args:
        metrics_path: the run's ``metrics.jsonl``; rows of other kinds than ``probe`` and ``collapse`` are ignored.

    Raises:
        InputError: the file is missing, or a row lacks its step, its ranks or the kind of its collapse.
    """
    ranks = _read_ranks(metrics_path)
    if not ranks.query.steps:
        return None
    figure, (axes,) = panel_grid(1, RANK_INCHES)
    sides = ("queries", ranks.query, BLUE, "-o"), ("documents", ranks.document, VERMILLION, "--s")
    for label, series, colour, style in sides:
        axes.plot(series.steps, series.values, style, color=colour, label=label, linewidth=1.6, markersize=4.5)
    axes.axhline(ranks.bound, color=GREY, linestyle=":", linewidth=1.4, label="highest rank the probe can show")
    for (step, kind), marker in zip(ranks.collapses, itertools.cycle("vXDP"), strict=False):
        label, across = f"{kind} collapse, step {step}", axes.get_xaxis_transform()
        line = axes.plot(
            [step, step], [0, 1], f"{marker}-.", color="black", transform=across, linewidth=1.2, label=label
        )
        line[0].set(clip_on=False, markevery=[1])
    axes.set(title="effective rank of the probe's embeddings", xlabel="step", ylabel="effective rank (dimensions)")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def panel_grid(
    panels: int, inches: tuple[float, float] = PANEL_INCHES, columns: int = COLUMNS
) -> tuple[Figure, list[Axes]]:
    """Return a figure and its `panels` axes, each of a width and height in inches, up to `columns` in a row."""
    columns = min(columns, panels)
    rows = math.ceil(panels / columns)
    figure = Figure(figsize=(inches[0] * columns, inches[1] * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for unused in grid[panels:]:
        unused.remove()
    return figure, grid[:panels]


def write_png(figure: Figure, output: str | Path) -> None:
    """Write a figure as a PNG; the file is complete or absent."""
    with replacing_file(output) as temporary:
        FigureCanvasAgg(figure).print_png(temporary)


def _draw(axes: Axes, title: str, unit: str, lines: Sequence[tuple[str, _Series]]) -> None:
    """Draw the first line plain, as it has many points, and the second with markers."""
    for (label, series), colour, marker in zip(lines, (BLUE, VERMILLION), ("", "o"), strict=False):
        if series.steps:
            alone = "." if len(series.steps) == 1 else ""
            axes.plot(series.steps, series.values, color=colour, marker=marker or alone, label=label, linewidth=1.4)
    axes.set(title=title, xlabel="step", ylabel=unit)
    axes.grid(alpha=0.3)
    if len([series for _, series in lines if series.steps]) > 1:
        axes.legend()


def _draw_dev(axes: Axes, curves: _Curves) -> None:
    axes.plot(curves.dev.steps, curves.dev.values, color=BLUE, marker="o", label="model", linewidth=1.4)
    if curves.base is not None:
        axes.axhline(curves.base, color=GREY, linestyle="--", label="untouched base")
    axes.set(title=f"dev {DEV_METRIC}", xlabel="step", ylabel=DEV_METRIC)
    axes.grid(alpha=0.3)
    axes.legend()


def _read_curves(path: str | Path) -> _Curves:
    curves = _Curves()
    for number, row in read_json_lines(path):
        kind = row.get("kind")
        if kind == "step":
            step = _required(row, "step", path, number)
            curves.total.add(step, _required(row, "total", path, number))
            terms = _object(row, "terms", path, number)
            for name in terms:
                curves.terms.setdefault(name, _Series()).add(step, _optional(terms, name, path, number))
        elif kind == "epoch":
            step = _required(row, "step", path, number)
            curves.validation.add(step, _optional(row, "val_total", path, number))
            curves.dev.add(step, _optional(_object(row, "dev", path, number), DEV_METRIC, path, number))
        elif kind == "base":
            curves.base = _optional(_object(row, "dev", path, number), DEV_METRIC, path, number)
    if not curves.total.steps:
        raise InputError(f"{path} holds no row of kind 'step'; train for at least one step before plotting")
    return curves


def _read_ranks(path: str | Path) -> _Ranks:
    ranks = _Ranks()
    for number, row in read_json_lines(path):
        if row.get("kind") == "probe":
            step, figures = _required(row, "step", path, number), _object(row, "figures", path, number)
            ranks.query.add(step, _required(figures, "rank_query", path, number))
            ranks.document.add(step, _required(figures, "rank_document", path, number))
            ranks.bound = max(ranks.bound, _required(figures, "rank_bound", path, number))
        elif row.get("kind") == "collapse":
            if not isinstance(row.get("collapse"), str):
                raise InputError(f"{path}, line {number}: 'collapse' is {row.get('collapse')!r:.60}; mend that line")
            ranks.collapses.append((_required(row, "step", path, number), row["collapse"]))
    return ranks


def _required(row: Mapping[str, Any], key: str, path: str | Path, number: int) -> Any:
    value = row.get(key)
    if not is_number(value):
        raise InputError(
            f"{path}, line {number}: {key!r:.60} is {value!r:.60} where a number is expected; mend that line"
        )
    return value


def _optional(row: Mapping[str, Any], key: str, path: str | Path, number: int) -> Any:
    return None if row.get(key) is None else _required(row, key, path, number)


def _object(row: Mapping[str, Any], key: str, path: str | Path, number: int) -> Mapping[str, Any]:
    value = row.get(key)
    if value is not None and not isinstance(value, dict):
        raise InputError(f"{path}, line {number}: {key!r} is {value!r:.60} where an object is expected; mend that line")
    return value or {}
