"""Variance and covariance terms of VICReg: every dimension spread by itself, none repeating another."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from ragcun.losses.covariance import _require_two_rows, in_full_precision
from ragcun.losses.orthogonal import squared_gram_norm
from ragcun.losses.registry import register_loss

EPS = 1e-4  # of the paper: keeps the root's gradient finite


@in_full_precision
def variance_hinge(z: Float[Tensor, "n dim"], gamma: float = 1.0) -> Float[Tensor, ""]:
    """Mean over dimensions d of max(0, γ − √(var_d + 1e-4)), var_d being the unbiased variance of column d.

    From 0 to γ − 0.01, at total collapse, where its gradient vanishes (VICReg, eqs. 1 and 2).
    """
    _require_two_rows(z)
    return (gamma - (z.var(0) + EPS).sqrt()).relu().mean()


@in_full_precision
def off_diagonal_covariance(z: Float[Tensor, "n dim"]) -> Float[Tensor, ""]:
    """Σ_{a≠b} C_ab² / D, C being the unbiased covariance of the rows (VICReg, eqs. 3 and 4).

    0 where the dimensions are uncorrelated, and at total collapse; unbounded above: z ×10 gives a value ×10⁴.
    """
    _require_two_rows(z)
    centred = z - z.mean(0)
    off_diagonal = squared_gram_norm(centred) - centred.square().sum(0).square().sum()
    return off_diagonal.clamp_min(0) / ((len(z) - 1) ** 2 * z.shape[1])


def variance_covariance(
    z: Float[Tensor, "n dim"], gamma: float = 1.0, variance_weight: float = 1.0, covariance_weight: float = 0.04
) -> Float[Tensor, ""]:
    """variance_weight · `variance_hinge` + covariance_weight · `off_diagonal_covariance`: VICReg without invariance.

    The paper weighs invariance, variance and covariance 25 : 25 : 1; the defaults are that divided by 25. The minimum,
    0, needs std ≥ γ in every dimension and no correlation; unequal spread above γ costs nothing, so the batch need not
    be isotropic there. Not free of scale: embeddings of unit norm in D dimensions have a std of about 1/√D, so the
    hinge first makes them longer. Not invariant to rotation. In float32 coordinates beyond about 1e8 overflow.

    Source: Bardes et al. 2022 (VICReg), arXiv:2105.04906, eqs. 1 to 4.

    >>> import torch
    >>> round(variance_covariance(torch.zeros(4, 3)).item(), 6)
    0.99
    """
    return variance_weight * variance_hinge(z, gamma) + covariance_weight * off_diagonal_covariance(z)


register_loss("vicreg", lambda z, config, step: variance_covariance(z))
