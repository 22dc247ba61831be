"""``ragcun tables`` and ``ragcun report``: results of evaluations in a table, a plot, or one HTML page."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from typing import ClassVar

from ragcun.options import flag

RESULTS = "results of evaluate, each FILE, NAME=FILE, or NAME=FILE,FILE,… for seeds"
LABEL = "tab:results"
FORMATS = ("markdown", "latex", "csv")
SPACES = ("documents", "queries", "together", "pairs")


@dataclass
class ComparisonOptions:
    """Flags of ``ragcun tables comparison``."""

    files: tuple[str, ...] = flag((), f"{RESULTS} (default: all in results/)", metavar="FILE", positional=True)
    results: tuple[str, ...] = flag((), "further results", metavar="FILE")
    metric: str = flag("NDCG@10", "what is compared")
    format: str | None = flag(None, "format (default: by the name of --output, else markdown)", choices=FORMATS)
    output: str | None = flag(None, "file to write (default: print the table)", metavar="FILE")
    caption: str | None = flag(None, "caption of a LaTeX table, as plain text (default: the metric)", metavar="TEXT")
    label: str = flag(LABEL, "label of a LaTeX table")


def comparison(options: ComparisonOptions) -> str:
    """Compare results in one table, write it where that is asked for, and return the table or where it is."""
    from ragcun.reporting.formats import comparison_table

    layout = (options.metric, options.format, options.output, options.caption, options.label)
    table = comparison_table([*options.files, *options.results], *layout)
    return f"table: {options.output}" if options.output else table


@dataclass
class PaperOptions:
    """Flags of ``ragcun tables paper``."""

    results: tuple[str, ...] = flag(MISSING, RESULTS, metavar="FILE")
    output: str = flag("paper/results_table.tex", "LaTeX file to write; Markdown and CSV beside it", metavar="FILE")
    caption: str | None = flag(None, "caption of the tables, as plain text (default: the metric)", metavar="TEXT")
    label: str = flag(LABEL, "label of the first table")


def paper(options: PaperOptions) -> str:
    """Write the tables of a paper and return where they are."""
    from ragcun.reporting.formats import paper_tables

    written = paper_tables(options.results, options.output, options.caption, options.label)
    return f"tables: {', '.join(map(str, written))}"


@dataclass
class SizesOptions:
    """Flags of ``ragcun tables sizes``."""

    results: tuple[str, ...] = flag(MISSING, "results of evaluate", metavar="FILE", positional=True)
    output: str = flag(MISSING, "plot to write, as PNG", metavar="FILE")


def sizes(options: SizesOptions) -> str:
    """Plot NDCG@10 against the bytes of a stored vector, and return where the plot is."""
    from ragcun.reporting.plots import write_png
    from ragcun.reporting.tradeoffs import size_figure, size_points

    write_png(size_figure(size_points(options.results)), options.output)
    return f"plot: {options.output}"


@dataclass
class TradeoffOptions:
    """Flags of ``ragcun tables tradeoff``."""

    results: tuple[str, ...] = flag(MISSING, "results of evaluate", metavar="FILE")
    isotropy: tuple[str, ...] = flag(MISSING, "isotropy.json of isotropy", metavar="FILE")
    output: str = flag(MISSING, "plot to write, as PNG", metavar="FILE")
    measure: str = flag("isoscore", "measure of isotropy in the reports")
    space: str = flag("documents", "embeddings that the measure is of", choices=SPACES)


def tradeoff(options: TradeoffOptions) -> str:
    """Plot NDCG@10 against a measure of isotropy, and return where the plot is."""
    from ragcun.reporting.plots import write_png
    from ragcun.reporting.tradeoffs import isotropy_ndcg_figure, isotropy_points

    points = isotropy_points(options.results, options.isotropy, options.measure, options.space)
    write_png(isotropy_ndcg_figure(points, options.measure, options.space), options.output)
    return f"plot: {options.output}"


@dataclass
class ReportOptions:
    """Flags of ``ragcun report``."""

    title: ClassVar[str] = "report"
    runs: tuple[str, ...] = flag(MISSING, "run folders of train", metavar="RUN_DIR", positional=True)
    results: tuple[str, ...] = flag((), "further results of evaluate, beside those in the run folders", metavar="FILE")
    isotropy: tuple[str, ...] = flag((), "further isotropy.json, beside those in the run folders", metavar="FILE")
    data_dir: str | None = flag(None, "folder of BEIR collections, for texts (default: the one that results name)")
    output: str | None = flag(None, "page to write (default: RUN_DIR/report.html of one run)", metavar="FILE")


def report(options: ReportOptions) -> str:
    """Write one self-contained HTML page about training runs, and return where it is."""
    from ragcun.reporting.html import write_report

    page = write_report(options.runs, options.output, options.results, options.isotropy, options.data_dir)
    return f"report: {page}"
