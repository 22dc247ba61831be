"""Distances between embeddings, each under the name of what it computes."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

Distance = Literal["euclidean", "cosine", "dot"]
DISTANCES: tuple[Distance, ...] = get_args(Distance)


def squared_euclidean(x: Float[Tensor, "n dim"], y: Float[Tensor, "m dim"]) -> Float[Tensor, "n m"]:
    """Squared Euclidean distance of every row of `x` to every row of `y`: ‖x‖² + ‖y‖² − 2x·y, never below 0.

    >>> squared_euclidean(torch.tensor([[0.0, 3.0]]), torch.tensor([[4.0, 0.0]])).item()
    25.0
    """
    norms = x.square().sum(1, keepdim=True) + y.square().sum(1)
    return torch.addmm(norms, x, y.T, alpha=-2).clamp_min(0)


def euclidean_pairwise(x: Float[Tensor, "n dim"], y: Float[Tensor, "n dim"], eps: float = 1e-12) -> Float[Tensor, " n"]:
    """Euclidean distance of row `i` of `x` to row `i` of `y`: √(‖x − y‖² + eps).

    `eps` keeps the gradient finite where the rows are equal.
    """
    return ((x - y).square().sum(1) + eps).sqrt()
