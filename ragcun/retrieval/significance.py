"""Paired tests of a difference between two runs on the same queries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import permutation_test, ttest_rel

BATCH_VALUES = 1 << 20


@dataclass(frozen=True)
class PairedTests:
    """How sure a mean difference is.

    Attributes:
        n: queries.
        mean_difference: mean of ours − baseline.
        p_randomisation: two-sided p-value of the sign-flipping randomisation test.
        p_t: two-sided p-value of the paired t-test.
    """

    n: int
    mean_difference: float
    p_randomisation: float
    p_t: float


def paired_tests(
    ours: Mapping[str, float], baseline: Mapping[str, float], resamples: int = 10_000, seed: int = 0
) -> PairedTests:
    """Test whether two runs differ in a metric, given its value for each query.

    Randomisation (Fisher; Smucker, Allan and Carterette, CIKM 2007): under the null hypothesis the sign of each query's
    difference is a coin toss; p is twice the share of tosses whose mean is at least as far out on the observed side.
    All tosses are counted where there are no more than `resamples`, else a seeded sample and the observed one.
    Differences of 0 have no sign and are left out of the tosses. The t-test takes the differences for a normal sample.
    Where all differences are 0 both p-values are 1; where they are all equal and not 0 the t-test's is 0, as is their
    variance.

    Raises:
        ValueError: the query ids differ, there are fewer than 2 queries, or a value is not finite.
    """
    if ours.keys() != baseline.keys():
        only_ours, only_baseline = len(ours.keys() - baseline.keys()), len(baseline.keys() - ours.keys())
        raise ValueError(f"the runs have different queries: {only_ours} only in ours, {only_baseline} only in baseline")
    if len(ours) < 2:
        raise ValueError(f"paired tests need at least 2 queries, got {len(ours)}")
    first = np.array([ours[query] for query in ours], dtype=np.float64)
    second = np.array([baseline[query] for query in ours], dtype=np.float64)
    differences = first - second
    if not np.isfinite(differences).all():
        raise ValueError(f"{int((~np.isfinite(differences)).sum())} of {len(ours)} differences are not finite")
    difference = float(differences.mean())
    if not differences.any():
        return PairedTests(len(ours), difference, 1.0, 1.0)
    p_t = 0.0 if np.ptp(differences) == 0 else float(ttest_rel(first, second).pvalue)
    return PairedTests(len(ours), difference, _randomisation(differences, resamples, seed), p_t)


def _randomisation(differences: NDArray[np.float64], resamples: int, seed: int) -> float:
    tossed = differences[differences != 0]
    if len(tossed) < 2:
        return 1.0
    result = permutation_test(
        (tossed,),
        np.sum,
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, BATCH_VALUES // len(tossed)),
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)
