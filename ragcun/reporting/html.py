"""The report: from run folders to one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import io
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import ragcun
from ragcun.errors import InputError
from ragcun.io import write_text
from ragcun.reporting.isotropy import LABELS, figures_of, measure_table, measure_tables, title_of
from ragcun.reporting.plots import loss_figure, rank_figure
from ragcun.reporting.runs import Run, examples, excerpt, gather, visible
from ragcun.reporting.tables import ABSENT, TITLES, Table, choices, metric_tables, score_tables, verdicts

UNCOMPARED = ("output_dir", "resume", "overwrite", "device", "cache_dir")  # settings that decide nothing about a model


def write_report(
    folders: Sequence[str | Path],
    output: str | Path | None = None,
    results: Sequence[str | Path] = (),
    isotropy: Sequence[str | Path] = (),
    data_dir: str | Path | None = None,
) -> Path:
    """Write one HTML page about run folders and return its path; the same files give the same bytes.

    `output` None writes ``report.html`` into a single run; `results` and `isotropy` are further files; `data_dir` holds
    the collections (None: the folder that results name).

    Raises:
        InputError: a file is missing or wrong, belongs to no run, or `output` is needed and not there.
    """
    if not folders:
        raise InputError("no run folder is given; name at least one that ragcun train wrote")
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
    made.filters |= {"excerpt": excerpt, "shown": shown, "score": score_text, "quote": lambda x: shlex.quote(str(x))}
    made.globals |= {"labels": LABELS, "parts": TITLES}
    return made


def shown(value: object) -> str:
    """Write a value of a configuration or manifest for a reader."""
    if value is None:
        return ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(shown, value)) or ABSENT
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def score_text(value: object) -> str:
    """Write a score of the selection, which is a loss with its sign turned where there is no dev set."""
    return f"{abs(value):.4f}" if isinstance(value, (int, float)) else shown(value)


def _picture(figure: Figure, of: str) -> dict[str, Any]:
    figure.set_dpi(144)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    data = base64.b64encode(buffer.getvalue()).decode()
    return {"data": data, "width": width, "height": height, "of": of}


def _view(run: Run, number: int, data_dir: Path | None) -> dict[str, Any]:
    places = [data_dir, *(file.manifest.get("data_dir") for file in run.evaluations)]
    draws = {"loss": loss_figure, "rank": rank_figure} if run.rows.get("step") else {}
    curves = {name: draw(run.folder / "metrics.jsonl") for name, draw in draws.items()}
    isotropy = []
    for path, report in run.isotropy:
        systems = run.systems_of(report)
        names = ", ".join(system.model for system in systems)
        pictures = {name: _picture(figure, names) for name, figure in figures_of(systems).items()}
        isotropy.append((path, report, measure_tables(systems), pictures))
    return {
        "run": run,
        "anchor": f"run-{number}",
        "data_dir": next(filter(None, places), "data"),
        "curves": {name: _picture(figure, run.name) for name, figure in curves.items() if figure},
        "evaluations": [
            (file, list(verdicts(file).itertuples()), metric_tables(file), choices(file)) for file in run.evaluations
        ],
        "examples": [(file.model.title, each) for file in run.evaluations for each in examples(file, data_dir)],
        "isotropy": isotropy,
    }


def _comparison(runs: Sequence[Run]) -> list[Table]:
    facts = {"best_epoch": shown, "criterion": shown, "score": score_text, "base_score": score_text, "steps": shown}
    header = ["run", "epoch kept", "chosen by", "score", "untouched base", "steps", "collapse"]
    training = []
    for run in runs:
        collapses = ", ".join(shown(row.get("collapse")) for row in run.rows.get("collapse", ())) or "none seen"
        training.append([run.name, *(write(run.result.get(name)) for name, write in facts.items()), collapses])
    names = dict.fromkeys(name for run in runs for name in run.config if name not in UNCOMPARED)
    settings = [[name, *(shown(run.config.get(name)) for run in runs)] for name in names]
    differing = [row for row in settings if len(set(row[1:])) > 1]
    measures = {
        f"{title_of(system) if system.untouched else run.name}, on {report.name}": system.spaces["documents"].measures
        for run in runs for _, report in run.isotropy for system in run.systems_of(report)
    }  # fmt: skip
    tables = [
        *score_tables([(run.name, file) for run in runs for file in run.evaluations]),
        Table("training", header, training, is_numeric=False),
        Table("settings that differ", ["setting", *(run.name for run in runs)], differing, is_numeric=False),
        measure_table("isotropy of documents", list(measures), list(measures.values())),
    ]
    return [table for table in tables if table.rows]
