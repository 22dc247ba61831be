"""Markdown tables of results."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ragcun.data.beir_sets import PART_OF
from ragcun.errors import InputError
from ragcun.reporting.results_form import is_number
from ragcun.retrieval.quantization import titled

METRIC, BYTES = "NDCG@10", "bytes_per_vector"
ABSENT = "–"
SIDES = ("seen", "unseen")
NUMBER = re.compile(r"[<+\-−]?\d[\d.,]*(e[+-]?\d+)?%?( ± [\d.]+)?( \(.*\))?")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a Markdown table; columns that hold numbers (bold or not, or absent) are aligned to the right.

    >>> print(markdown_table(["system", "NDCG@10"], [["base", "0.64"], ["model", "**0.66**"]]), end="")
    | system |  NDCG@10 |
    | :----- | -------: |
    | base   |     0.64 |
    | model  | **0.66** |

    Raises:
        ValueError: a row has another number of cells than the header.
    """
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise ValueError(f"row {number} has {len(row)} cells, the header {len(header)}")
    cells = [[_escape(cell) for cell in row] for row in [header, *rows]]
    columns = list(zip(*cells, strict=True))
    right = [_is_numeric(column[1:]) for column in columns]
    widths = [max(3, *map(len, column)) for column in columns]
    rule = ["-" * (width - 1) + ":" if r else ":" + "-" * (width - 1) for width, r in zip(widths, right, strict=True)]
    padded = [
        [cell.rjust(width) if r else cell.ljust(width) for cell, width, r in zip(row, widths, right, strict=True)]
        for row in cells
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in [padded[0], rule, *padded[1:]])


def results_table(results: Mapping[str, Any]) -> str:
    """Lay out an evaluation (the JSON of ``evaluate_beir.py``) as a Markdown table of NDCG@10.

    Rows: the untouched base, the baselines, the model. Columns: each dataset, their mean, and for each dataset the
    model's difference from the untouched base with the p-value of the randomisation test; these last only where there
    is an untouched base. The best value of a column is bold, equals at four decimals alike. Where systems store vectors
    of different sizes, a column says how many bytes one takes.

    Further tables follow where there is something for them: `seen_table`, and `parts_table`, as the parts of a set have
    no column.

    Raises:
        InputError: a part of the results is missing.
    """
    parts = set_of_parts(results)
    names = [name for name in part_of(results, "datasets", "the results") if name not in parts]
    base = results.get("untouched_base")
    systems = all_systems(results)
    columns = [[value_of(system, name) for _, system in systems] for name in names]
    columns.append([_mean(system, title) for title, system in systems])
    texts = [with_best_bold(column) for column in columns]
    header = ["system", *names, f"mean {METRIC}"]
    if base is not None:
        header += [f"{name} Δ vs base (p)" for name in names]
        texts += [[ABSENT] * (len(systems) - 1) + [difference_of(results, base, name)] for name in names]
    sizes = [system.get(BYTES) for _, system in systems]
    if len({size for size in sizes if size is not None}) > 1:
        header.insert(1, "bytes per vector")
        texts.insert(0, [ABSENT if size is None else f"{size:,}" for size in sizes])
    rows = [[title, *cells] for (title, _), *cells in zip(systems, *texts, strict=True)]
    return "\n".join(filter(None, (markdown_table(header, rows), seen_table(results), parts_table(results))))


def set_of_parts(results: Mapping[str, Any]) -> dict[str, str]:
    """Return the set that each part of one belongs to, such as CQADupStack's forums; most results have none."""
    collections = (results.get("manifest") or {}).get("collections") or {}
    return {name: about[PART_OF] for name, about in collections.items() if about.get(PART_OF)}


def seen_table(results: Mapping[str, Any]) -> str:
    """Lay out NDCG@10 on queries with and without a relevant document that was a training positive; may be empty.

    Two rows for each dataset that has queries on both sides; columns: how many queries, each system, and the model's
    difference from the untouched base with the p-value. The best value of a row is bold.

    Raises:
        InputError: a part of the results is missing.
    """
    rows = []
    for name, figures in part_of(results, "datasets", "the results").items():
        if any(figures.get(side, {}).get("n_queries", 0) == 0 for side in SIDES):
            continue
        rows += [[f"{name}, {side}", str(figures[side]["n_queries"]), *cells_of(results, name, side)] for side in SIDES]
    return table_of(results, ["relevant documents", "queries"], rows)


def parts_table(results: Mapping[str, Any]) -> str:
    """Lay out NDCG@10 on each part of a set of parts, such as CQADupStack's forums; mostly empty.

    Raises:
        InputError: a part of the results is missing.
    """
    about = (results.get("manifest") or {}).get("collections") or {}
    rows = [[name, f"{about[name]['queries']:,}", *cells_of(results, name)] for name in set_of_parts(results)]
    return table_of(results, ["part", "queries"], rows)


def cells_of(results: Mapping[str, Any], name: str, side: str | None = None) -> list[str]:
    """Return NDCG@10 of each system on a dataset or a side of it, the best bold, and the difference from the base."""
    base = results.get("untouched_base")
    values = [value_of(system, name, side) for _, system in all_systems(results)]
    return [*with_best_bold(values), *([] if base is None else [difference_of(results, base, name, side)])]


def table_of(results: Mapping[str, Any], header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out rows that end in `cells_of`; empty where there are none."""
    titles = [title for title, _ in all_systems(results)]
    last = [] if results.get("untouched_base") is None else ["Δ vs base (p)"]
    return markdown_table([*header, *titles, *last], rows) if rows else ""


def all_systems(results: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return untouched base, baselines and model, each with its title, which says how vectors were made small.

    Of two baselines of one title the later has its name on disk instead.
    """
    base = results.get("untouched_base")
    systems = [] if base is None else [(f"{part_of(base, 'model', 'untouched_base')} (untouched)", base)]
    for slug, system in (results.get("baselines") or {}).items():
        name = str(part_of(system, "model", f"the results of {slug}"))
        title = titled(name, system)
        systems.append((slug if title in dict(systems) else title, system))
    return [*systems, (titled(str(part_of(results, "model", "the results")), results), results)]


def part_of(system: Mapping[str, Any], key: str, where: str) -> Any:
    """Return a part of results; `where` says whose, for the message where it is missing."""
    if key not in system:
        raise InputError(f"{where} lack {key!r}; write them again with evaluate_beir.py")
    return system[key]


def _number(figures: Mapping[str, Any], key: str, where: str) -> float:
    value = part_of(figures, key, where)
    if not is_number(value):
        raise InputError(f"{where} have {value!r:.60} as {key}, not a number; write them again with evaluate_beir.py")
    return float(value)


def _figures(system: Mapping[str, Any], name: str, side: str | None) -> Mapping[str, Any] | None:
    """Return what a system has on all queries of a dataset (no side) or on those of a side, None where nothing."""
    figures: Mapping[str, Any] | None = part_of(system, "datasets", "the results of a system").get(name)
    return figures if side is None or figures is None else figures.get(side)


def value_of(system: Mapping[str, Any], name: str, side: str | None = None) -> float | None:
    """Return NDCG@10 on a dataset, or on one side of it; None where the system has none."""
    figures = _figures(system, name, side)
    return None if figures is None else _number(figures, METRIC, f"the results on {name}")


def _mean(system: Mapping[str, Any], title: str) -> float | None:
    return _number(part_of(system, "average", f"the results of {title}"), METRIC, f"the averages of {title}")


def with_best_bold(values: Sequence[float | None]) -> list[str]:
    """Write values with four decimals, the best in bold."""
    texts = [ABSENT if value is None else f"{value:.4f}" for value in values]
    best = f"{max((value for value in values if value is not None), default=0.0):.4f}"
    return [f"**{text}**" if text == best else text for text in texts]


def difference_of(model: Mapping[str, Any], base: Mapping[str, Any], name: str, side: str | None = None) -> str:
    """Write the difference of a model from the base on a dataset, and its p-value."""
    ours, theirs, figures = value_of(model, name, side), value_of(base, name, side), _figures(base, name, side)
    if ours is None or theirs is None or figures is None:
        return ABSENT
    if figures.get("n_queries") == 1:
        return f"{ours - theirs:+.4f}"
    p = _number(figures, "p_randomisation", f"untouched_base on {name}")
    return f"{ours - theirs:+.4f} ({'<0.0001' if p < 0.0001 else f'{p:.4f}'})"


def _escape(cell: str) -> str:
    return " ".join(cell.replace("|", "\\|").split())


def _is_numeric(cells: Sequence[str]) -> bool:
    shown = [cell.strip("*") for cell in cells if cell.strip("*") not in ("", ABSENT)]
    return bool(shown) and all(NUMBER.fullmatch(cell) for cell in shown)
