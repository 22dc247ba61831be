"""The partition function of a matrix along its own axes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

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
