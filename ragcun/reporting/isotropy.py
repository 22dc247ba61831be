"""Isotropy reports: reading ``isotropy.json``, and tables of its measures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ragcun.errors import InputError
from ragcun.io import read_json
from ragcun.isotropy.intervals import Measure
from ragcun.isotropy.report import FORMAT, IsotropyReport, SystemReport
from ragcun.reporting.tables import ABSENT, Table, markdown_table
from ragcun.results import typed

SPACES = ("documents", "queries", "together")


class Label(NamedTuple):
    """What a measure is called, its unit or range for an axis, and how to read it."""

    title: str
    unit: str
    note: str


LABELS = {
    "isotropy_score": Label("1 − std/mean", "at most 1", "of the covariance's eigenvalues; 1: all equal"),
    "isoscore": Label("IsoScore", "0 to 1", "1: all directions have equal variance, 0: one has it all"),
    "participation_ratio": Label("participation ratio", "dimensions", "(Σλ)² / Σλ², dimensions that hold the variance"),
    "effective_rank": Label("effective rank", "dimensions", "exp of the entropy of the singular values, centred"),
    "rankme": Label("RankMe", "dimensions", "exp of the entropy of the singular values, not centred"),
    "stable_rank": Label("stable rank", "dimensions", "squared Frobenius / squared spectral norm, not centred"),
    "condition_number": Label("condition number", "ratio of eigenvalues", "largest / smallest eigenvalue"),
    "partition": Label("partition I(W)", "0 to 1", "least / largest partition function; depends on scale"),
    "mean_cosine": Label("mean cosine", "−1 to 1", "of random pairs; 0: no common direction"),
    "uniformity": Label("uniformity", "log; lower: more uniform", "log mean exp(−2 d²) of unit rows; 0: all equal"),
    "alpha_req": Label("α-ReQ", "exponent of the decay", "decay of the spectrum; 0: flat"),
    "sigreg": Label("SIGReg", "0: isotropic Gaussian", "distance from N(0, I) along random directions, scaled"),
    "hubness_skewness": Label("hubness", "skewness", "skewness of k-occurrence; 0: no hubs"),
    "robin_hood": Label("Robin Hood index", "0 to 1", "share of k-occurrences to move until all rows have as many"),
    "antihub_share": Label("antihubs", "share of rows", "share of rows that are near no other"),
    "gap": Label("gap", "Euclidean distance", "between the means of queries and documents"),
    "relative_gap": Label("relative gap", "share of variance", "squared, against the summed variances"),
    "alignment": Label("alignment", "mean squared distance", "mean squared distance of relevant pairs"),
}


@dataclass(frozen=True)
class _Data:
    name: str
    n_documents: int
    n_queries: int


def read_isotropy(path: str | Path) -> IsotropyReport:
    """Read and validate an ``isotropy.json``; its settings and manifest are left out.

    Raises:
        InputError: the file is missing or no such report, or a part of it is missing or wrong; names the key.
    """
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path} is not an isotropy report of format {FORMAT}; give one of ragcun isotropy")
    data = typed(_Data, content.get("data"), path, "data")
    systems: list[SystemReport] = typed(list[SystemReport], content.get("systems"), path, "systems")
    if not systems:
        raise InputError(f"{path}: systems is empty; write it again with ragcun isotropy")
    for number, system in enumerate(systems):
        for place, found, keys in _needed(system):
            for key in keys:
                if key not in found:
                    where = f"{path}: systems[{number}].{place}"
                    raise InputError(f"{where} lacks {key!r}; write it again with ragcun isotropy")
    return IsotropyReport(data.name, data.n_documents, data.n_queries, systems)


def _needed(system: SystemReport) -> Iterator[tuple[str, Mapping[str, object], tuple[str, ...]]]:
    yield "spaces", system.spaces, ("documents",)
    for name, space in system.spaces.items():
        yield f"spaces.{name:.60}.distances", space.distances, ("random", "nearest")
    if system.pairs is not None:
        yield "pairs.distances", system.pairs.distances, ("relevant", "random")


def title_of(system: SystemReport) -> str:
    """Return the heading of a system's column."""
    return f"{system.model}{' (untouched)' if system.untouched else ''}"


def measure_tables(systems: Sequence[SystemReport]) -> list[Table]:
    """Lay out what was measured of all systems: a table for each space, and one for pairs.

    A column for each system, with the 95 % interval; what N(0, I) gives at the same size; and the rows measured.
    """
    titles = [title_of(system) for system in systems]
    tables = []
    for space in SPACES:
        if all(space in system.spaces for system in systems):
            dims = " and ".join(dict.fromkeys(f"{system.spaces[space].dim:,}" for system in systems))
            measures = [system.spaces[space].measures for system in systems]
            tables.append(measure_table(f"{space}, {dims} dimensions", titles, measures))
    pairs = [system.pairs.measures for system in systems if system.pairs is not None]
    if len(pairs) == len(systems):
        tables.append(measure_table("queries and their relevant documents", titles, pairs))
    return tables


def measure_table(caption: str, titles: Sequence[str], measures: Sequence[Mapping[str, Measure]]) -> Table:
    """Lay out measures by name, a column for each of `titles`."""
    rows = []
    for name in dict.fromkeys(name for each in measures for name in each):
        found = [each[name] for each in measures if name in each]
        isotropic = " / ".join(dict.fromkeys(number(each.isotropic) for each in found))
        sizes = " / ".join(dict.fromkeys(f"{each.n:,}" for each in found))
        rows.append([name, *(_cell(each.get(name)) for each in measures), isotropic, sizes])
    return Table(caption, ["measure", *titles, "isotropic", "rows"], rows)


def isotropy_table(report: IsotropyReport) -> str:
    """Lay out a report as Markdown tables, as `measure_tables` does."""
    return "\n".join(
        markdown_table(
            [f"{report.name}: {table.caption}", *table.header[1:]],
            [[LABELS[name].title if name in LABELS else name, *texts] for name, *texts in table.rows],
        )
        for table in measure_tables(report.systems)
    )


def number(value: float | None) -> str:
    """Write a number with four significant digits.

    >>> number(0.123456), number(383.96), number(1e-7), number(None)
    ('0.1235', '384', '1e-07', '–')
    """
    return ABSENT if value is None else f"{value:.4g}"


def _cell(measure: Measure | None) -> str:
    if measure is None or measure.value is None:
        return ABSENT
    interval = "" if measure.low is None else f" ({number(measure.low)} … {number(measure.high)})"
    return number(measure.value) + interval
