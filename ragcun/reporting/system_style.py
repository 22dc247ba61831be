"""How a system looks in every figure that compares systems: its place, name, colour, line and marker."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ragcun.errors import InputError
from ragcun.reporting.plots import GREY, panel_grid
from ragcun.reporting.size_plot import COLOURS

Dashes = tuple[int, tuple[int, ...]]
LINES: tuple[str | Dashes, ...] = ("--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (9, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
BASE_MARKER = "*"
MOST = math.lcm(len(COLOURS), len(LINES))
"""Systems that differ from each other in colour or line; each differs from the next in both."""
LONGEST = 39
COLUMN_CHARACTERS, LEGEND_LINE = 90, 0.19
"""Characters that fit beside each other in a legend, and the inches that one of its lines takes."""
PRINTED_WIDTH = 6.8
"""Inches between the margins of an A4 page: figures are not shrunk in print, and their letters keep their size."""
DPI = 200


@dataclass(frozen=True)
class Look:
    """What a system is called and how it is drawn; the untouched base is a solid grey line and a star."""

    name: str
    colour: str
    line: str | Dashes
    marker: str
    untouched: bool


def looks(names: Sequence[str], untouched: Sequence[bool]) -> list[Look]:
    """Give each system its look, in the order given.

    Args:
        names: names of the systems; a long one is shown by its end, which tells checkpoint folders apart.
        untouched: which of them are bases as published.

    Raises:
        InputError: there are no systems, or more than can be told apart.
    """
    if not 1 <= len(names) <= MOST:
        raise InputError(f"{len(names)} systems to draw; give 1 to {MOST}")
    short = [_shortened(name) for name in names]
    shown = short if len(set(short)) == len(set(names)) else list(names)
    found, place = [], 0
    for name, base in zip(shown, untouched, strict=True):
        title = name.replace("$", r"\$")
        if base:
            found.append(Look(f"{title} (untouched)", GREY, "-", BASE_MARKER, True))
            continue
        colour, line, marker = (each[place % len(each)] for each in (COLOURS, LINES, MARKERS))
        found.append(Look(title, str(colour), line, str(marker), False))
        place += 1
    return found


def _shortened(name: str) -> str:
    """Leave out the first folders of a long path; where that leaves little, or too much, the first letters."""
    if len(name) <= LONGEST:
        return name
    end = name[1 - LONGEST :]
    whole_parts = end[end.find("/") :] if "/" in end else end
    return f"…{whole_parts if len(whole_parts) > LONGEST // 2 else end}"


def with_looks(systems: Sequence[Mapping[str, Any]]) -> list[tuple[Look, Mapping[str, Any]]]:
    """Return the systems of an ``isotropy.json``, untouched bases first, each with its look.

    Raises:
        InputError: as of `looks`.
    """
    ordered = sorted(systems, key=lambda system: not system["untouched"])
    found = looks([str(system["model"]) for system in ordered], [bool(system["untouched"]) for system in ordered])
    return list(zip(found, ordered, strict=True))


def printed_grid(panels: int, height: float = 2.9) -> tuple[Figure, list[Axes]]:
    """Return a figure of a page's width (one panel: nine tenths of it) and its panels, two in a row."""
    width = PRINTED_WIDTH / 2 if panels > 1 else 0.9 * PRINTED_WIDTH
    figure, grid = panel_grid(panels, (width, height), columns=2)
    figure.set_dpi(DPI)
    for axes in grid:
        axes.grid(alpha=0.3)
        axes.tick_params(labelsize=9)
        axes.xaxis.label.set_fontsize(9.5)
        axes.yaxis.label.set_fontsize(9.5)
    return figure, grid


def legend_below(figure: Figure) -> None:
    """Name each kind of line once below the panels, and make the figure higher by as much as that takes."""
    named: dict[str, Artist] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    columns = max(1, min(len(named), COLUMN_CHARACTERS // (8 + max(map(len, named), default=1))))
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + LEGEND_LINE * (math.ceil(len(named) / columns) + 1))
    figure.legend(list(named.values()), list(named), loc="outside lower center", ncols=columns, fontsize=9)
