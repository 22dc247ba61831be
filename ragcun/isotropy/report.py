"""The isotropy of systems: all measures of each one's embeddings, with intervals, as ``isotropy.json`` holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import StrictBool

from ragcun.config import Distance
from ragcun.errors import InputError
from ragcun.io import read_json
from ragcun.isotropy import hubness, measures
from ragcun.isotropy.moments import (
    DEFAULTS,
    GroupedMoments,
    MeasureSettings,
    Moments,
    Rows,
    grouped_moments,
    random_groups,
)
from ragcun.isotropy.pairs import Distribution, PairsReport, distances_of, distribution, measure_pairs, random_pairs
from ragcun.isotropy.spectrum import Measure, defined, isotropic_spectrum, join, spectrum_measures
from ragcun.results import Count, Number, typed

FORMAT = 1
ONE_LENGTH = 1e-3
NAMES = (
    *("isotropy_score", "isoscore", "participation_ratio", "effective_rank", "rankme", "stable_rank"),
    *("condition_number", "partition", "mean_cosine", "uniformity", "alpha_req", "sigreg"),
    *("hubness_skewness", "robin_hood", "antihub_share"),
)


@dataclass(frozen=True)
class Occurrence:
    """How many of `n` rows are among the `k` nearest of how many others: ``counts`` of rows, by that number as text."""

    k: Count
    n: Count
    counts: dict[str, Count]


@dataclass(frozen=True)
class SpaceReport:
    """What was measured of one matrix of `n` embeddings; the fields are those of ``isotropy.json``."""

    n: Count
    dim: Count
    measures: dict[str, Measure]
    spectrum: list[Number]  # eigenvalues of the unbiased covariance, descending
    norms: Distribution
    distances: dict[str, Distribution]  # Euclidean: random, of pairs of rows, and nearest, of a row's nearest other
    k_occurrence: Occurrence


@dataclass(frozen=True)
class SystemReport:
    """What was measured of one system, the base as it is (`untouched`) or another."""

    model: str
    untouched: StrictBool
    distance: Distance  # by which it searches
    spaces: dict[str, SpaceReport]  # documents, and with queries those, and together, both stacked
    pairs: PairsReport | None = None  # of judged queries

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, dictionaries and numbers, without ``pairs`` where there are none."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class IsotropyReport:
    """What was measured of several systems, the untouched base first, on the same texts; what made it is `manifest`."""

    name: str
    n_documents: Count
    n_queries: Count
    systems: list[SystemReport]
    settings: MeasureSettings = field(default_factory=MeasureSettings)
    manifest: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str | Path) -> IsotropyReport:
        """Read an ``isotropy.json`` without settings and manifest.

        Raises:
            InputError: it is missing, or a part of it is missing or wrong; names the file and the key.
        """
        content = read_json(path)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise InputError(f"{path} is not an isotropy report of format {FORMAT}; give one by ragcun isotropy")
        data = typed(dict[str, Any], content.get("data"), path, "data")
        report: IsotropyReport = typed(cls, data | {"systems": content.get("systems")}, path)
        if not report.systems:
            raise InputError(f"{path}: systems is empty; write it again with ragcun isotropy")
        for number, system in enumerate(report.systems):
            lacking, at = {"spaces": {"documents"} - system.spaces.keys()}, f"{path}: systems[{number}]"
            for name, space in system.spaces.items():
                lacking[f"spaces.{name:.60}.distances"] = {"random", "nearest"} - space.distances.keys()
            if system.pairs is not None:
                lacking["pairs.distances"] = {"relevant", "random"} - system.pairs.distances.keys()
            for place, key in ((place, key) for place, keys in lacking.items() for key in sorted(keys)):
                raise InputError(f"{at}.{place} lacks {key!r}; write it again with ragcun isotropy")
        return report

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
    distance: Distance = "euclidean",
    settings: MeasureSettings = DEFAULTS,
) -> SystemReport:
    """Measure the embeddings of one system: of documents, of queries, of both together, and of judged pairs.

    Shapes: documents (d, dim), queries (q, dim), possibly memory maps, read in blocks; pairs (m, 2), row of a query and
    row of a document relevant to it. `untouched` and `distance` are for the record: distances here are Euclidean.

    Raises:
        ValueError: not matrices of one width and at least 2 rows of finite real numbers each, pairs without queries, or
            pairs of rows that are not there.
    """
    of_documents = grouped_moments(Rows({"documents": documents}), settings)
    spaces, judged = {"documents": measure_space(of_documents, settings)}, None
    if queries is not None:
        of_queries = grouped_moments(Rows({"queries": queries}), settings)
        together = of_queries.stacked(of_documents)
        spaces |= {"queries": measure_space(of_queries, settings), "together": measure_space(together, settings)}
        if pairs is not None:
            judged = measure_pairs(of_queries, of_documents, pairs, settings)
    elif pairs is not None:
        raise ValueError("pairs are given without queries")
    return SystemReport(model, untouched, distance, spaces, judged)


def measure_space(x: GroupedMoments | ArrayLike, settings: MeasureSettings = DEFAULTS) -> SpaceReport:
    """Measure a matrix of embeddings ``(n, dim)``, possibly on disk, in bounded memory.

    Moments and the partition function take all rows, what compares pairs of rows a sample of them. The partition
    function's `isotropic` is None, since it depends on the scale, and its interval keeps the axes of all rows.

    Raises:
        ValueError: not a matrix of at least 2 rows of real numbers, or a row is not finite.
    """
    moments = x if isinstance(x, GroupedMoments) else grouped_moments(x, settings)
    sample = moments.rows.sample(settings.sample, settings.seed)
    found, occurrence, nearest = _neighbour_measures(sample, settings)
    found |= _moment_measures(moments, settings) | _direction_measures(sample, settings) | _partition(moments, settings)
    rows, pairs = Rows({"the sample": sample}), random_pairs(len(sample), settings.sample, settings.seed)
    distances = {"random": distances_of(rows, rows, *pairs), "nearest": nearest}
    (n, dim), ordered = (moments.total.count, moments.rows.dim), {name: found[name] for name in NAMES}
    spectrum = moments.total.covariance_eigenvalues().tolist()
    return SpaceReport(n, dim, ordered, spectrum, distribution(moments.norms), distances, occurrence)


def _moment_measures(moments: GroupedMoments, settings: MeasureSettings) -> dict[str, Measure]:
    def values(one: Moments) -> dict[str, float | None]:
        eigenvalues = (one.covariance_eigenvalues(), one.second_eigenvalues())
        return spectrum_measures(one.count, *eigenvalues) | {"mean_cosine": measures.mean_cosine(one)}

    n, dim = moments.total.count, len(moments.total.mean)
    isotropic = isotropic_spectrum(n, dim, settings.seed) | {"mean_cosine": 0.0}
    return join(values(moments.total), [list(map(values, moments.without_each()))], n, isotropic)


def _partition(moments: GroupedMoments, settings: MeasureSettings) -> dict[str, Measure]:
    group_of = random_groups(len(moments.rows), settings.groups, settings.seed)
    sums = measures.log_partition(moments, group_of)
    left = [{"partition": measures.partition_ratio(np.delete(sums, group, axis=0))} for group in range(len(sums))]
    return join({"partition": measures.partition_ratio(sums)}, [left], len(moments.rows), {})


def _direction_measures(sample: NDArray[np.float64], settings: MeasureSettings) -> dict[str, Measure]:
    n, dim = sample.shape
    group_of = random_groups(n, settings.groups, settings.seed)
    sums, sigreg = measures.kernel_sums(sample, group_of, 2), partial(measures.sigreg_statistic, seed=settings.seed)

    def values(rows: NDArray[np.float64], total: float) -> dict[str, float | None]:
        uniformity = measures.log_mean_kernel(total, len(rows)) if len(rows) > 1 else None
        return {"uniformity": uniformity, "sigreg": defined(sigreg, rows)}

    whole = float(sums.sum())
    rest = (whole - 2 * float(row.sum()) + float(row[group]) for group, row in enumerate(sums))
    left = [values(sample[group_of != group], total) for group, total in enumerate(rest)]
    isotropic = {"uniformity": measures.isotropic_uniformity(dim), "sigreg": measures.isotropic_sigreg(n, dim)}
    return join(values(sample, whole), [left], n, isotropic)


def _neighbour_measures(
    sample: NDArray[np.float64], settings: MeasureSettings
) -> tuple[dict[str, Measure], Occurrence, Distribution]:
    n, dim = sample.shape
    k = min(settings.k, n - 1)
    neighbours, distances = hubness.nearest_rows(sample, min(2 * k, n - 1))
    counts = hubness.k_occurrence(neighbours[:, :k])
    group_of = random_groups(n, settings.groups, settings.seed)
    left = [hubness.hubness_measures(one) for one in hubness.k_occurrences_without(neighbours, k, group_of)]
    lengths = np.linalg.norm(sample, axis=1)
    # rows of N(0, I) have hubs because their lengths differ: rows of one length are compared with directions
    one_length = bool(lengths.max() - lengths.min() <= ONE_LENGTH * lengths.max())
    isotropic = hubness.isotropic_hubness(n, dim, k, settings.seed, one_length)
    rows_by_count = {str(count): rows for count, rows in enumerate(np.bincount(counts).tolist()) if rows}
    # the interval of the skewness is too short: for rows of N(0, I) it held the expected value in 80 % of simulations
    found = join(hubness.hubness_measures(counts), [left], n, isotropic)
    return found, Occurrence(k, n, rows_by_count), distribution(distances[:, 0])
