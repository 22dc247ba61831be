"""Several runs side by side: scores, settings that differ, and isotropy."""

from __future__ import annotations

from collections.abc import Sequence

from ragcun.reporting.html.evaluation import n_queries, verdict
from ragcun.reporting.html.gather import Run
from ragcun.reporting.html.isotropy import side_by_side
from ragcun.reporting.html.layout import Cell, Table, shown
from ragcun.reporting.results_files import ResultsFile
from ragcun.reporting.tables import ABSENT, METRIC, all_systems, value_of

UNCOMPARED = ("output_dir", "resume", "overwrite", "device", "cache_dir")
"""Settings that decide nothing about a model."""


def comparison(runs: Sequence[Run]) -> list[Table]:
    """Lay out several runs side by side: NDCG@10 on each dataset, training, settings that differ, and isotropy.

    Results on collections of one name but other content, or another split, are in tables of their own.

    Raises:
        InputError: a part of a results file is missing.
    """
    tables = [*_scores(runs), _choices(runs), _settings(runs), side_by_side(runs)]
    return [table for table in tables if table.rows]


def _scores(runs: Sequence[Run]) -> list[Table]:
    rows: dict[tuple[str, str, str], list[list[Cell]]] = {}
    for run in runs:
        for file in run.evaluations:
            for name, about in file.collections.items():
                key = name, str(about.get("split")), str(about.get("sha256"))
                rows.setdefault(key, []).append(_score_row(run, file, name))
    header = ["run", f"base {METRIC}", f"run {METRIC}", "run − base (p)", "queries", "verdict"]
    names = [name for name, _, _ in rows]
    tables = []
    for (name, split, digest), cells in rows.items():
        version = "" if names.count(name) == 1 else f" ({split}, {digest[:12]})"
        tables.append(Table(f"{METRIC} on {name}{version}", header, _best_bold(cells, (1, 2))))
    return tables


def _score_row(run: Run, file: ResultsFile, name: str) -> list[Cell]:
    results = file.content
    base, found = results["untouched_base"], verdict(results, name)
    small = all_systems(results)[-1][0].removeprefix(str(results["model"]))
    values = [None if system is None else value_of(system, name) for system in (base, results)]
    texts = [ABSENT if value is None else f"{value:.4f}" for value in values]
    texts += [ABSENT if found is None else found.difference, f"{n_queries(results, name):,}"]
    title = Cell(f"{run.name}{small}", small="no untouched base" if base is None else f"base: {base['model']}")
    return [title, *map(Cell, texts), Cell(ABSENT if found is None else found.word)]


def _best_bold(rows: Sequence[Sequence[Cell]], columns: Sequence[int]) -> list[list[Cell]]:
    """Set the best value of some columns together in bold."""
    best = max(row[column].text for row in rows for column in columns if row[column].text != ABSENT)
    bold = [[place in columns and cell.text == best for place, cell in enumerate(row)] for row in rows]
    return [
        [Cell(cell.text, strong, cell.small) for cell, strong in zip(*both, strict=True)]
        for both in zip(rows, bold, strict=True)
    ]


def _choices(runs: Sequence[Run]) -> Table:
    """Lay out which epoch each run kept, and by what."""
    rows = []
    for run in runs:
        result = run.manifest.get("result") or {}
        scores = [result.get(key) for key in ("score", "base_score")]
        values = [result.get("best_epoch"), result.get("criterion")]
        values += [None if score is None else f"{abs(score):.4f}" for score in scores] + [result.get("steps")]
        collapses = ", ".join(str(row.get("collapse")) for row in run.rows.get("collapse", ())) or "none seen"
        rows.append([Cell(run.name), *(Cell(shown(value)) for value in values), Cell(collapses)])
    header = ["run", "epoch kept", "chosen by", "score", "untouched base", "steps", "collapse"]
    return Table("training", header, rows)


def _settings(runs: Sequence[Run]) -> Table:
    names = dict.fromkeys(name for run in runs for name in run.config if name not in UNCOMPARED)
    rows = []
    for name in names:
        values = [shown(run.config.get(name)) for run in runs]
        if len(set(values)) > 1:
            rows.append([Cell(name), *map(Cell, values)])
    return Table("settings that differ", ["setting", *(run.name for run in runs)], rows)
