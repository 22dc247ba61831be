"""Tables of isotropy measures, and what measures are called in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ragcun.reporting.tables import ABSENT, markdown_table

SPACES = ("documents", "queries", "together")
LABELS = {
    "isotropy_score": ("1 − std/mean", "of the covariance's eigenvalues; 1: all equal, negative: few dominate"),
    "isoscore": ("IsoScore", "1: all directions have equal variance, 0: one has it all"),
    "participation_ratio": ("participation ratio", "dimensions that hold the variance, (Σλ)² / Σλ²"),
    "effective_rank": ("effective rank", "exp of the entropy of the singular values' shares, centred"),
    "rankme": ("RankMe", "exp of the entropy of the singular values' shares, not centred"),
    "stable_rank": ("stable rank", "squared Frobenius norm / squared spectral norm, not centred"),
    "condition_number": ("condition number", "largest / smallest eigenvalue"),
    "partition": ("partition I(W)", "least / largest partition function; depends on scale"),
    "mean_cosine": ("mean cosine", "of random pairs; 0: no common direction"),
    "uniformity": ("uniformity", "log mean exp(−2 d²) of rows of length 1; 0: all equal, about −4: even"),
    "alpha_req": ("α-ReQ", "decay exponent of the spectrum; 0: flat"),
    "sigreg": ("SIGReg", "distance from N(0, I) along random directions after scaling; 0: none"),
    "hubness_skewness": ("hubness", "skewness of k-occurrence; 0: no hubs"),
    "robin_hood": ("Robin Hood index", "share of k-occurrences to move until all rows have equally many"),
    "antihub_share": ("antihubs", "share of rows that are near no other"),
    "gap": ("gap", "distance between the means of queries and documents"),
    "relative_gap": ("relative gap", "squared, against the summed variances"),
    "alignment": ("alignment", "mean squared distance of relevant pairs"),
}
"""What a measure is called, and a word on it."""


def titled(system: Mapping[str, Any]) -> str:
    """Return the heading of a system's column."""
    return f"{system['model']}{' (untouched)' if system['untouched'] else ''}"


def measured_spaces(systems: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Return what can be laid out beside one another: measures of each system, by the heading of their table."""
    tables: dict[str, list[Mapping[str, Any]]] = {}
    for space in SPACES:
        if all(space in system["spaces"] for system in systems):
            found = [system["spaces"][space] for system in systems]
            dims = " and ".join(dict.fromkeys(f"{each['dim']:,}" for each in found))
            tables[f"{space}, {dims} dimensions"] = [each["measures"] for each in found]
    if all("pairs" in system for system in systems):
        tables["queries and their relevant documents"] = [system["pairs"]["measures"] for system in systems]
    return tables


def isotropy_table(report: Mapping[str, Any]) -> str:
    """Lay out an ``isotropy.json`` as Markdown tables: one for each space, and one for pairs.

    A row for each measure; a column for each system, with the 95 % interval; what N(0, I) gives at the same size; and
    the number of rows that were measured.
    """
    systems = report["systems"]
    out = []
    for heading, found in measured_spaces(systems).items():
        names = dict.fromkeys(name for measures in found for name in measures)
        rows = []
        for name in names:
            cells = [measures.get(name) for measures in found]
            rows.append([LABELS[name][0], *map(_cell, cells), joined_isotropic(cells), joined_sizes(cells)])
        header = [f"{report['data']['name']}: {heading}", *map(titled, systems), "isotropic", "rows"]
        out.append(markdown_table(header, rows))
    return "\n".join(out)


def number(value: float | None) -> str:
    """Write a number with four significant digits.

    >>> number(0.123456), number(383.96), number(1e-7), number(None)
    ('0.1235', '384', '1e-07', '–')
    """
    return ABSENT if value is None else f"{value:.4g}"


def joined_isotropic(measures: Sequence[Mapping[str, Any] | None]) -> str:
    """Return what N(0, I) gives at each system's size, once where that is the same."""
    return _joined(number(each["isotropic"]) for each in measures if each is not None)


def joined_sizes(measures: Sequence[Mapping[str, Any] | None]) -> str:
    """Return the rows that were measured of each system, once where that is the same."""
    return _joined(f"{each['n']:,}" for each in measures if each is not None)


def _cell(measure: Mapping[str, Any] | None) -> str:
    if measure is None or measure["value"] is None:
        return ABSENT
    interval = "" if measure["low"] is None else f" ({number(measure['low'])} … {number(measure['high'])})"
    return number(measure["value"]) + interval


def _joined(texts: Any) -> str:
    return " / ".join(dict.fromkeys(texts)) or ABSENT
