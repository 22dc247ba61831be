"""Checksums of the rows of a matrix: fast enough to check every vector that is read from a cache."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SUM_BYTES = 8
BLOCK = 4096


def row_checksums(keys: NDArray[np.uint8], vectors: NDArray[np.float32]) -> NDArray[np.uint64]:
    r"""Return a checksum of each row's key and vector: ``Σ_j w_j x_j mod 2^64`` over its words of 64 bits.

    The weights are odd and all different. An odd number is invertible modulo 2^64, so a change within one word always
    shows; any other accidental change is missed with probability about 2^-64. It is no defence against malice.

    Args:
        keys: (n, a multiple of 8) bytes.
        vectors: (n, dim).

    >>> keys, vectors = np.zeros((2, 8), dtype=np.uint8), np.ones((2, 3), dtype=np.float32)
    >>> keys[1, 0] = 1
    >>> len(set(row_checksums(keys, vectors).tolist()))
    2
    """
    size = keys.shape[1] + 4 * vectors.shape[1]
    weights = _weights(-(-size // 8))
    sums = np.empty(len(vectors), dtype=np.uint64)
    for start in range(0, len(vectors), BLOCK):
        rows = slice(start, start + BLOCK)
        block = np.zeros((len(vectors[rows]), 8 * len(weights)), dtype=np.uint8)
        block[:, : keys.shape[1]] = keys[rows]
        block[:, keys.shape[1] : size] = np.ascontiguousarray(vectors[rows], dtype="<f4").view(np.uint8)
        sums[rows] = block.view("<u8") @ weights
    return sums


def _weights(count: int) -> NDArray[np.uint64]:
    """Return odd numbers that look random: the first outputs of SplitMix64 (Steele et al., 2014)."""
    state = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
    return (state ^ (state >> np.uint64(31))) | np.uint64(1)
