"""Tables written to disk: one comparison in one format, or all that a paper needs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from ragcun.errors import InputError
from ragcun.io import write_text
from ragcun.reporting.comparison import compare
from ragcun.reporting.latex import latex_table
from ragcun.reporting.layout import csv_comparison, markdown_comparison
from ragcun.reporting.results_files import NamedResults, read_named, results_in, shared_metrics
from ragcun.reporting.tables import METRIC

logger = logging.getLogger(__name__)

SUFFIXES = {".md": "markdown", ".tex": "latex", ".csv": "csv"}
FURTHER = ("MRR@10", "Recall@100", "MAP@100")
RESULTS = "results"
LABEL = "tab:results"


def comparison_table(
    specs: Sequence[str],
    metric: str = METRIC,
    layout: str | None = None,
    output: str | Path | None = None,
    caption: str | None = None,
    label: str = LABEL,
) -> str:
    """Compare results files and return the table, which is also written to `output` where that is given.

    Args:
        specs: ``FILE``, ``NAME=FILE`` or ``NAME=FILE,FILE,…``; none takes all results files in ``results``.
        metric: what is compared.
        layout: markdown, latex or csv; None goes by the suffix of `output`, and without one takes markdown.
        output: the file to write.
        caption: of a LaTeX table.
        label: of a LaTeX table.

    Raises:
        InputError: files cannot be read or compared, the format is unclear, or `output` would replace an input.
    """
    layout = layout or (_layout_of(output) if output else "markdown")
    if layout not in SUFFIXES.values():
        raise ValueError(f"layout must be one of {', '.join(SUFFIXES.values())}, got {layout!r}")
    results = [read_named(spec) for spec in specs] if specs else results_in(RESULTS)
    if output is not None:
        _require_free(Path(output), results)
    comparison = compare(results, metric)
    if layout == "latex":
        text = latex_table(comparison, caption, label)
    else:
        text = markdown_comparison(comparison) if layout == "markdown" else csv_comparison([comparison])
    if output is not None:
        write_text(output, text)
    return text


def paper_tables(
    specs: Sequence[str], output: str | Path, caption: str | None = None, label: str = LABEL
) -> list[Path]:
    """Write the tables of a paper as LaTeX to `output`, and the same as Markdown and CSV beside it.

    NDCG@10 comes first, then MRR@10, Recall@100 and MAP@100, each where all files have it.

    Returns:
        The files written.

    Raises:
        InputError: files cannot be read or compared, or `output` is no ``.tex`` or would replace an input.
    """
    output = Path(output)
    if output.suffix != ".tex":
        raise InputError(f"--output {output} is a LaTeX file; let its name end in .tex")
    places = [output, output.with_suffix(".md"), output.with_suffix(".csv")]
    results = [read_named(spec) for spec in specs]
    for place in places:
        _require_free(place, results)
    shared = shared_metrics([file for named in results for file in named.files])
    for metric in FURTHER:
        if metric not in shared:
            logger.info("%s: not in all files; its table is left out", metric)
    comparisons = [compare(results, metric) for metric in (METRIC, *(each for each in FURTHER if each in shared))]
    labels = [label, *(f"{label}-{each.metric.replace('@', '').lower()}" for each in comparisons[1:])]
    tex = "\n".join(
        latex_table(each, caption and f"{caption} ({each.metric})", name)
        for each, name in zip(comparisons, labels, strict=True)
    )
    markdown = "\n".join(f"## {each.metric}\n\n{markdown_comparison(each)}" for each in comparisons)
    for place, text in zip(places, (tex, markdown, csv_comparison(comparisons)), strict=True):
        write_text(place, text)
    return places


def _layout_of(output: str | Path) -> str:
    suffix = Path(output).suffix
    if suffix not in SUFFIXES:
        raise InputError(f"--output {output}: the format is unclear; give --format, or end the name in .md, .tex, .csv")
    return SUFFIXES[suffix]


def _require_free(output: Path, results: Sequence[NamedResults]) -> None:
    """Refuse to replace a results file or the report beside it."""
    for file in (file for named in results for file in named.files):
        if output.resolve() in (file.path.resolve(), file.path.resolve().with_suffix(".md")):
            raise InputError(f"{output} would replace what evaluate_beir.py wrote; give --output another name")
