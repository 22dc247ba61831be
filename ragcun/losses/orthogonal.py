"""Global orthogonal regularisation: directions spread as those of independent uniform vectors do."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from ragcun.losses import register_loss
from ragcun.losses.covariance import _require_two_rows, in_full_precision, squared_gram_norm
from ragcun.losses.transforms import unit_rows


@in_full_precision
def global_orthogonal_regularization(z: Float[Tensor, "n dim"]) -> Float[Tensor, ""]:
    """M₁² + max(0, M₂ − 1/D), M₁ and M₂ being mean and mean square of the cosine over all pairs of distinct rows.

    Uniform random directions have E M₁ = 0 and E M₂ = 1/D. At most 2 − 1/D, when all rows have one direction; the
    gradient vanishes there. Invariant to rotation and to the length of rows, not to translation. A row of zeros has
    cosine 0 with every other and receives no gradient.

    Source: Zhang et al. 2017, arXiv:1708.06320, section 3, there of non-matching pairs alone. The mean over queries and
    positives apart is sentence-transformers' ``GlobalOrthogonalRegularizationLoss``.

    >>> import torch
    >>> global_orthogonal_regularization(torch.tensor([[2.0, 0.0], [3.0, 0.0]])).item()
    1.5
    """
    _require_two_rows(z)
    rows, pairs = unit_rows(z), len(z) * (len(z) - 1)
    own = rows.square().sum(1)  # 1, and 0 for a row of zeros
    mean = (rows.sum(0).square().sum() - own.sum()) / pairs
    second_moment = (squared_gram_norm(rows) - own.square().sum()) / pairs
    return mean.square() + (second_moment - 1 / z.shape[1]).relu()


register_loss("gor", lambda z, config, step: global_orthogonal_regularization(z))
