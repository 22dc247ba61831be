"""Figures as pictures inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ragcun.errors import InputError

DPI = 144
CSS_PIXELS_PER_INCH = 96
READABLE = 0.8
"""A picture may shrink to this share of its size; where the window is narrower, it scrolls."""


@dataclass(frozen=True)
class Picture:
    """A figure in the page.

    Attributes:
        uri: the PNG, as a ``data:`` URI.
        width: in CSS pixels; at this size letters are as large as the figure says.
        height: likewise.
        alt: what it shows, for those who do not see it.
        caption: what is written below it.
    """

    uri: str
    width: int
    height: int
    alt: str
    caption: str

    @property
    def least_width(self) -> int:
        """The width, in CSS pixels, below which its letters could not be read."""
        return round(READABLE * self.width)


@dataclass(frozen=True)
class Missing:
    """A figure that could not be drawn, and why."""

    reason: str


def picture(figure: Figure, alt: str, caption: str) -> Picture:
    """Draw a figure as a PNG; the same figure gives the same bytes."""
    figure.set_dpi(DPI)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    uri = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    width, height = (round(CSS_PIXELS_PER_INCH * inches) for inches in figure.get_size_inches())
    return Picture(uri, width, height, alt, caption)


def picture_if_any(draw: Callable[[], Figure], alt: str, caption: str) -> Picture | Missing:
    """Draw what `draw` returns; where it has no data for it (an `InputError`), keep its reason instead."""
    try:
        return picture(draw(), alt, caption)
    except InputError as error:
        return Missing(str(error))
