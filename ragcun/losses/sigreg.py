"""SIGReg: random one-dimensional views of a batch, each compared with the standard normal law (LeJEPA)."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ragcun.config import ObjectiveConfig
from ragcun.losses.characteristic import KNOTS, check_arguments, epps_pulley, statistic_
from ragcun.losses.covariance import in_full_precision
from ragcun.losses.gather import world_size
from ragcun.losses.registry import register_loss

__all__ = ["KNOTS", "SIGReg", "epps_pulley", "mean_epps_pulley", "random_slices", "sigreg"]


class _MeanOverSlices(torch.autograd.Function):
    """The mean of T, or of T/N, over slices; keeps its gradient by z, which is smaller than the projections."""

    @staticmethod
    def forward(
        ctx: Any,
        z: Float[Tensor, "n dim"],
        directions: Float[Tensor, "dim slices"],
        knots: str,
        n_free: bool,
        slope: bool,
    ) -> Float[Tensor, ""]:
        theta = directions.T @ (z * KNOTS[knots][0]).T
        statistic, total = statistic_(theta, knots, slope)
        scale = 1 / total if n_free else torch.ones_like(total)
        if slope:
            ctx.save_for_backward(theta.T @ directions.T, scale * (world_size() / len(theta)))
        return statistic.mean() * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_mean: Float[Tensor, ""]) -> tuple[Float[Tensor, "n dim"], None, None, None, None]:
        slope, scale = ctx.saved_tensors
        return slope * (to_mean * scale), None, None, None, None


def random_slices(
    dim: int,
    num_slices: int,
    step: int,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "dim num_slices"]:
    """Draw unit vectors in random directions, one per column, from the arguments alone.

    Drawn on the CPU whatever the device, so that all ranks and devices see the same directions in the same step, and
    with a generator of their own. A column of zeros stays one.

    Raises:
        ValueError: no dimension or no slice.

    >>> [round(norm, 6) for norm in random_slices(8, 3, step=5).norm(dim=0).tolist()]
    [1.0, 1.0, 1.0]
    """
    if dim < 1 or num_slices < 1:
        raise ValueError(f"slices need at least 1 dimension and 1 slice, got {dim} and {num_slices}")
    # The generator takes 32 bits; an odd multiplier keeps the steps of different seeds apart.
    generator = torch.Generator("cpu").manual_seed((seed * 0x9E3779B1 + step) % 2**32)
    directions = torch.randn(dim, num_slices, generator=generator, dtype=torch.float32)
    norms = directions.square().sum(0).sqrt_()  # ten times as fast as norm(dim=0)
    directions /= norms.clamp_min_(torch.finfo(torch.float32).tiny)
    return directions.to(device, dtype)


@in_full_precision
def mean_epps_pulley(
    z: Float[Tensor, "n dim"],
    directions: Float[Tensor, "dim slices"],
    knots: str = ObjectiveConfig.knots,
    n_free: bool = False,
) -> Float[Tensor, ""]:
    """Mean over slices of `epps_pulley(z @ directions)`, without gradient by `directions` and in less memory.

    Raises:
        ValueError: not matrices, no rows, columns or slices, shapes that do not match, or unknown knots.
    """
    check_arguments(z, knots)
    check_arguments(directions, knots)
    if len(directions) != z.shape[1]:
        shape = tuple(directions.shape)
        raise ValueError(f"directions must have {z.shape[1]} rows, one per column of z, got shape {shape}")
    return _MeanOverSlices.apply(z, directions, knots, n_free, torch.is_grad_enabled() and z.requires_grad)


@in_full_precision
def sigreg(
    z: Float[Tensor, "n dim"],
    step: int,
    num_slices: int = ObjectiveConfig.num_slices,
    knots: str = ObjectiveConfig.knots,
    n_free: bool = False,
    seed: int = 0,
) -> Float[Tensor, ""]:
    """Mean of `epps_pulley` over the projections of the rows of `z` on `random_slices` of this step.

    T grows with N off its target, so a weight for it is tied to the batch size; the weight of T/N (`n_free`) is not.
    The target has unit variance in every direction: rows of unit norm score almost like a collapse, and at total
    collapse the gradient is 0. Precision, memory and distributed runs are as in `epps_pulley`.

    Source: Balestriero and LeCun 2025 (LeJEPA), arXiv:2511.08544, definition of SIGReg; T/N is ours.

    Raises:
        ValueError: not a matrix, no rows or columns, no slices, or unknown knots.
    """
    check_arguments(z, knots)
    directions = random_slices(z.shape[1], num_slices, step, seed, z.device, z.dtype)
    return mean_epps_pulley(z, directions, knots, n_free)


class SIGReg(nn.Module):
    """`sigreg` with its settings.

    Attributes:
        num_slices: directions per step.
        knots: those of `epps_pulley`.
        n_free: whether the value is T/N.
        seed: a second number beside the step to draw the directions from.
    """

    def __init__(
        self,
        num_slices: int = ObjectiveConfig.num_slices,
        knots: str = ObjectiveConfig.knots,
        n_free: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.num_slices, self.knots, self.n_free, self.seed = num_slices, knots, n_free, seed

    def forward(self, z: Float[Tensor, "n dim"], step: int) -> Float[Tensor, ""]:
        """Give the loss of the rows of `z` on the slices of this step."""
        return sigreg(z, step, self.num_slices, self.knots, self.n_free, self.seed)


register_loss("sigreg", lambda z, config, step: sigreg(z, step, config.num_slices, config.knots, n_free=True))
