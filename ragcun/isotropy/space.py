"""All measures of one space of embeddings, with their intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ragcun.isotropy import directions
from ragcun.isotropy.distributions import Distribution, distribution
from ragcun.isotropy.figures import Measure, MeasureSettings, join
from ragcun.isotropy.intervals import log_partition, partition_ratio, random_groups
from ragcun.isotropy.isotropic import isotropic_spectrum, spectrum_measures
from ragcun.isotropy.moments import GroupedMoments, Moments, grouped_moments
from ragcun.isotropy.rows import Rows, as_rows, sample_rows
from ragcun.isotropy.sampled import Occurrence, direction_measures, neighbour_measures, random_distances

__all__ = ["NAMES", "Measure", "MeasureSettings", "SpaceReport", "measure_space"]

NAMES = (
    "isotropy_score",
    "isoscore",
    "participation_ratio",
    "effective_rank",
    "rankme",
    "stable_rank",
    "condition_number",
    "partition",
    "mean_cosine",
    "uniformity",
    "alpha_req",
    "sigreg",
    "hubness_skewness",
    "robin_hood",
    "antihub_share",
)


@dataclass(frozen=True)
class SpaceReport:
    """What was measured of one space; the fields are those of ``isotropy.json``.

    Attributes:
        n: rows.
        dim: columns.
        measures: by name.
        spectrum: eigenvalues of the unbiased covariance, descending.
        norms: of the rows.
        distances: Euclidean, ``random`` of pairs of rows, and ``nearest`` of a row's nearest other row.
        k_occurrence: how many rows by their N_k.
    """

    n: int
    dim: int
    measures: dict[str, Measure]
    spectrum: list[float]
    norms: Distribution
    distances: dict[str, Distribution]
    k_occurrence: Occurrence


def measure_space(
    x: Rows | ArrayLike, settings: MeasureSettings | None = None, moments: GroupedMoments | None = None
) -> SpaceReport:
    """Measure a matrix of embeddings ``(n, dim)``, possibly on disk, in bounded memory.

    Moments and the partition function take all rows; uniformity, SIGReg, hubness and distances a sample of them, drawn
    without replacement, in which neighbours are sought too. The partition function's `isotropic` is None, since it
    depends on the scale, and its interval keeps the axes of all rows.

    Raises:
        ValueError: not a matrix of at least 2 rows of real numbers, or a row is not finite; says which.
    """
    rows, settings = as_rows(x), settings or MeasureSettings()
    moments = moments or grouped_moments(rows, settings.groups, settings.seed, settings.memory_budget_bytes)
    sample = rows.take(sample_rows(len(rows), settings.sample, settings.seed))
    hubs, occurrence, nearest = neighbour_measures(sample, settings)
    measures = _of_moments(moments, settings) | direction_measures(sample, settings) | hubs
    measures |= _of_partition(rows, moments.total, settings)
    return SpaceReport(
        len(rows),
        rows.dim,
        {name: measures[name] for name in NAMES},
        moments.total.covariance_eigenvalues().tolist(),
        distribution(moments.norms),
        {"random": random_distances(sample, settings), "nearest": nearest},
        occurrence,
    )


def _of_moments(moments: GroupedMoments, settings: MeasureSettings) -> dict[str, Measure]:
    n, dim = moments.total.count, len(moments.total.mean)
    left = [_moment_values(one) for one in moments.without_each()]
    isotropic = isotropic_spectrum(n, dim, settings.seed) | {"mean_cosine": 0.0}
    return join(_moment_values(moments.total), left, n, isotropic)


def _moment_values(moments: Moments) -> dict[str, float | None]:
    values = spectrum_measures(moments.count, moments.covariance_eigenvalues(), moments.second_eigenvalues())
    return values | {"mean_cosine": directions.mean_cosine(moments)}


def _of_partition(rows: Rows, moments: Moments, settings: MeasureSettings) -> dict[str, Measure]:
    axes = np.linalg.eigh(moments.second)[1]
    group_of = random_groups(len(rows), settings.groups, settings.seed)
    sums = log_partition(rows, axes, group_of, settings.memory_budget_bytes)
    left = [{"partition": partition_ratio(np.delete(sums, group, axis=0))} for group in range(len(sums))]
    return join({"partition": partition_ratio(sums)}, left, len(rows), {})
