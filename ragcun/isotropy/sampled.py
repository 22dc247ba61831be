"""Measures that compare all pairs of rows, of a sample of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ragcun.isotropy import directions, hubness
from ragcun.isotropy.distributions import Distribution, distances_between, distribution, random_pairs
from ragcun.isotropy.figures import Measure, MeasureSettings, join
from ragcun.isotropy.intervals import random_groups
from ragcun.isotropy.isotropic import defined, hubness_measures, isotropic_hubness, isotropic_uniformity
from ragcun.isotropy.normality import isotropic_sigreg, sigreg_statistic
from ragcun.isotropy.rows import Rows, squared_norms

TEMPERATURE = 2.0
ONE_LENGTH = 1e-3


@dataclass(frozen=True)
class Occurrence:
    """How many of `n` rows are among the `k` nearest of how many others: ``counts`` of rows, by that number as text."""

    k: int
    n: int
    counts: dict[str, int]


def direction_measures(sample: NDArray[np.float64], settings: MeasureSettings) -> dict[str, Measure]:
    """Measure uniformity and SIGReg.

    The interval of SIGReg is for the slices of the seed, which are the same for all systems of as many dimensions.
    """
    n, dim = sample.shape
    group_of = random_groups(n, settings.groups, settings.seed)
    sums, sizes = directions.kernel_sums(sample, group_of, TEMPERATURE)
    total, statistic = float(sums.sum()), partial(sigreg_statistic, seed=settings.seed)
    values = {"uniformity": directions.log_mean_kernel(total, n), "sigreg": defined(statistic, sample)}
    left = []
    for group, size in enumerate(sizes.tolist()):
        rest = total - 2 * float(sums[group].sum()) + float(sums[group, group])
        uniformity = directions.log_mean_kernel(rest, n - size) if n - size > 1 else None
        left.append({"uniformity": uniformity, "sigreg": defined(statistic, sample[group_of != group])})
    isotropic = {"uniformity": isotropic_uniformity(dim, TEMPERATURE), "sigreg": isotropic_sigreg(n, dim)}
    return join(values, left, n, isotropic)


def neighbour_measures(
    sample: NDArray[np.float64], settings: MeasureSettings
) -> tuple[dict[str, Measure], Occurrence, Distribution]:
    """Measure hubness; return N_k in figures, and the distances to the nearest other row, too.

    The skewness hangs on the few largest hubs, and its interval is too short where they vary much: for rows of N(0, I)
    it held the expected value in 80 % of simulations.

    Rows of N(0, I) have hubs because their lengths differ, rows of one length hardly any. So where all lengths are
    within a thousandth of each other, what is said of isotropic rows is said of N(0, I) scaled to one length.
    """
    n, dim = sample.shape
    k = min(settings.k, n - 1)
    neighbours, distances = hubness.nearest_rows(sample, min(2 * k, n - 1), settings.memory_budget_bytes)
    counts = hubness.k_occurrence(neighbours[:, :k], n)
    group_of = random_groups(n, settings.groups, settings.seed)
    left = [hubness_measures(one) for one in hubness.k_occurrences_without(neighbours, k, group_of)]
    lengths = np.sqrt(squared_norms(sample))
    one_length = bool(lengths.max() - lengths.min() <= ONE_LENGTH * lengths.max())
    isotropic = isotropic_hubness(n, dim, k, settings.seed, one_length)
    rows_by_count = {str(count): rows for count, rows in enumerate(np.bincount(counts).tolist()) if rows}
    measures = join(hubness_measures(counts), left, n, isotropic)
    return measures, Occurrence(k, n, rows_by_count), distribution(distances[:, 0])


def random_distances(sample: NDArray[np.float64], settings: MeasureSettings) -> Distribution:
    """Euclidean distances of random pairs of different rows, `settings.sample` of them at most."""
    rows = Rows({"the sample": sample})
    left, right = random_pairs(len(rows), settings.sample, settings.seed)
    return distribution(distances_between(rows, rows, left, right))
