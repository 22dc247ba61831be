"""The report: from run folders to one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import io
import shlex
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
from ragcun.reporting.runs import Run, gather
from ragcun.reporting.tables import ABSENT, Table
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
Facts = list[tuple[str, str]]


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
    return Environment(
        loader=PackageLoader("ragcun.reporting", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else visible(str(value)),
        trim_blocks=True,
        lstrip_blocks=True,
    )


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
    return box.format(visible(table.caption), Markup(text))


def _isolated(text: str) -> Markup:
    return Markup("<bdi>{}</bdi>").format(text if isinstance(text, Markup) else visible(text))


def html_picture(draw: Callable[[], Figure | None], alt: str, caption: str) -> Markup:
    """Draw a figure as a PNG inside the page; where there is no data for it (an `InputError`), say why instead."""
    try:
        figure = draw()
    except InputError as error:
        return Markup('<p class="note">Not drawn: <bdi>{}</bdi>.</p>').format(visible(str(error)))
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
        (
            path,
            results.model.title,
            verdicts(results),
            summary(verdicts(results)),
            map(html_table, metric_tables(results)),
        )
        for path, results in run.evaluations
    ]
    return {
        "run": run,
        "anchor": f"run-{number}",
        "facts": _facts(run),
        "state": _state(run),
        "environment": _environment(run),
        "commands": _commands(run),
        "curves": _curves(run),
        "collapses": [(shown(row.get("step")), shown(row.get("message"))) for row in run.rows.get("collapse", ())],
        "evaluations": evaluations,
        "examples": [(file.results.model.title, each) for file in run.evaluations for each in examples(file, data_dir)],
        "isotropy": [(path, *_isotropy(report, run)) for path, report in run.isotropy],
        "todo": _todo(run, data_dir),
    }


def shown(value: object) -> str:
    """Write a value of a configuration or manifest for a reader.

    >>> [shown(value) for value in (None, True, 0.123456, [1, 2], "a", 12000)]
    ['–', 'yes', '0.1235', '1, 2', 'a', '12000']
    """
    if value is None:
        return ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(shown, value)) or ABSENT
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _facts(run: Run) -> Facts:
    config, result = run.config, run.result
    data = next((config[name] for name in ("train_data", "documents", "corpus") if config.get(name)), None)
    start = f", initialised by {config['head_init']}" if config.get("head_init") else ""
    frozen = "frozen" if config.get("freeze_base") else "trained in part or whole"
    facts = {
        "base model": f"{shown(config.get('base_model'))}, {frozen}",
        "system": shown(config.get("system")),
        "head": f"{shown(config.get('head'))}{start}",
        "training data": shown(data),
        "seed": shown(config.get("seed")),
    }
    if result:
        facts["kept"] = f"epoch {shown(result.get('best_epoch'))}, chosen by {shown(result.get('criterion'))}"
        facts["score of the kept epoch"] = _score(result.get("score"))
        facts["score of the untouched base"] = _score(result.get("base_score"))
        facts["training"] = f"{shown(result.get('steps'))} steps in {shown(result.get('seconds'))} s"
    return list(facts.items())


def _score(value: object) -> str:
    """Write a score of the selection, which is a loss with its sign turned where there is no dev set."""
    return f"{abs(value):.4f}" if isinstance(value, (int, float)) else shown(value)


def _state(run: Run) -> list[str]:
    """Return what a reader has to know first."""
    said, status = [], run.manifest.get("status")
    if not run.manifest:
        said.append("The run has no manifest.json: it is not known how it was made.")
    elif status != "finished":
        said.append(f"The run is not finished (status: {shown(status)}); it has no kept model yet.")
    if run.result.get("best_epoch") == 0:
        said.append("No epoch was better than the start: the checkpoint is the model before training.")
    if run.result.get("comparison"):
        said.append(f"{shown(run.result['comparison']).rstrip('.')}.")
    return said


def _environment(run: Run) -> Facts:
    manifest = run.manifest
    names = {"git_commit": "git commit", "git_dirty": "uncommitted changes", "base_fingerprint": "base fingerprint"}
    names |= {name: name for name in ("seed", "device", "platform", "started", "python")}
    facts = [(title, shown(manifest.get(name))) for name, title in names.items()]
    for key, title in (("packages", "package"), ("data_sha256", "SHA-256 of the data,")):
        found = manifest.get(key)
        facts += [
            (f"{title} {name}", shown(value)) for name, value in (found if isinstance(found, dict) else {}).items()
        ]
    return facts if manifest else []


def _commands(run: Run) -> Facts:
    config = run.folder / "config.yaml"
    commands = [
        (
            "again, from the whole configuration",
            _command("train", "--config", config, "--output_dir", f"{run.folder}-again"),
        )
    ]
    if (started := run.manifest.get("command")) is not None:
        commands.insert(0, ("as it was started", f"python {started}"))
    if run.manifest.get("status") not in (None, "finished"):
        commands.insert(0, ("that finishes the run", _command("train", "--config", config, "--resume")))
    return commands


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
    ]
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
        values += [_score(run.result.get(name)) for name in ("score", "base_score")]
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


def _todo(run: Run, data_dir: Path | None) -> dict[str, str]:
    """Return the commands that make what is missing."""
    places = [file.results.manifest.get("data_dir") for file in run.evaluations]
    data = next((place for place in (data_dir, *places) if place), "data")
    if run.manifest.get("status") not in (None, "finished"):
        return {}
    todo, model = {}, ("--model_path", run.checkpoint, "--data_dir", data)
    if not run.evaluations:
        output = ("--baseline", "bm25", "--output_file", run.folder / "results.json")
        todo["evaluation"] = _command("evaluate_beir", *model, *output)
    if not run.isotropy:
        names = [name for file in run.evaluations for name in file.results.datasets][:1] or ["NAME"]
        output_dir = ("--output_dir", run.folder / "isotropy")
        todo["isotropy"] = _command("compute_isotropy", *model, "--datasets", *names, *output_dir)
    return todo


def _command(script: str, *arguments: object) -> str:
    """Return a command line that a shell takes as it is."""
    return shlex.join(["python", f"scripts/{script}.py", *map(str, arguments)])
