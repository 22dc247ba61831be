"""A comparison as a LaTeX table of the booktabs package."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ragcun.errors import InputError
from ragcun.reporting.comparison import Cell, Comparison, Row
from ragcun.reporting.layout import marks_text, notes_of, number_text, spread_text
from ragcun.reporting.tables import ABSENT

LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9:._-]*")
SPECIAL = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "{}$&#%_"},
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",
    "*": "{*}",
    "–": "--",
    "±": r"$\pm$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
}


def escape(text: str) -> str:
    r"""Write text so that LaTeX prints it as it is; white space becomes one blank.

    >>> print(escape("50 % of a_b"))
    50 \% of a\_b
    """
    return "".join(SPECIAL.get(character, character) for character in " ".join(text.split()))


def latex_table(comparison: Comparison, caption: str | None = None, label: str = "tab:results") -> str:
    r"""Lay out a comparison as a complete ``table`` environment; the preamble needs ``\usepackage{booktabs}``.

    A dataset takes two columns, so that numbers stand under each other: value, then deviation and marks. A rule
    parts untouched bases and baselines from models; the notes stand under the table.

    Args:
        comparison: what to lay out.
        caption: plain text; None names the metric.
        label: of the table, for ``\ref``.

    Raises:
        InputError: the label has characters that a label cannot have.
    """
    if not LABEL.fullmatch(label):
        raise InputError(f"--label {label!r}: a label is made of letters, digits and :._-; give another one")
    lines = [
        "\\begin{table}[t]",
        "\\centering",
        f"\\caption{{{escape(caption or f'{comparison.metric} on each dataset.')}}}",
        f"\\label{{{label}}}",
        *_tabular(comparison),
        "\\par\\smallskip",
        "\\begin{minipage}{\\linewidth}",
        "\\footnotesize",
        *map(escape, notes_of(comparison)),
        "\\end{minipage}",
        "\\end{table}",
    ]
    return "".join(f"{line}\n" for line in lines)


def _tabular(comparison: Comparison) -> list[str]:
    counts = ["" if count is None else f"{count:,} queries" for _, count in comparison.columns]
    models = [_row(row, comparison) for row in comparison.rows if row.kind == "model"]
    return [
        f"\\begin{{tabular}}{{l{'r@{}l' * len(counts)}}}",
        "\\toprule",
        _line(["system", *(_spanning(name) for name, _ in comparison.columns)]),
        _line(["", *map(_spanning, counts)]),
        "\\midrule",
        *(_row(row, comparison) for row in comparison.rows if row.kind != "model"),
        *(["\\midrule", *models] if models else []),
        "\\bottomrule",
        "\\end{tabular}",
    ]


def _row(row: Row, comparison: Comparison) -> str:
    return _line([escape(row.title), *(part for cell in comparison.cells(row) for part in _parts(cell))])


def _parts(cell: Cell | None) -> tuple[str, str]:
    """Return a cell's value, and what stands to its right."""
    if cell is None:
        return escape(ABSENT), ""
    value = f"\\textbf{{{number_text(cell)}}}" if cell.best else number_text(cell)
    spread = "" if cell.sd is None else f"\\,{escape(spread_text(cell))}"
    marks = f"$^{{{escape(marks_text(cell)).replace('$', '')}}}$" if cell.marks else ""
    return value, spread + marks


def _spanning(text: str) -> str:
    return f"\\multicolumn{{2}}{{c}}{{{escape(text)}}}"


def _line(cells: Sequence[str]) -> str:
    return f"{' & '.join(cells)} \\\\"
