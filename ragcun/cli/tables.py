"""``ragcun tables`` and ``ragcun report``: results of evaluations in a table, a plot, or one HTML page."""

from __future__ import annotations

import logging
from dataclasses import MISSING
from pathlib import Path

from ragcun.errors import InputError, require_package
from ragcun.options import flag

logger = logging.getLogger(__name__)

RESULTS = "results of evaluate, each FILE, NAME=FILE, or NAME=FILE,FILE,… for seeds"
CAPTION, LABEL = "caption of LaTeX tables, as plain text (default: the metric)", "label of the first LaTeX table"
SUFFIXES = {".md": "markdown", ".tex": "latex", ".csv": "csv"}
FORMATS = tuple(SUFFIXES.values())
METRIC, FURTHER = "NDCG@10", ("MRR@10", "Recall@100", "MAP@100")
SPACES = ("documents", "queries", "together", "pairs")


def comparison(
    files: tuple[str, ...] = flag((), f"{RESULTS} (default: all in results/)", metavar="FILE", positional=True),
    results: tuple[str, ...] = flag((), "more results files", metavar="FILE"),
    metric: str = flag(METRIC, "metric to compare"),
    format: str | None = flag(None, "format (default: by the name of --output, else markdown)", choices=FORMATS),
    output: str | None = flag(None, "file to write (default: print the table)", metavar="FILE"),
    caption: str | None = flag(None, CAPTION, metavar="TEXT"),
    label: str = flag("tab:results", LABEL),
) -> str:
    """Compare results in one table, write it where that is asked for, and return the table or where it is."""
    from ragcun.io import write_text
    from ragcun.reporting import formats
    from ragcun.reporting.comparison import compare, read_all

    layout = format or SUFFIXES.get(Path(output or "results.md").suffix)
    if layout is None:
        raise InputError(f"--output {output}: the format is unclear; give --format, or end the name in .md, .tex, .csv")
    compared = compare(read_all([*files, *results], [Path(output)] if output else []), metric)
    if layout == "latex":
        table = formats.latex_comparison(compared, caption, label)
    else:
        table = formats.markdown_comparison(compared) if layout == "markdown" else formats.csv_comparison([compared])
    if output is None:
        return table
    write_text(output, table)
    return f"table: {output}"


def paper(
    results: tuple[str, ...] = flag(MISSING, RESULTS, metavar="FILE"),
    output: str = flag("paper/results_table.tex", "LaTeX file to write; Markdown and CSV beside it", metavar="FILE"),
    caption: str | None = flag(None, CAPTION, metavar="TEXT"),
    label: str = flag("tab:results", LABEL),
) -> str:
    """Write the tables of a paper, NDCG@10 and what of `FURTHER` all files have, and return where they are."""
    from ragcun.io import write_text
    from ragcun.reporting.comparison import compare, read_all
    from ragcun.reporting.formats import csv_comparison, latex_comparison, markdown_comparison
    from ragcun.reporting.tables import shared_metrics

    if Path(output).suffix != ".tex":
        raise InputError(f"--output {output} is a LaTeX file; give it a name that ends in .tex")
    places = [Path(output).with_suffix(suffix) for suffix in (".tex", ".md", ".csv")]
    named = read_all(results, places)
    shared = shared_metrics([file for each in named for file in each.files])
    if absent := [metric for metric in FURTHER if metric not in shared]:
        logger.info("%s: not in all files; left out", ", ".join(absent))
    comparisons = [compare(named, metric) for metric in (METRIC, *FURTHER) if metric not in absent]
    labels = [label, *(f"{label}-{each.metric.replace('@', '').lower()}" for each in comparisons[1:])]
    tex = "\n".join(
        latex_comparison(each, caption and f"{caption} ({each.metric})", name)
        for each, name in zip(comparisons, labels, strict=True)
    )
    markdown = "\n".join(f"## {each.metric}\n\n{markdown_comparison(each)}" for each in comparisons)
    for place, text in zip(places, (tex, markdown, csv_comparison(comparisons)), strict=True):
        write_text(place, text)
    return f"tables: {', '.join(map(str, places))}"


def sizes(
    results: tuple[str, ...] = flag(MISSING, "results of evaluate", metavar="FILE", positional=True),
    output: str = flag(MISSING, "plot to write, as PNG", metavar="FILE"),
) -> str:
    """Plot NDCG@10 against the bytes of a stored vector, and return where the plot is."""
    require_package("matplotlib", "report")
    from ragcun.reporting.plots import write_png
    from ragcun.reporting.tradeoffs import size_figure, size_points

    write_png(size_figure(size_points(results)), output)
    return f"plot: {output}"


def tradeoff(
    results: tuple[str, ...] = flag(MISSING, "results of evaluate", metavar="FILE"),
    isotropy: tuple[str, ...] = flag(MISSING, "isotropy.json of isotropy", metavar="FILE"),
    output: str = flag(MISSING, "plot to write, as PNG", metavar="FILE"),
    measure: str = flag("isoscore", "measure of isotropy in the reports"),
    space: str = flag("documents", "embeddings that the measure is of", choices=SPACES),
) -> str:
    """Plot NDCG@10 against a measure of isotropy, and return where the plot is."""
    require_package("matplotlib", "report")
    from ragcun.reporting.plots import write_png
    from ragcun.reporting.tradeoffs import isotropy_ndcg_figure, isotropy_points

    points = isotropy_points(results, isotropy, measure, space)
    write_png(isotropy_ndcg_figure(points, measure, space), output)
    return f"plot: {output}"


def report(
    runs: tuple[str, ...] = flag(MISSING, "run folders of train", metavar="RUN_DIR", positional=True),
    results: tuple[str, ...] = flag((), "more results of evaluate, besides those in the run folders", metavar="FILE"),
    isotropy: tuple[str, ...] = flag((), "further isotropy.json, beside those in the run folders", metavar="FILE"),
    data_dir: str | None = flag(None, "folder of BEIR collections, for texts (default: the one that results name)"),
    output: str | None = flag(None, "page to write (default: RUN_DIR/report.html of one run)", metavar="FILE"),
) -> str:
    """Write one self-contained HTML page about training runs, and return where it is."""
    require_package("matplotlib", "report")
    from ragcun.reporting.html import write_report

    return f"report: {write_report(runs, output, results, isotropy, data_dir)}"
