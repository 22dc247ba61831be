"""``ragcun tables`` and ``ragcun report``: results of evaluations in a table, a plot, or one HTML page."""

from __future__ import annotations

from dataclasses import MISSING

from ragcun.errors import require_package
from ragcun.options import flag

RESULTS = "results of evaluate, each FILE, NAME=FILE, or NAME=FILE,FILE,… for seeds"
CAPTION, LABEL = "caption of LaTeX tables, as plain text (default: the metric)", "label of the first LaTeX table"
FORMATS = ("markdown", "latex", "csv")
SPACES = ("documents", "queries", "together", "pairs")


def comparison(
    files: tuple[str, ...] = flag((), f"{RESULTS} (default: all in results/)", metavar="FILE", positional=True),
    results: tuple[str, ...] = flag((), "more results files", metavar="FILE"),
    metric: str = flag("NDCG@10", "metric to compare"),
    format: str | None = flag(None, "format (default: by the name of --output, else markdown)", choices=FORMATS),
    output: str | None = flag(None, "file to write (default: print the table)", metavar="FILE"),
    caption: str | None = flag(None, CAPTION, metavar="TEXT"),
    label: str = flag("tab:results", LABEL),
) -> str:
    """Compare results in one table, write it where that is asked for, and return the table or where it is."""
    from ragcun.reporting.formats import comparison_table

    table = comparison_table([*files, *results], metric, format, output, caption, label)
    return f"table: {output}" if output else table


def paper(
    results: tuple[str, ...] = flag(MISSING, RESULTS, metavar="FILE"),
    output: str = flag("paper/results_table.tex", "LaTeX file to write; Markdown and CSV beside it", metavar="FILE"),
    caption: str | None = flag(None, CAPTION, metavar="TEXT"),
    label: str = flag("tab:results", LABEL),
) -> str:
    """Write the tables of a paper and return where they are."""
    from ragcun.reporting.formats import paper_tables

    return f"tables: {', '.join(map(str, paper_tables(results, output, caption, label)))}"


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
