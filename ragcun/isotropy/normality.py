"""SIGReg as a measure: how far random one-dimensional views of the rows are from a normal law."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ragcun.isotropy.errors import UndefinedMeasure

NUM_SLICES = 256


def sigreg_statistic(x: NDArray[np.float64], num_slices: int = NUM_SLICES, seed: int = 0) -> float:
    """`ragcun.losses.sigreg` of T/N of the rows less their mean, over √(mean variance of a dimension).

    Rows of any mean and scale are so compared with the isotropic normal law that has theirs. In float32, over
    `num_slices` directions drawn from `seed`. N(0, I) gives about `isotropic_sigreg`; 0 is only reached by that law in
    an infinite sample, and the larger the value the less normal or the less isotropic.

    Raises:
        UndefinedMeasure: all rows are equal.
    """
    import torch

    from ragcun.losses.sigreg import sigreg

    centred = x - x[0]
    centred -= centred.mean(axis=0)
    largest = float(np.abs(centred).max())
    if largest == 0:
        raise UndefinedMeasure("SIGReg cannot scale rows to unit variance: all rows are equal")
    centred /= largest
    centred *= np.sqrt(centred.size / np.square(centred).sum())
    return float(sigreg(torch.from_numpy(centred.astype(np.float32)), 0, num_slices, n_free=True, seed=seed))


def isotropic_sigreg(n: int, dim: int) -> float:
    """Return the expected `sigreg_statistic` of n rows of N(0, I), to leading order in 1/n.

    Σ_k w_k (1 − e^(−t²)(1 + t² + t⁴/(2·dim)))/n over the knots t of SIGReg and their weights: the last two terms are
    what taking off the mean and scaling by the mean variance of all dimensions spare.
    """
    step, count = 3 / 16, 16
    t = step * np.arange(1, count + 1)
    weights = 2 * step * np.exp(-(t**2) / 2)
    weights[-1] /= 2
    return float((weights * (1 - np.exp(-(t**2)) * (1 + t**2 + t**4 / (2 * dim)))).sum() / n)
