"""``ragcun report``: one self-contained HTML page of results, settings, curves, isotropy, best and worst queries."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from typing import ClassVar

from ragcun.options import flag


@dataclass
class Options:
    """Flags of ``ragcun report``."""

    title: ClassVar[str] = "report"
    runs: tuple[str, ...] = flag(MISSING, "run folders of train", metavar="RUN_DIR", positional=True)
    results: tuple[str, ...] = flag((), "further results of evaluate, beside those in the run folders", metavar="FILE")
    isotropy: tuple[str, ...] = flag(
        (), "further isotropy.json of isotropy, beside those in the run folders", metavar="FILE"
    )
    data_dir: str | None = flag(
        None, "folder of BEIR collections, for texts of queries and documents (default: the one the results name)"
    )
    output: str | None = flag(
        None, "page to write (default for one run: RUN_DIR/report.html; needed for several)", metavar="FILE"
    )


def run(options: Options) -> str:
    """Write the page and return where it is.

    Raises:
        InputError: a file of a run is missing or wrong.
    """
    from ragcun.reporting.html import write_report

    page = write_report(options.runs, options.output, options.results, options.isotropy, options.data_dir)
    return f"report: {page}"
