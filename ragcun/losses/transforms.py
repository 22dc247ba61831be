"""Transforms of rows before an isotropy loss: which of size, centre and spread per axis the loss is to see."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ragcun.losses.covariance import COLLAPSED_VARIANCE, _require_two_rows, _scaled, in_full_precision, unit_rows

# Bounds the gradient of a column of little variance, as a head that pads with zeros has, to 100 times the usual.
LEAST_VARIANCE = 1e-4


@in_full_precision
def standardize(z: Float[Tensor, "n dim"]) -> Float[Tensor, "n dim"]:
    """Per dimension (z − mean) / std, std² being the unbiased variance, at least 1e-4 of the mean one.

    A constant column becomes 0. The covariance is then the correlation matrix: size, centre and unequal spread across
    the axes no longer count, and VICReg's variance term is constant. Not invariant to rotation.

    >>> standardize(torch.tensor([[0.0, 10.0], [1.0, 20.0], [2.0, 30.0]])).round(decimals=4).tolist()
    [[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0]]
    """
    _require_two_rows(z)
    z = _scaled(z, z.detach().abs().amax())
    centred = z - z.mean(0)
    variance = centred.square().sum(0) / (len(z) - 1)
    floor = (LEAST_VARIANCE * variance.mean()).clamp_min(COLLAPSED_VARIANCE)
    return centred / torch.maximum(variance, floor).sqrt()


def standardize_l2(z: Float[Tensor, "n dim"]) -> Float[Tensor, "n dim"]:
    """`standardize`, then each row divided by its length; for losses that ignore scale, as a mean square is 1/D."""
    return unit_rows(standardize(z))


@in_full_precision
def unit_scale(z: Float[Tensor, "n dim"]) -> Float[Tensor, "n dim"]:
    """Divide by √v, v = tr C / D being the mean variance per dimension: one scalar for the batch, not held constant.

    No gradient shrinks or grows the batch afterwards, so what follows cannot prevent a collapse to a point. v is at
    least 1e-12 times the square of the largest coordinate, so a collapsed batch gives finite values.

    >>> unit_scale(torch.tensor([[0.0, 2.0], [0.0, 6.0]])).round(decimals=4).tolist()
    [[0.0, 1.0], [0.0, 3.0]]
    """
    _require_two_rows(z)
    z = _scaled(z, z.detach().abs().amax())
    variance = (z - z.mean(0)).square().sum() / ((len(z) - 1) * z.shape[1])
    return z / variance.clamp_min(COLLAPSED_VARIANCE).sqrt()


def sqrt_dim(z: Float[Tensor, "n dim"]) -> Float[Tensor, "n dim"]:
    """√D · z/‖z‖ per row, for embeddings compared by cosine: the sphere on which a coordinate has mean square 1.

    Uniform rows on it come close to N(0, I); to SIGReg rows of length 1 look like total collapse.
    """
    return math.sqrt(z.shape[1]) * unit_rows(z)


SCALED_BY_ROWS = ("sigreg", "vicreg")
"""Isotropy losses whose optimum has rows of length √D."""
TRANSFORMS: dict[str, Callable[[Float[Tensor, "n dim"]], Float[Tensor, "n dim"]]] = {
    "none": lambda z: z,
    "standardize": standardize,
    "standardize_l2": standardize_l2,
    "unit_scale": unit_scale,
    "sqrt_dim": sqrt_dim,
}
