"""What small vectors cost: NDCG@10 against the bytes of a stored vector, over several evaluations."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from ragcun.errors import InputError
from ragcun.io import read_json
from ragcun.reporting.paired import SAME
from ragcun.reporting.plots import BLUE, GREY, VERMILLION, panel_grid, write_png
from ragcun.reporting.tables import BYTES, METRIC

MARKERS = {"float32": "o", "int8": "s", "binary": "^"}
COLOURS = (BLUE, VERMILLION, "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Of Okabe and Ito's palette, which colour-blind readers tell apart; grey is the base."""
STYLES = [(colour, line) for line, colour in itertools.product(("-", "--", "-."), COLOURS)]
INCHES = (5.2, 4.2)


@dataclass(frozen=True)
class Point:
    """One system on one dataset.

    Attributes:
        model: its name, without how its vectors were made small.
        dataset: name of the collection.
        precision: of the stored vectors.
        truncate_dim: how many dimensions were kept, None for all.
        size: bytes of a stored vector.
        value: NDCG@10.
        untouched: whether this is the model as published, which a results file shows beside the one evaluated.
        source: the results file.
    """

    model: str
    dataset: str
    precision: str
    truncate_dim: int | None
    size: int
    value: float
    untouched: bool
    source: str


def plot_sizes(results: Sequence[str | Path], output: str | Path) -> None:
    """Draw NDCG@10 against bytes per vector (log axis) as a PNG: a panel for each dataset, a line for each model.

    Markers tell the precision. A model's line joins the points that no smaller or equally large vectors of that model
    reach, so it shows what is to be had for so many bytes. The untouched base is a star on a dotted line at its
    NDCG@10; its vectors made small are a grey line of their own. Baselines without vectors are left out.

    Args:
        results: results files of ``evaluate_beir.py``.
        output: the PNG to write; it is complete or absent.

    Raises:
        InputError: a file is missing, is no results file, does not say how large vectors are, contradicts another one,
            or there are more models than can be told apart.
    """
    write_png(size_figure([point for path in results for point in read_points(path)]), output)


def read_points(path: str | Path) -> list[Point]:
    """Read all systems of a results file that store vectors.

    Raises:
        InputError: the file is missing or no results file, or does not say how large the model's vectors are.
    """
    results = read_json(path)
    if not isinstance(results, dict) or not {"model", "datasets", "baselines"} <= results.keys():
        raise InputError(f"{path} is not a results file of evaluate_beir.py; give files that it wrote")
    base = results.get("untouched_base")
    for system in (results, *([] if base is None else [base])):
        if BYTES not in system:
            raise InputError(
                f"{path} does not say how large the vectors of {system.get('model')} are; "
                "evaluate an embedding model again with evaluate_beir.py"
            )
    points = [] if base is None else list(_points(base, True, path))
    for system in (*results["baselines"].values(), results):
        points += _points(system, False, path) if BYTES in system else []
    return points


def _points(system: Mapping[str, Any], untouched: bool, path: str | Path) -> Iterator[Point]:
    name, precision = system.get("model"), system.get("precision")
    if precision not in MARKERS:
        raise InputError(f"{path}: precision {precision!r} of {name} is none of {', '.join(MARKERS)}; write it again")
    for dataset, figures in (system.get("datasets") or {}).items():
        if METRIC not in figures:
            raise InputError(f"{path} lacks {METRIC} of {name} on {dataset}; write it again with evaluate_beir.py")
        value, size = float(figures[METRIC]), int(system[BYTES])
        yield Point(str(name), dataset, precision, system.get("truncate_dim"), size, value, untouched, str(path))


def _without_repeats(points: Sequence[Point]) -> list[Point]:
    """Keep one of each model, dataset and size; a base is untouched where any file says so."""
    kept: dict[tuple[object, ...], Point] = {}
    for point in sorted(points, key=lambda point: not point.untouched):
        key = point.model, point.dataset, point.precision, point.truncate_dim
        first = kept.setdefault(key, point)
        if abs(first.value - point.value) > SAME:
            raise InputError(
                f"{first.source} and {point.source} disagree on {METRIC} of {point.model} on {point.dataset} "
                f"({first.value:.4f} and {point.value:.4f} with the same vectors); leave one out"
            )
    return list(kept.values())


def size_figure(points: Sequence[Point]) -> Figure:
    """Draw points as `plot_sizes` describes.

    Raises:
        InputError: there are no points, two contradict each other, or there are more models than can be told apart.
    """
    points = _without_repeats(points)
    bases = {point.model for point in points if point.untouched}
    models = [name for name in dict.fromkeys(point.model for point in points) if name not in bases]
    if not points or len(models) > len(STYLES):
        raise InputError(f"{len(models)} models to draw; give results of 1 to {len(STYLES)}")
    style = dict(zip(models, STYLES, strict=False))
    datasets = list(dict.fromkeys(point.dataset for point in points))
    figure, grid = panel_grid(len(datasets), INCHES)
    for axes, dataset in zip(grid, datasets, strict=True):
        here = [point for point in points if point.dataset == dataset]
        for name in dict.fromkeys(point.model for point in here):
            _draw_model(axes, name, [point for point in here if point.model == name], *style.get(name, (GREY, "-")))
        for point in here:
            if point.untouched:
                _draw_untouched(axes, point)
        _name_axes(axes, dataset, sorted({point.size for point in here}))
    _add_legend(figure)
    return figure


def _draw_model(axes: Axes, name: str, points: Sequence[Point], colour: str, line: str) -> None:
    """Draw every point but the untouched one by its precision, and a line through the best for so many bytes."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.size, -point.value)):
        if not front or point.value > front[-1].value:
            front.append(point)
    sizes, values = [point.size for point in front], [point.value for point in front]
    if any(not point.untouched for point in points):
        axes.plot(sizes, values, color=colour, linestyle=line, linewidth=1.4, label=name)
    for point in points:
        if not point.untouched:
            axes.plot([point.size], [point.value], color=colour, marker=MARKERS[point.precision], markersize=6)


def _draw_untouched(axes: Axes, point: Point) -> None:
    axes.axhline(point.value, color=GREY, linestyle=":", linewidth=1.2)
    label = f"{point.model} (untouched)"
    axes.plot([point.size], [point.value], color=GREY, marker="*", markersize=13, linestyle=":", label=label)


def _name_axes(axes: Axes, dataset: str, sizes: Sequence[int]) -> None:
    """Name the axes, and put a tick at each size."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
    axes.tick_params(axis="x", rotation=45)
    axes.set(title=dataset, xlabel="bytes per document vector (log scale)", ylabel=METRIC)
    axes.grid(alpha=0.3)


def _add_legend(figure: Figure) -> None:
    """Name each line once, and each marker's precision, below the panels."""
    named: dict[str, Artist] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
    for precision, marker in MARKERS.items():
        named[precision] = Line2D([], [], color="black", marker=marker, linestyle="")
    figure.legend(list(named.values()), list(named), loc="outside lower center", ncols=3, fontsize="small")
