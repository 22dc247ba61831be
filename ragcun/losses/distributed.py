"""Sums over the ranks of a distributed run; without one there is a single rank, and nothing is sent."""

from __future__ import annotations

from torch import Tensor
from torch import distributed as dist


def world_size() -> int:
    """Return the number of ranks, 1 outside a distributed run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks_(x: Tensor) -> Tensor:
    """Replace `x`, contiguous and without gradient, by its sum over all ranks; every rank has to call."""
    if world_size() > 1:
        dist.all_reduce(x)
    return x
