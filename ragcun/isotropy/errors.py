"""The exception that means: the formula has no value here."""

from __future__ import annotations


class UndefinedMeasure(ValueError):  # noqa: N818 - a property of the data, not a mistake
    """A measure that has no value for this matrix, as a ratio of 0 to 0; a report holds null in its place."""
