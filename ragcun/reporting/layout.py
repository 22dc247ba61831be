"""A comparison as Markdown and as CSV, and the notes that say how to read it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

from ragcun.reporting.comparison import LEVELS, Cell, Comparison
from ragcun.reporting.tables import ABSENT, markdown_table

BETTER, WORSE = "↑", "↓"
FORMULA = ("=", "+", "-", "@")
CSV_HEADER = ("system", "kind", "metric", "dataset", "queries", "value", "sd", "seeds", "p", "marks")


def number_text(cell: Cell) -> str:
    """Write a cell's value with four decimals."""
    return f"{cell.value:.4f}"


def spread_text(cell: Cell) -> str:
    """Write ± and the standard deviation, or nothing."""
    return "" if cell.sd is None else f"± {cell.sd:.4f}"


def marks_text(cell: Cell) -> str:
    """Write a cell's marks, or nothing.

    >>> marks_text(Cell(0.5, marks=-2))
    '↓↓'
    """
    return (BETTER if cell.marks > 0 else WORSE) * abs(cell.marks)


def markdown_comparison(comparison: Comparison) -> str:
    """Lay out a comparison as a Markdown table, the best value of a column in bold, and its notes."""
    header = [name if count is None else f"{name} ({count:,} queries)" for name, count in comparison.columns]
    rows = [[row.title, *map(_markdown_cell, comparison.cells(row))] for row in comparison.rows]
    notes = "".join(f"- {' '.join(note.split())}\n" for note in notes_of(comparison))
    return f"{markdown_table(['system', *header], rows)}\n{notes}"


def csv_comparison(comparisons: Sequence[Comparison]) -> str:
    """Lay out comparisons as CSV: a line for each system, metric and dataset, values in full precision.

    ``marks`` is 1 or 2 where the model is better than its untouched base, −1 or −2 where it is worse. A name that a
    spreadsheet would take for a formula gets a leading apostrophe.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_HEADER)
    for comparison in comparisons:
        for row in comparison.rows:
            for (name, count), cell in zip(comparison.columns, comparison.cells(row), strict=True):
                if cell is not None:
                    figures = (count, cell.value, cell.sd, cell.seeds, cell.p, cell.marks)
                    writer.writerow([_plain(row.title), row.kind, comparison.metric, _plain(name), *figures])
    return text.getvalue()


def notes_of(comparison: Comparison) -> list[str]:
    """Say in sentences what the table shows, over which queries, and what its marks mean."""
    counted = ", ".join(f"{name} {count:,}" for name, count in comparison.queries.items())
    notes = [f"{comparison.metric}, best of a column in bold. Queries: {counted}."]
    return [
        *notes,
        *_average_note(comparison),
        *_mark_notes(comparison),
        *_seed_note(comparison),
        *_seen_note(comparison),
    ]


def _markdown_cell(cell: Cell | None) -> str:
    if cell is None:
        return ABSENT
    marks = marks_text(cell)
    text = " ".join(filter(None, (number_text(cell), spread_text(cell), f"({marks})" if marks else "")))
    return f"**{text}**" if cell.best else text


def _plain(name: str) -> str:
    """Keep a spreadsheet from taking a name for a formula."""
    name = " ".join(name.split())
    return f"'{name}" if name.startswith(FORMULA) else name


def _average_note(comparison: Comparison) -> Iterator[str]:
    every, shared = len(comparison.queries), comparison.averaged
    if comparison.has_average:
        which = f"{', '.join(shared)} ({len(shared)} of {every})"
        yield f"Average over the datasets that all rows have, each of equal weight: {which}."
    elif every > 1:
        yield f"No average: all rows share {f'only {shared[0]}' if shared else 'no dataset'}."
    if any(name not in row.cells for row in comparison.rows for name in comparison.queries):
        yield f"{ABSENT}: not evaluated."


def _mark_notes(comparison: Comparison) -> Iterator[str]:
    models = [row for row in comparison.rows if row.kind == "model"]
    if not models:
        return
    one, two = LEVELS
    yield (
        f"{BETTER} better, {WORSE} worse than the model's own untouched base at p < {one}; {BETTER * 2}, {WORSE * 2} "
        f"at p < {two}: two-sided paired randomisation test over queries, not corrected for the number of tests."
    )
    if len({row.base for row in models}) > 1:
        yield f"Tested against: {'; '.join(f'{row.title} against {row.base}' for row in models)}."
    untested = [f"{row.title} on {name}" for row in models for name, cell in row.cells.items() if cell.p is None]
    if untested:
        yield f"Not tested: {', '.join(untested)}."


def _seed_note(comparison: Comparison) -> Iterator[str]:
    counts = []
    for row in comparison.rows:
        seeds = {name: cell.seeds for name, cell in row.cells.items()}
        if len(set(seeds.values())) > 1:
            counts.append(f"{row.title} {', '.join(f'{count} on {name}' for name, count in seeds.items())}")
        elif max(seeds.values(), default=1) > 1:
            counts.append(f"{row.title} {max(seeds.values())}")
    if counts:
        yield (
            f"Mean ± sample standard deviation over seeds ({'; '.join(counts)}); marked where every seed by itself is "
            "significant in that direction."
        )


def _seen_note(comparison: Comparison) -> Iterator[str]:
    """Say where a model had documents among its training positives that answer the queries."""
    parts = [
        f"{row.title} on {name} {cell.seen:,} of {comparison.queries[name]:,}"
        for row in comparison.rows
        for name, cell in row.cells.items()
        if cell.seen
    ]
    if parts:
        yield f"Queries with a relevant document that was a training positive: {'; '.join(parts)}."
