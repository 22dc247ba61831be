"""Markdown tables of one evaluation, and what all tables of results share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ragcun.results import METRIC, PARTS, Part, Results, SystemScores

ABSENT = "–"
NUMBER = re.compile(r"[<+\-−]?\d[\d.,]*(e[+-]?\d+)?%?( ± [\d.]+)?( \(.*\))?")
DIFFERENCE = "Δ vs base (p)"


@dataclass(frozen=True)
class Table:
    """A table: its caption, a title for each column, and rows, whose first cell names the row."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out a Markdown table; columns of numbers (bold or not, or absent) are aligned to the right.

    >>> print(markdown_table(["system", "NDCG@10"], [["base", "0.64"], ["model", "**0.66**"]]), end="")
    | system |  NDCG@10 |
    | :----- | -------: |
    | base   |     0.64 |
    | model  | **0.66** |

    Raises:
        ValueError: a row has another number of cells than the header.
    """
    cells = [[" ".join(cell.replace("|", "\\|").split()) for cell in row] for row in (header, *rows)]
    for number, row in enumerate(cells):
        if len(row) != len(header):
            raise ValueError(f"row {number} has {len(row)} cells, the header {len(header)}")
    columns = []
    for title, *values in zip(*cells, strict=True):
        width, right = max(3, *map(len, (title, *values))), _is_numeric(values)
        rule = "-" * (width - 1) + ":" if right else ":" + "-" * (width - 1)
        columns.append([cell.rjust(width) if right else cell.ljust(width) for cell in (title, rule, *values)])
    return "".join(f"| {' | '.join(row)} |\n" for row in zip(*columns, strict=True))


def results_table(results: Results) -> str:
    """Lay out NDCG@10 of an evaluation as Markdown tables, the best value bold, equals at four decimals alike.

    The first has a row for the untouched base, each baseline and the model, and a column for each dataset, their mean
    and the model's difference from the untouched base with the p value of the randomisation test; bytes per vector
    where they differ. Further tables follow where there is something to show: queries with and without a relevant
    document among the training positives, documents hidden from training, and the parts of sets such as CQADupStack.
    """
    names = results.datasets
    sides = [(name, part) for name in names for part in PARTS[:2] if _has(results, name, *PARTS[:2])]
    hidden = [(name, PARTS[2]) for name in results.model.datasets if _has(results, name, PARTS[2])]
    parts = [name for name, facts in results.collections.items() if facts.part_of is not None]
    documents = [results.model.datasets[name].held_out for name, _ in hidden]
    tables = [
        _system_table(results, names),
        _place_table(results, sides, {"relevant documents": [f"{name}, {part}" for name, part in sides]}),
        _place_table(results, [(name, None) for name in parts], {"part": parts}),
        _place_table(
            results,
            hidden,
            {
                "hidden documents": [name for name, _ in hidden],
                "documents": [f"{found.n_documents:,}" for found in documents if found is not None],
            },
        ),
    ]
    return "\n".join(filter(None, tables))


def value_of(system: SystemScores, dataset: str, part: Part | None = None, metric: str = METRIC) -> float | None:
    """Return a system's metric on a dataset or on a part of it; None where there is none."""
    scores = system.datasets.get(dataset)
    found = scores and scores.part(part)
    return found.metrics.get(metric) if found else None


def n_queries(results: Results, dataset: str, part: Part | None = None) -> int:
    """Return the number of judged queries of a dataset or of a part of it."""
    for _, system in reversed(results.systems):
        scores = dataset in system.datasets and system.datasets[dataset].part(part)
        if scores and scores.n_queries is not None:
            return scores.n_queries
    return results.collections[dataset].queries


def difference_of(results: Results, system: SystemScores, dataset: str, part: Part | None = None) -> str:
    """Write the model's NDCG@10 minus another system's, and its p value where it was tested."""
    ours, theirs = value_of(results.model, dataset, part), value_of(system, dataset, part)
    scores = system.datasets[dataset].part(part) if theirs is not None else None
    if ours is None or theirs is None or scores is None:
        return ABSENT
    p = scores.p_randomisation
    return f"{ours - theirs:+.4f}{'' if p is None else f' ({p_text(p)})'}"


def p_text(p: float) -> str:
    """Write a p value with four decimals, or that it is smaller.

    >>> p_text(0.03125), p_text(0.00001)
    ('0.0312', '<0.0001')
    """
    return "<0.0001" if p < 0.0001 else f"{p:.4f}"


def best_of(values: Sequence[float | None]) -> list[bool]:
    """Tell which values are the highest, equals at four decimals alike."""
    rounded = [None if value is None else f"{value:.4f}" for value in values]
    best = max((value for value in values if value is not None), default=None)
    return [best is not None and text == f"{best:.4f}" for text in rounded]


def with_best_bold(values: Sequence[float | None]) -> list[str]:
    """Write values with four decimals, the best in bold."""
    texts = [ABSENT if value is None else f"{value:.4f}" for value in values]
    return [f"**{text}**" if best else text for text, best in zip(texts, best_of(values), strict=True)]


def sizes_of(results: Results) -> list[str] | None:
    """Write the bytes that each system's stored vector takes; None where all take the same."""
    sizes = [system.bytes_per_vector for _, system in results.systems]
    if len({size for size in sizes if size is not None}) < 2:
        return None
    return [ABSENT if size is None else f"{size:,}" for size in sizes]


def _has(results: Results, dataset: str, *parts: Part) -> bool:
    return all(results.model.datasets[dataset].part(part) for part in parts)


def _system_table(results: Results, names: Sequence[str]) -> str:
    """Lay out systems by datasets."""
    titles, systems = zip(*results.systems, strict=True)
    columns: list[tuple[str, Sequence[str]]] = [("system", titles)]
    if (sizes := sizes_of(results)) is not None:
        columns.append(("bytes per vector", sizes))
    columns += [(name, with_best_bold([value_of(system, name) for system in systems])) for name in names]
    columns.append((f"mean {METRIC}", with_best_bold([system.average[METRIC] for system in systems])))
    if (base := results.untouched_base) is not None:
        others = [ABSENT] * (len(systems) - 1)
        columns += [(f"{name} {DIFFERENCE}", [*others, difference_of(results, base, name)]) for name in names]
    header, texts = zip(*columns, strict=True)
    return markdown_table(header, zip(*texts, strict=True))


def _place_table(results: Results, places: Sequence[tuple[str, Part | None]], about: dict[str, Sequence[str]]) -> str:
    """Lay out datasets or parts of them by systems, after columns that say what they are; empty without any."""
    base = results.untouched_base
    header = [*about, "queries", *(title for title, _ in results.systems), *([DIFFERENCE] if base else [])]
    rows = []
    for *facts, (name, part) in zip(*about.values(), places, strict=True):
        values = with_best_bold([value_of(system, name, part) for _, system in results.systems])
        difference = [difference_of(results, base, name, part)] if base else []
        rows.append([*facts, f"{n_queries(results, name, part):,}", *values, *difference])
    return markdown_table(header, rows) if rows else ""


def _is_numeric(cells: Sequence[str]) -> bool:
    shown = [cell.strip("*") for cell in cells if cell.strip("*") not in ("", ABSENT)]
    return bool(shown) and all(NUMBER.fullmatch(cell) for cell in shown)
