"""NDCG@10 against what it costs or may come from: bytes of a stored vector, and isotropy."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from ragcun.errors import InputError, did_you_mean
from ragcun.isotropy.report import IsotropyReport
from ragcun.reporting.isotropy import LABELS
from ragcun.reporting.plots import GREY, Look, finish, looks, panel_grid
from ragcun.reporting.tables import check_alike, once, results_frame
from ragcun.results import METRIC, Results

logger = logging.getLogger(__name__)

MARKERS = {"float32": "o", "int8": "s", "binary": "^"}
PAIRS = "pairs"
MEASURED = ["model", "system", "dataset", "value", "low", "high", "untouched", "path"]
LEAST, WIDE = 4, 100.0  # points a rank correlation needs; factor between values from which their axis is logarithmic


def _scores(paths: Sequence[str | Path]) -> pd.DataFrame:
    files = list(map(Results.read, paths))
    check_alike(files)
    frame = pd.concat([results_frame(file).assign(path=str(file.path)) for file in files], ignore_index=True)
    frame = frame[frame["part"] == ""].dropna(subset=METRIC)
    names, untouched = frame["name"], frame["kind"] == "base"
    return frame.assign(model=names.map(_identity), system=names, ndcg=frame[METRIC], untouched=untouched)


def _identity(model: str) -> str:
    return str(Path(model).resolve()) if Path(model).exists() else model


def _looks(points: pd.DataFrame) -> dict[str, Look]:
    untouched = points.groupby("system", sort=False)["untouched"].any().sort_values(ascending=False, kind="stable")
    return dict(zip(untouched.index, looks(list(untouched.index), list(untouched)), strict=True))


def size_points(results: Sequence[str | Path]) -> pd.DataFrame:
    """Return system, dataset, precision, truncate_dim, size (bytes), ndcg, untouched of all systems with vectors."""
    points = _scores(results)
    sized = points["size"].notna()
    for point in points[~sized & (points["kind"] != "baseline")].itertuples():
        raise InputError(f"{point.path} lacks the size of the vectors of {point.system}; evaluate again")
    points = points[sized].sort_values("untouched", ascending=False, kind="stable", ignore_index=True)
    for point in points[~points["precision"].isin(list(MARKERS))].itertuples():
        known = ", ".join(MARKERS)
        raise InputError(f"{point.path}: precision {point.precision!r} of {point.system} is none of {known}")
    return once(points, ["system", "dataset", "precision", "truncate_dim"], "ndcg", METRIC)


def size_figure(points: pd.DataFrame) -> Figure:
    """Draw NDCG@10 against bytes per vector (log axis): a panel per dataset, a line for each model's best points."""
    look = _looks(points)
    figure, grid = panel_grid(points["dataset"].nunique(), 3.4)
    for axes, (dataset, here) in zip(grid, points.groupby("dataset", sort=False), strict=True):
        for name, found in here.groupby("system", sort=False):
            _draw_model(axes, str(name), found, look[str(name)])
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(sorted(here["size"].unique())))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
        axes.tick_params(axis="x", rotation=45)
        axes.set(title=dataset, xlabel="bytes per document vector (log scale)", ylabel=METRIC)
    for precision, marker in MARKERS.items():
        grid[-1].plot([], [], color="black", marker=marker, linestyle="", label=precision)
    return finish(figure)


def _draw_model(axes: Axes, name: str, points: pd.DataFrame, look: Look) -> None:
    ordered = points.sort_values(["size", "ndcg"], ascending=[True, False])
    front = ordered[ordered["ndcg"] > ordered["ndcg"].cummax().shift(fill_value=-1)]
    made = points[~points["untouched"]]
    if len(made):
        label = name.replace("$", r"\$") if look.untouched else look.name
        axes.plot(front["size"], front["ndcg"], color=look.colour, linestyle=look.line, linewidth=1.4, label=label)
    for point in made.itertuples():
        axes.plot([point.size], [point.ndcg], color=look.colour, marker=MARKERS[point.precision], markersize=6)
    for point in points[points["untouched"]].itertuples():
        axes.axhline(point.ndcg, color=GREY, linestyle=":", linewidth=1.2)
        axes.plot([point.size], [point.ndcg], "*:", color=GREY, markersize=13, label=look.name)


def isotropy_points(
    results: Sequence[str | Path], isotropy: Sequence[str | Path], measure: str, space: str
) -> pd.DataFrame:
    """Join results and isotropy reports: system, dataset, value, low, high (95 % interval), ndcg and untouched.

    `space` is documents, queries, together or pairs. Only float32 vectors of full length are joined, as reports measure
    those; models are compared by their resolved paths. InputError says what each side has where nothing is in both.
    """
    keys, scores = ["model", "dataset"], _scores(results)
    whole = scores["truncate_dim"].isna() & (scores["precision"].isna() | (scores["precision"] == "float32"))
    scores = once(scores[whole], keys, "ndcg", METRIC)
    measured = once(_measures(isotropy, measure, space), keys, "value", f"{measure} of {space}")
    both = measured.merge(scores[[*keys, "ndcg"]], on=keys)
    if both.empty:
        raise InputError(
            f"no system has both {METRIC} and {measure} of {space}: the results are of {_listed(scores)}, the isotropy "
            f"reports of {_listed(measured)}; give files of the same models and datasets"
        )
    apart = pd.concat([measured[MEASURED[:3]], scores[MEASURED[:3]]]).drop_duplicates(keys, keep=False)
    if len(apart):
        logger.info("not plotted, as only the results or only the reports have it: %s", _listed(apart))
    bases = scores.loc[scores["untouched"], "model"]
    return both.assign(untouched=both["untouched"].astype(bool) | both["model"].isin(bases))


def isotropy_ndcg_figure(points: pd.DataFrame, measure: str, space: str) -> Figure:
    """Draw a point for each system, with the measure's 95 % interval, in a panel per dataset; the base is a star."""
    name = "{title} ({unit})".format(**LABELS[measure]) if measure in LABELS else measure
    axis = name if space == PAIRS else f"{name}, {space}"
    look = _looks(points)
    figure, grid = panel_grid(points["dataset"].nunique(), 3.0)
    for axes, (dataset, here) in zip(grid, points.groupby("dataset", sort=False), strict=True):
        for name in look:
            for point in here[here["system"] == name].itertuples():
                _draw_point(axes, point, look[name])
        wide = here["value"].min() > 0 and here["value"].max() / here["value"].min() > WIDE
        axes.set_xscale("log" if wide else "linear")
        axes.set(title=f"{dataset}: {_correlation(here)}", ylabel=METRIC)
        axes.set_xlabel(textwrap.fill(f"{axis} (log scale)" if wide else axis, 38))
    return finish(figure)


def _draw_point(axes: Axes, point: Any, look: Look) -> None:
    if look.untouched:
        axes.axhline(point.ndcg, color=GREY, linestyle="--", linewidth=1.2, zorder=1)
        axes.axvline(point.value, color=GREY, linestyle="--", linewidth=1.2, zorder=1)
    if not pd.isna(point.low) and not pd.isna(point.high):
        axes.plot([point.low, point.high], [point.ndcg] * 2, color=look.colour, linewidth=1.2, zorder=2)
    size = 13 if look.untouched else 7.5
    axes.plot([point.value], [point.ndcg], look.marker, color=look.colour, markersize=size, label=look.name, zorder=3)


def _correlation(points: pd.DataFrame) -> str:
    if len(points) < LEAST:
        return f"n = {len(points)}"
    rho = points["value"].rank().corr(points["ndcg"].rank())
    correlation = "no rank correlation, as all are equal" if pd.isna(rho) else f"Spearman's ρ = {rho:+.2f}"
    return f"{correlation}, n = {len(points)}".replace("-", "−")


def _measures(paths: Sequence[str | Path], measure: str, space: str) -> pd.DataFrame:
    names: set[str] = set()
    rows = []
    for path in paths:
        report = IsotropyReport.read(path)
        for system in report.systems:
            measured = system.pairs if space == PAIRS else system.spaces.get(space)
            measures = measured.measures if measured is not None else {}
            names |= measures.keys()
            if (entry := measures.get(measure)) is not None and entry.value is not None:
                value = (entry.value, entry.low, entry.high, system.untouched, str(path))
                rows.append((_identity(system.model), system.model, report.name, *value))
    if not names:
        raise InputError(f"no system in {', '.join(map(str, paths))} has measures of {space}; measure with queries")
    if measure not in names:
        hint = did_you_mean(measure, sorted(names)).rstrip() or f"possible are {', '.join(sorted(names))}"
        raise InputError(f"unknown measure {measure!r} of {space}; {hint}")
    return pd.DataFrame(rows, columns=MEASURED)


def _listed(points: pd.DataFrame) -> str:
    return ", ".join(f"{point.model} on {point.dataset}" for point in points.itertuples()) or "nothing"
