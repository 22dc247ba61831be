"""The outline of a distribution of an isotropy.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

WIDTH = 1.6
CONSTANT = 1e-4
"""Values whose range is below this share of their mean are drawn as one line: bins would show rounding."""


def draw_histogram(axes: Axes, values: Mapping[str, Any], label: str, colour: str, line: str) -> None:
    """Draw a distribution's outline as density, or one upright line where all values are the same.

    Neighbouring bins are joined until there are at most 2∛n of them (the Rice rule), as few values in many bins show
    noise.

    Args:
        axes: where to draw.
        values: ``edges`` and ``counts`` of the bins, ``mean``, ``min`` and ``max``.
        label: its name in the legend.
        colour: of the line.
        line: its style.
    """
    if values["max"] - values["min"] <= CONSTANT * abs(values["mean"]):
        axes.axvline(values["mean"], color=colour, linestyle=line, linewidth=WIDTH, label=label)
        return
    counts, edges = np.asarray(values["counts"], dtype=np.float64), np.asarray(values["edges"], dtype=np.float64)
    n, bins = counts.sum(), len(counts)
    joined = next(each for each in range(1, bins + 1) if bins % each == 0 and bins / each <= max(1, 2 * n ** (1 / 3)))
    counts, edges = counts.reshape(-1, joined).sum(1), edges[::joined]
    axes.stairs(counts / (n * np.diff(edges)), edges, color=colour, linestyle=line, linewidth=WIDTH, label=label)


def frame_constants(axes: Axes) -> None:
    """Give a panel that holds upright lines alone a scale around them, and say what they are."""
    if axes.patches or not axes.lines:
        return
    places = [float(np.asarray(line.get_xdata())[0]) for line in axes.lines]
    room = 0.1 * max(map(abs, places)) or 1.0
    axes.set(xlim=(min(places) - room, max(places) + room), yticks=[], ylabel="no spread (all values are equal)")
