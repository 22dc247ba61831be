"""The partition function of a matrix along its own axes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, stdtrit

from ragcun.isotropy.rows import MEMORY_BUDGET_BYTES, Rows


def log_partition(
    rows: Rows,
    axes: NDArray[np.float64],
    group_of: NDArray[np.int64],
    memory_budget_bytes: int = MEMORY_BUDGET_BYTES,
) -> NDArray[np.float64]:
    """Log of Z(c) = Σ exp(x·c) over the rows of each group, for every axis c and its opposite −c.

    Shapes: axes (dim, a), one per column, group_of (n,) with groups 0…G − 1, returns (G, 2a).
    """
    found = np.full((int(group_of.max()) + 1, 2 * axes.shape[1]), -np.inf)
    for start, block in rows.blocks(memory_budget_bytes, "partition"):
        groups = group_of[start : start + len(block)]
        for group in np.unique(groups):
            projected = block[np.flatnonzero(groups == group)] @ axes
            both = np.concatenate([_log_sum(projected), _log_sum(-projected)])
            found[group] = np.logaddexp(found[group], both)
    return found


def partition_ratio(log_sums: NDArray[np.float64]) -> float:
    """Smallest over largest Z(c), from log Z of groups ``(G, axes)``."""
    total = logsumexp(log_sums, axis=0)
    return float(np.exp(total.min() - total.max()))


def _log_sum(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log of the sum of exponentials down each column."""
    largest = values.max(axis=0)
    return np.log(np.exp(values - largest).sum(axis=0)) + largest


GROUPS = 50
LEVEL = 0.95


def random_groups(n: int, groups: int, seed: int) -> NDArray[np.int64]:
    """Give each of `n` rows one of at most `groups` groups at random, whose sizes differ by at most 1: ``(n,)``."""
    return np.random.default_rng(seed).permutation(n) % min(groups, n)


def interval(value: float | None, *strata: Sequence[float | None]) -> tuple[float | None, float | None]:
    """95 % interval from the values v₁…v_G that are left when one of G random groups of rows is left out.

    value ± t·se with se² = (G − 1)/G · Σ_g (v_g − v̄)², the delete-group jackknife, and t the 97.5 % point of Student's
    law with G − 1 degrees of freedom. The se² of strata that were sampled apart, as queries and documents, add up, and
    the fewest groups give t. The interval is for the expected value of the measure at this number of rows, and is not
    cut to the range of the measure.

    Not a bootstrap: a resample of rows holds only 63 % distinct ones, and measures of a spectrum or of neighbours
    depend on that number, so percentiles would lie beside the value, and the spread of resamples is too large where
    spectra are flat: in simulations 2 to 6 times the true one for isotropic rows, against 1.2 to 1.6 times here, and
    both close to it for anisotropic rows. The square of se is never too small on average (Efron and Stein 1981).

    (None, None) where the value or one of those left is undefined, or a stratum has fewer than 2 groups.

    Source: Quenouille 1956; Efron and Stein 1981, *The jackknife estimate of variance*; Shao and Wu 1989.
    """
    left = [[one for one in values if one is not None] for values in strata]
    if value is None or any(len(a) < len(b) for a, b in zip(left, strata, strict=True)):
        return None, None
    groups = min(map(len, left))
    if groups < 2:
        return None, None
    variance = sum((len(values) - 1) * float(np.var(values)) for values in left)
    half = float(stdtrit(groups - 1, (1 + LEVEL) / 2)) * variance**0.5
    return value - half, value + half
