"""The page: from run folders to one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import ragcun
from ragcun.errors import InputError
from ragcun.io import write_text
from ragcun.reporting.html import comparison, overview
from ragcun.reporting.html.gather import Run, gather
from ragcun.reporting.html.texts import visible

NAME = "report.html"


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
    page = Path(folders[0]) / NAME if output is None else Path(output)
    if page.is_dir():
        raise InputError(f"{page} is a folder; name the HTML file to write")
    runs = gather(*(list(map(Path, paths)) for paths in (folders, results, isotropy)))
    write_text(page, render(runs, None if data_dir is None else Path(data_dir)))
    return page


def render(runs: Sequence[Run], data_dir: Path | None = None) -> str:
    """Return the page about runs as HTML.

    Raises:
        InputError: a file of a run is wrong.
    """
    views = [overview.view(run, number, data_dir) for number, run in enumerate(runs, start=1)]
    tables = comparison.comparison(runs) if len(runs) > 1 else []
    template = environment().get_template("page.html.j2")
    return template.render(runs=views, comparison=tables, version=ragcun.__version__)


def environment() -> Environment:
    """Return the templates' environment: every value that is written is made visible, then escaped."""
    return Environment(
        loader=PackageLoader("ragcun.reporting.html", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_written,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _written(value: object) -> object:
    """Return what stands in the page for the value of an expression; markup of our own templates stays as it is."""
    return value if isinstance(value, Markup) else visible(str(value))
