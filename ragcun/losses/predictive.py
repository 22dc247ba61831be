"""Losses of a predictor: what its guess misses, and how far a residual predictor moves the query."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from ragcun.losses.covariance import in_full_precision


@in_full_precision
def predictive_error(
    predicted: Float[Tensor, "batch dim"], target: Float[Tensor, "batch dim"], stop_gradient: bool = True
) -> Float[Tensor, ""]:
    """Mean squared error of the prediction over rows and dimensions: Σ (predicted − target)² / (batch·dim).

    With `stop_gradient` the target is a constant: only the predicting side learns (Grill et al. 2020 (BYOL),
    arXiv:2006.07733, eq. 2, without its normalisation).

    Raises:
        ValueError: shapes that differ.
    """
    if predicted.shape != target.shape:
        raise ValueError(f"predicted has shape {tuple(predicted.shape)}, but target has {tuple(target.shape)}")
    return (predicted - (target.detach() if stop_gradient else target)).square().mean()


@in_full_precision
def residual_penalty(residual: Float[Tensor, "batch dim"]) -> Float[Tensor, ""]:
    """Mean over rows of ‖δ‖², δ being the correction that a residual predictor adds; δ = 0 is its minimum."""
    return residual.square().sum(1).mean()
