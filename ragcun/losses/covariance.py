"""Losses on the second moments of a batch: isotropy, variance, VICReg, and global orthogonal regularisation."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from itertools import chain
from typing import Any, ParamSpec

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from ragcun.losses import register_loss

_Parameters = ParamSpec("_Parameters")

# Spread below this fraction of the largest coordinate's square is what float32 rounding leaves of a constant batch.
COLLAPSED_VARIANCE = 1e-12


def _widened(argument: Any) -> Any:
    half = isinstance(argument, Tensor) and argument.dtype in (torch.float16, torch.bfloat16)
    return argument.float() if half else argument


def in_full_precision(function: Callable[_Parameters, Tensor]) -> Callable[_Parameters, Tensor]:
    """Make `function` run without autocast, half-precision tensors widened to float32; float64 stays float64."""

    @wraps(function)
    def widened(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> Tensor:
        device = next(value.device.type for value in chain(args, kwargs.values()) if isinstance(value, Tensor))
        autocast = torch.is_autocast_enabled(device)
        with torch.autocast(device_type=device, enabled=False) if autocast else nullcontext():
            return function(*map(_widened, args), **{name: _widened(value) for name, value in kwargs.items()})

    return widened


def _require_two_rows(z: Float[Tensor, "n dim"]) -> None:
    if len(z) < 2:
        raise ValueError(f"a variance needs at least 2 rows, got {len(z)}")


class _Deviation(torch.autograd.Function):
    """‖C − vI‖_F² and the mean variance v = tr C / D, with their gradient in closed form.

    Up to n = D the eigenvalues of C are those of the smaller Gram matrix and D − n zeros. One product is the whole
    backward pass; autograd takes three times as long on a small batch.
    """

    @staticmethod
    def forward(ctx: Any, z: Float[Tensor, "n dim"]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        n, dim = z.shape
        centred = z - z.mean(0)
        matrix = (centred.T @ centred if n > dim else centred @ centred.T).div_(n - 1)
        variance = matrix.diagonal().sum() / dim
        matrix.diagonal().sub_(variance)
        ctx.save_for_backward(centred, matrix)
        return matrix.square().sum() + max(dim - n, 0) * variance.square(), variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_deviation: Float[Tensor, ""], to_variance: Float[Tensor, ""]) -> Float[Tensor, "n dim"]:
        centred, matrix = ctx.saved_tensors
        n, dim = centred.shape
        slope = matrix * (2 * to_deviation)
        slope.diagonal().add_(to_variance / dim)
        return (centred @ slope if n > dim else slope @ centred) * (2 / (n - 1))


def _safe_sqrt(x: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """√x whose gradient at 0 is 0; a value of 0 becomes the root of the smallest normal number (1e-19 in float32)."""
    return x.clamp_min(torch.finfo(x.dtype).tiny).sqrt()


def _scale_free(z: Float[Tensor, "n dim"]) -> Float[Tensor, ""]:
    dim = z.shape[1]
    scale = z.detach().abs().amax()
    deviation, variance = _Deviation.apply(z / scale.clamp_min(torch.finfo(z.dtype).tiny))
    floor = (COLLAPSED_VARIANCE * dim) ** 2
    return _safe_sqrt((deviation + floor * (1 - 1 / dim)) / ((dim * variance).square() + floor))


def _absolute(z: Float[Tensor, "n dim"]) -> Float[Tensor, ""]:
    return _safe_sqrt(_Deviation.apply(z)[0]) / z.shape[1]


ISOTROPY_FORMS = {"scale_free": _scale_free, "absolute": _absolute}


@in_full_precision
def covariance_isotropy(z: Float[Tensor, "n dim"], form: str = "scale_free") -> Float[Tensor, ""]:
    """How far the covariance C of the rows is from v·I, v = tr C / D being the mean variance; 0 is isotropic.

    Form ``scale_free``: ‖C/v − I‖_F / D, from 0 to √(1 − 1/D), a spread along one direction; invariant to rotation,
    translation and scale. Computed as √(r − 1/D) with r = (‖C‖_F² + ε²) / ((tr C)² + ε²) and ε = 1e-12·D times the
    square of the largest coordinate, so that total collapse (C = 0) scores the maximum.

    Form ``absolute``: ‖C − vI‖_F / D, v times the other; total collapse scores 0, its minimum. n isotropic Gaussian
    rows give about 1/√n in the first form.

    >>> z = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    >>> round(covariance_isotropy(z).item(), 6)
    0.0
    """
    _require_two_rows(z)
    return ISOTROPY_FORMS[form](z)


def squared_gram_norm(z: Float[Tensor, "n dim"]) -> Float[Tensor, ""]:
    """‖zᵀz‖_F² = ‖zzᵀ‖_F² = Σᵢⱼ (zᵢ·zⱼ)², from the smaller of the two matrices."""
    return (z.T @ z if len(z) > z.shape[1] else z @ z.T).square().sum()


@in_full_precision
def variance_hinge(z: Float[Tensor, "n dim"]) -> Float[Tensor, ""]:
    """Mean over dimensions d of max(0, 1 − √(var_d + 1e-4)), var_d being the unbiased variance of column d.

    From 0 to 0.99, at total collapse, where its gradient vanishes (VICReg, eqs. 1 and 2, with γ = 1 and their ε).
    """
    _require_two_rows(z)
    return (1 - (z.var(0) + 1e-4).sqrt()).relu().mean()


@in_full_precision
def off_diagonal_covariance(z: Float[Tensor, "n dim"]) -> Float[Tensor, ""]:
    """Σ_{a≠b} C_ab² / D, C being the unbiased covariance of the rows (VICReg, eqs. 3 and 4).

    0 where the dimensions are uncorrelated, and at total collapse; unbounded above: z ×10 gives a value ×10⁴.
    """
    _require_two_rows(z)
    centred = z - z.mean(0)
    off_diagonal = squared_gram_norm(centred) - centred.square().sum(0).square().sum()
    return off_diagonal.clamp_min(0) / ((len(z) - 1) ** 2 * z.shape[1])


def variance_covariance(z: Float[Tensor, "n dim"]) -> Float[Tensor, ""]:
    """`variance_hinge` + 0.04 · `off_diagonal_covariance`: VICReg without invariance, weighed as there (25 : 1).

    The minimum, 0, needs std ≥ 1 in every dimension and no correlation, not isotropy. Neither scale nor rotation
    invariant: embeddings of unit norm in D dimensions have a std of about 1/√D. In float32 coordinates beyond about 1e8
    overflow.

    Source: Bardes et al. 2022 (VICReg), arXiv:2105.04906, eqs. 1 to 4.

    >>> round(variance_covariance(torch.zeros(4, 3)).item(), 6)
    0.99
    """
    return variance_hinge(z) + 0.04 * off_diagonal_covariance(z)


def _scaled(z: Float[Tensor, "n dim"], largest: Float[Tensor, "*shape"]) -> Float[Tensor, "n dim"]:
    return z / torch.where(largest > 0, largest, 1)


@in_full_precision
def unit_rows(z: Float[Tensor, "n dim"]) -> Float[Tensor, "n dim"]:
    """Each row divided by its length; a row of zeros stays zero, with a gradient of 0."""
    largest = z.detach().abs().amax(1, keepdim=True)
    rows = _scaled(z, largest)  # each but a row of zeros is now at least 1 long
    unit = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min(1)
    return unit.masked_fill(largest == 0, 0)


@in_full_precision
def global_orthogonal_regularization(z: Float[Tensor, "n dim"]) -> Float[Tensor, ""]:
    """M₁² + max(0, M₂ − 1/D), M₁ and M₂ being mean and mean square of the cosine over all pairs of distinct rows.

    Uniform random directions have E M₁ = 0 and E M₂ = 1/D. At most 2 − 1/D, when all rows have one direction; the
    gradient vanishes there. Invariant to rotation and to the length of rows, not to translation. A row of zeros has
    cosine 0 with every other and receives no gradient.

    Source: Zhang et al. 2017, arXiv:1708.06320, section 3, there of non-matching pairs alone. The mean over queries and
    positives apart is sentence-transformers' ``GlobalOrthogonalRegularizationLoss``.

    >>> global_orthogonal_regularization(torch.tensor([[2.0, 0.0], [3.0, 0.0]])).item()
    1.5
    """
    _require_two_rows(z)
    rows, pairs = unit_rows(z), len(z) * (len(z) - 1)
    own = rows.square().sum(1)  # 1, and 0 for a row of zeros
    mean = (rows.sum(0).square().sum() - own.sum()) / pairs
    second_moment = (squared_gram_norm(rows) - own.square().sum()) / pairs
    return mean.square() + (second_moment - 1 / z.shape[1]).relu()


register_loss("covariance", lambda z, config, step: covariance_isotropy(z, config.isotropy_form))
register_loss("vicreg", lambda z, config, step: variance_covariance(z))
register_loss("gor", lambda z, config, step: global_orthogonal_regularization(z))
