"""The isotropy of systems: all spaces of each, as ``isotropy.json`` holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from numpy.typing import ArrayLike

from ragcun.isotropy.figures import MeasureSettings
from ragcun.isotropy.moments import grouped_moments
from ragcun.isotropy.pairs import PairsReport, measure_pairs
from ragcun.isotropy.rows import Rows
from ragcun.isotropy.space import SpaceReport, measure_space

FORMAT = 1


@dataclass(frozen=True)
class SystemReport:
    """What was measured of one system.

    Attributes:
        model: its name.
        untouched: whether it is the base as published.
        distance: by which it searches.
        spaces: ``documents``, and with queries ``queries`` and ``together``, both stacked.
        pairs: of judged queries; None without.
    """

    model: str
    untouched: bool
    distance: Literal["euclidean", "cosine", "dot"]
    spaces: dict[str, SpaceReport]
    pairs: PairsReport | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, dictionaries and numbers, without ``pairs`` where there are none."""
        values = asdict(self)
        return values if self.pairs else {name: value for name, value in values.items() if name != "pairs"}


@dataclass(frozen=True)
class IsotropyReport:
    """What was measured of several systems on the same texts.

    Attributes:
        name: of the data.
        n_documents: documents in it.
        n_queries: queries in it; 0 for documents only.
        systems: the untouched base first where there is one.
        settings: how they were measured.
        manifest: what made the report.
    """

    name: str
    n_documents: int
    n_queries: int
    systems: list[SystemReport]
    settings: MeasureSettings = field(default_factory=MeasureSettings)
    manifest: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``isotropy.json``."""
        settings = asdict(self.settings)
        return {
            "format": FORMAT,
            "data": {"name": self.name, "n_documents": self.n_documents, "n_queries": self.n_queries},
            "systems": [system.to_dict() for system in self.systems],
            "settings": {name: settings[name] for name in ("seed", "groups", "k", "sample")},
            "manifest": dict(self.manifest),
        }


def measure_system(
    model: str,
    documents: ArrayLike,
    queries: ArrayLike | None = None,
    pairs: ArrayLike | None = None,
    *,
    untouched: bool = False,
    distance: Literal["euclidean", "cosine", "dot"] = "euclidean",
    settings: MeasureSettings | None = None,
) -> SystemReport:
    """Measure the embeddings of one system: of documents, of queries, of both together, and of judged pairs.

    Args:
        model: name of the system.
        documents: (d, dim), possibly a memory map; it is read in blocks and never copied whole.
        queries: (q, dim); None for documents only.
        pairs: (m, 2) row of a query, row of a document relevant to it; None without judgments.
        untouched: whether it is the base as published.
        distance: by which the system searches, for the record; all distances here are Euclidean.
        settings: how to measure.

    Raises:
        ValueError: not matrices of one width and at least 2 rows of finite real numbers each, pairs without queries,
            or pairs of rows that are not there.
    """
    settings = settings or MeasureSettings()
    if queries is None:
        if pairs is not None:
            raise ValueError("pairs are given without queries")
        spaces = {"documents": measure_space(Rows({"documents": documents}), settings)}
        return SystemReport(model, untouched, distance, spaces)
    parts = {"documents": Rows({"documents": documents}), "queries": Rows({"queries": queries})}
    together = Rows({"queries": queries, "documents": documents})
    moments = {
        name: grouped_moments(rows, settings.groups, settings.seed, settings.memory_budget_bytes)
        for name, rows in parts.items()
    }
    stacked = moments["queries"].stacked(moments["documents"])
    spaces = {name: measure_space(rows, settings, moments[name]) for name, rows in parts.items()}
    spaces["together"] = measure_space(together, settings, stacked)
    judged = None
    if pairs is not None:
        judged = measure_pairs(
            parts["queries"], parts["documents"], pairs, moments["queries"], moments["documents"], settings
        )
    return SystemReport(model, untouched, distance, spaces, judged)
