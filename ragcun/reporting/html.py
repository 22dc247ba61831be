"""The report: from run folders to one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import ragcun
from ragcun.errors import InputError
from ragcun.io import write_text
from ragcun.isotropy.report import IsotropyReport, SystemReport
from ragcun.reporting import isotropy_plots
from ragcun.reporting.examples import examples, visible
from ragcun.reporting.isotropy import LABELS, measure_table, measure_tables, title_of
from ragcun.reporting.plots import loss_figure, rank_figure
from ragcun.reporting.runs import (
    Run,
    commands_of,
    environment_of,
    facts_of,
    gather,
    missing,
    score_text,
    shown,
    state_of,
)
from ragcun.reporting.tables import Table
from ragcun.reporting.verdicts import metric_tables, score_tables, summary, verdicts

UNCOMPARED = ("output_dir", "resume", "overwrite", "device", "cache_dir")
"""Settings that decide nothing about a model."""
FIGURES = {
    "spectrum": "Spectrum of the documents' covariance.",
    "norms": "Lengths of queries and documents.",
    "distances": "Distances of relevant, random and nearest pairs.",
    "hubness": "How often a document is among the nearest of others.",
    "pca": "Queries and their relevant documents on the first two principal axes.",
}


def write_report(
    folders: Sequence[str | Path],
    output: str | Path | None = None,
    results: Sequence[str | Path] = (),
    isotropy: Sequence[str | Path] = (),
    data_dir: str | Path | None = None,
) -> Path:
    """Write one HTML page about runs; it loads nothing from elsewhere, and the same files give the same bytes.

    Args:
        folders: run folders of ``train.py``.
        output: the page, complete or absent; None writes ``report.html`` into the folder of a single run.
        results: results files of ``evaluate_beir.py`` beside those in the run folders.
        isotropy: files of ``compute_isotropy.py`` beside those in the run folders.
        data_dir: folder of the collections, for the texts of queries and documents; None takes what results name.

    Returns:
        The page.

    Raises:
        InputError: a file is missing or wrong, belongs to no run, or `output` is needed and not there.
    """
    if not folders:
        raise InputError("no run folder is given; name at least one that train.py wrote")
    if output is None and len(folders) > 1:
        raise InputError(f"{len(folders)} runs on one page; say where it goes with --output FILE")
    if data_dir is not None and not Path(data_dir).is_dir():
        raise InputError(f"no such folder: {data_dir}; name the folder that holds the BEIR collections")
    page = Path(folders[0]) / "report.html" if output is None else Path(output)
    if page.is_dir():
        raise InputError(f"{page} is a folder; name the HTML file to write")
    runs = gather(*(list(map(Path, paths)) for paths in (folders, results, isotropy)))
    data = None if data_dir is None else Path(data_dir)
    views = [_view(run, number, data) for number, run in enumerate(runs, start=1)]
    tables = _comparison(runs) if len(runs) > 1 else []
    template = environment().get_template("page.html.j2")
    write_text(page, template.render(runs=views, comparison=tables, version=ragcun.__version__))
    return page


def environment() -> Environment:
    """Return the templates' environment: every value that is written is made visible, then escaped."""
    made = Environment(
        loader=PackageLoader("ragcun.reporting", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else visible(str(value)),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["summary"] = summary
    return made


def html_table(table: Table, numeric: bool = True) -> Markup:
    """Lay out a table that scrolls in its own box; the first column names the rows. Only `Markup` is not escaped."""
    cells = [list(map(_isolated, row)) for row in (table.header, *table.rows)]
    frame = pd.DataFrame([row[1:] for row in cells[1:]], index=[row[0] for row in cells[1:]], columns=cells[0][1:])
    frame = frame.rename_axis(columns=cells[0][0])
    with pd.option_context("display.max_colwidth", None):
        text = frame.to_html(escape=False, border=0, classes="numeric" if numeric else "")
    head, body = text.split("</thead>")
    text = f"{head.replace('<th>', '<th scope=col>')}</thead>{body.replace('<th>', '<th scope=row>')}"
    box = Markup(
        "<figure><figcaption><bdi>{0}</bdi></figcaption>"
        '<div class="scroll" tabindex="0" role="region" aria-label="{0}">{1}</div></figure>'
    )
    return box.format(visible(table.caption), Markup(text))  # nosec B704


def _isolated(text: str) -> Markup:
    return Markup("<bdi>{}</bdi>").format(text if isinstance(text, Markup) else visible(text))


def html_picture(draw: Callable[[], Figure | None], alt: str, caption: str) -> Markup:
    """Draw a figure as a PNG inside the page; nothing where there is none."""
    figure = draw()
    if figure is None:
        return Markup()
    figure.set_dpi(144)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    return Markup(
        '<figure class="picture"><div class="scroll" tabindex="0" role="region" aria-label="{caption}">'
        '<img src="data:image/png;base64,{data}" width="{width}" height="{height}" alt="{alt}" '
        'style="width: 100%; max-width: {width}px; min-width: {least}px"></div>'
        "<figcaption>{caption}</figcaption></figure>"
    ).format(
        caption=caption, alt=visible(alt), data=base64.b64encode(buffer.getvalue()).decode(), width=width,
        height=height, least=round(0.8 * width),
    )  # fmt: skip


def _view(run: Run, number: int, data_dir: Path | None) -> dict[str, Any]:
    """Return one run as ``run.html.j2`` shows it."""
    evaluations = [
        (path, results.model.title, verdicts(results), map(html_table, metric_tables(results)))
        for path, results in run.evaluations
    ]
    return {
        "run": run,
        "anchor": f"run-{number}",
        "facts": facts_of(run),
        "state": state_of(run),
        "environment": environment_of(run),
        "commands": commands_of(run),
        "curves": _curves(run),
        "collapses": [(shown(row.get("step")), shown(row.get("message"))) for row in run.rows.get("collapse", ())],
        "evaluations": evaluations,
        "examples": [(file.results.model.title, each) for file in run.evaluations for each in examples(file, data_dir)],
        "isotropy": [(path, *_isotropy(report, run)) for path, report in run.isotropy],
        "todo": missing(run, data_dir),
    }


def _curves(run: Run) -> list[Markup]:
    if not run.rows.get("step"):
        return [Markup('<p class="note">The run has not recorded a training step.</p>')]
    figures = {
        "Loss, its unweighted terms, and scores.": loss_figure,
        "Effective rank of a fixed batch of training pairs.": rank_figure,
    }
    metrics = run.folder / "metrics.jsonl"
    return [
        html_picture(partial(draw, metrics), f"{title[:-1]}, of {run.name}", title) for title, draw in figures.items()
    ]


def _isotropy(report: IsotropyReport, run: Run) -> tuple[str, dict[str, Markup], list[Markup]]:
    """Return what was embedded, tables and figures of the untouched bases and of this run's own systems."""
    systems = _own(report, run)
    queries = f", {report.n_queries:,} queries" if report.n_queries else ", no queries"
    about = f"{report.name}: {report.n_documents:,} documents{queries}"
    tables = {table.caption: html_table(_with_notes(table)) for table in measure_tables(systems)}
    names = ", ".join(system.model for system in systems)
    pictures = [
        html_picture(partial(isotropy_plots.FIGURES[name], systems), f"{caption[:-1]}, of {names}", caption)
        for name, caption in FIGURES.items()
        if name != "pca" or any(system.pairs for system in systems)
    ]
    if len(pictures) < len(FIGURES):
        pictures.append(Markup('<p class="note">Pairs are not drawn: no system has judged queries.</p>'))
    return about, tables, pictures


def _own(report: IsotropyReport, run: Run) -> list[SystemReport]:
    return [system for system in report.systems if system.untouched or run.holds(system.model)]


def _with_notes(table: Table) -> Table:
    """Write below each measure's name how to read it."""
    label = Markup("{0.title}<small>{0.note}</small>")
    rows = [[label.format(LABELS[name]) if name in LABELS else name, *texts] for name, *texts in table.rows]
    return Table(table.caption, table.header, rows)


def _comparison(runs: Sequence[Run]) -> list[Markup]:
    """Lay out several runs side by side: NDCG@10 on each dataset, training, settings that differ, and isotropy."""
    training = []
    for run in runs:
        collapses = ", ".join(shown(row.get("collapse")) for row in run.rows.get("collapse", ())) or "none seen"
        values = [shown(run.result.get("best_epoch")), shown(run.result.get("criterion"))]
        values += [score_text(run.result.get(name)) for name in ("score", "base_score")]
        training.append([run.name, *values, shown(run.result.get("steps")), collapses])
    header = ["run", "epoch kept", "chosen by", "score", "untouched base", "steps", "collapse"]
    names = dict.fromkeys(name for run in runs for name in run.config if name not in UNCOMPARED)
    settings = [[name, *(shown(run.config.get(name)) for run in runs)] for name in names]
    differing = [row for row in settings if len(set(row[1:])) > 1]
    measures = {
        f"{title_of(system) if system.untouched else run.name}, on {report.name}": system.spaces["documents"].measures
        for run in runs for _, report in run.isotropy for system in _own(report, run)
    }  # fmt: skip
    geometry = measure_table("isotropy of documents", list(measures), list(measures.values()))
    tables = [(table, True) for table in score_tables([(run.name, file) for run in runs for file in run.evaluations])]
    tables.append((Table("training", header, training), False))
    tables.append((Table("settings that differ", ["setting", *(run.name for run in runs)], differing), False))
    tables.append((_with_notes(geometry), True))
    return [html_table(table, numeric) for table, numeric in tables if table.rows]
