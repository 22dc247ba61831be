"""What the templates lay out: tables of cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ragcun.reporting.tables import ABSENT


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: what it says.
        strong: whether it is set in bold, as the best of its column.
        small: what stands below it in small letters.
    """

    text: str
    strong: bool = False
    small: str = ""


@dataclass(frozen=True)
class Table:
    """A table; the first column names the rows.

    Attributes:
        caption: what it shows.
        header: a title for each column.
        rows: cells of each row, the first being the row's name.
        numeric: whether all columns but the first hold numbers, which are aligned to the right.

    Raises:
        ValueError: a row has another number of cells than the header.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    numeric: bool = True

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows, start=1):
            if len(row) != len(self.header):
                raise ValueError(f"row {number} has {len(row)} cells, the header {len(self.header)}")


def best_of(texts: Sequence[str]) -> list[Cell]:
    """Return cells of Markdown texts, of which those in bold stay so."""
    return [Cell(text.strip("*"), text.startswith("**")) for text in texts]


def shown(value: object) -> str:
    """Write a value of a configuration or manifest for a reader.

    >>> [shown(value) for value in (None, True, 0.123456, [1, 2], "a", 12000)]
    ['–', 'yes', '0.1235', '1, 2', 'a', '12000']
    """
    if value is None:
        return ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(shown, value)) or ABSENT
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)
