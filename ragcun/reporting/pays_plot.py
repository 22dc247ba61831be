"""Does isotropy pay? NDCG@10 against a measure of isotropy, over several evaluations."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ragcun.reporting.pays_points import PAIRS, Point, read_points
from ragcun.reporting.plots import GREY, write_png
from ragcun.reporting.system_style import Look, legend_below, looks, printed_grid
from ragcun.reporting.tables import METRIC

LEAST = 4
"""Fewer points have no rank correlation worth a number."""
WIDE = 100.0
"""Positive values further apart than this factor get a log axis."""
AXIS_NAMES = {
    "isotropy_score": "isotropy score (at most 1)",
    "isoscore": "IsoScore (0 to 1)",
    "participation_ratio": "participation ratio (dimensions)",
    "effective_rank": "effective rank (dimensions)",
    "rankme": "RankMe (dimensions)",
    "stable_rank": "stable rank (dimensions)",
    "condition_number": "condition number (ratio of eigenvalues)",
    "partition": "partition isotropy (0 to 1)",
    "mean_cosine": "mean cosine of two rows (−1 to 1)",
    "uniformity": "uniformity (log; lower: more uniform)",
    "alpha_req": "exponent of the eigenvalues' decay",
    "sigreg": "SIGReg statistic (0: isotropic Gaussian)",
    "hubness_skewness": "hubness (skewness of k-occurrence)",
    "robin_hood": "hubness (Robin Hood index, 0 to 1)",
    "antihub_share": "share of antihubs (0 to 1)",
    "gap": "gap between means (Euclidean distance)",
    "relative_gap": "gap between means (share of variance)",
    "alignment": "alignment (mean squared distance)",
}


def plot_isotropy_against_ndcg(
    results: Sequence[str | Path],
    isotropy: Sequence[str | Path],
    output: str | Path,
    measure: str = "isoscore",
    space: str = "documents",
) -> None:
    """Draw NDCG@10 against a measure of isotropy as a PNG, as `pays_figure` describes.

    Args:
        results: results files of ``evaluate_beir.py``.
        isotropy: files ``isotropy.json``.
        output: the PNG to write; it is complete or absent.
        measure: name of the measure in the reports.
        space: ``documents``, ``queries`` or ``together``, or ``pairs`` for a measure of queries and their documents.

    Raises:
        InputError: as of `read_points`, or there are more systems than can be told apart.
    """
    name = AXIS_NAMES.get(measure, measure)
    points = read_points(results, isotropy, measure, space)
    write_png(pays_figure(points, name if space == PAIRS else f"{name}, {space}"), output)


def pays_figure(points: Sequence[Point], axis: str) -> Figure:
    """Draw a panel for each dataset and in it a point for each system, with the measure's 95 % interval.

    The untouched base is a grey star on dashed lines. From four systems on, a panel's title has Spearman's rank
    correlation ρ of measure and NDCG@10, with the number of systems.

    Args:
        points: what to draw.
        axis: name of the measure, with its unit or range.

    Raises:
        InputError: there are no points, or more systems than can be told apart.
    """
    untouched = {point.measured.model: False for point in points}
    for point in points:
        untouched[point.measured.model] |= point.untouched
    names = sorted(untouched, key=lambda name: not untouched[name])
    look = dict(zip(names, looks(names, [untouched[name] for name in names]), strict=True))
    datasets = list(dict.fromkeys(point.dataset for point in points))
    figure, grid = printed_grid(len(datasets), 3.0)
    for axes, dataset in zip(grid, datasets, strict=True):
        here = [point for point in points if point.dataset == dataset]
        for name in names:
            for point in here:
                if point.measured.model == name:
                    _draw(axes, point, look[name])
        axes.set_title(textwrap.fill(f"{dataset}: {_correlation(here)}", 40), fontsize=9)
        _name_axes(axes, here, axis)
    legend_below(figure)
    return figure


def _draw(axes: Axes, point: Point, look: Look) -> None:
    x, low, high = point.measured.value, point.measured.low, point.measured.high
    if look.untouched:
        axes.axhline(point.ndcg, color=GREY, linestyle="--", linewidth=1.2, zorder=1)
        axes.axvline(x, color=GREY, linestyle="--", linewidth=1.2, zorder=1)
    if low is not None and high is not None:
        axes.plot([low, high], [point.ndcg] * 2, color=look.colour, linewidth=1.2, zorder=2)
    size = 13 if look.untouched else 7.5
    axes.plot([x], [point.ndcg], look.marker, color=look.colour, markersize=size, label=look.name, zorder=3)


def _correlation(points: Sequence[Point]) -> str:
    """Say Spearman's ρ and how many systems it is of; there is none where all are equal on one side."""
    if len(points) < LEAST:
        return f"n = {len(points)}"
    measures, scores = [point.measured.value for point in points], [point.ndcg for point in points]
    if len(set(measures)) == 1 or len(set(scores)) == 1:
        return f"no rank correlation, as all are equal, n = {len(points)}"
    from scipy.stats import spearmanr

    rho = f"{spearmanr(measures, scores).statistic:+.2f}".replace("-", "−")
    return f"Spearman's ρ = {rho}, n = {len(points)}"


def _name_axes(axes: Axes, points: Sequence[Point], name: str) -> None:
    values = [point.measured.value for point in points]
    wide = min(values) > 0 and max(values) / min(values) > WIDE
    if wide:
        axes.set_xscale("log")
    axes.set_xlabel(textwrap.fill(f"{name} (log scale)" if wide else name, 38))
    axes.set_ylabel(METRIC)
