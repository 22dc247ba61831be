"""Losses: functions of tensors, and the objective that weighs them."""

from ragcun.losses.contrastive import in_batch_margin_loss, info_nce, margin_loss, similarity_logits
from ragcun.losses.covariance import covariance, covariance_isotropy, variance_regularisation
from ragcun.losses.objective import LossOutput, Objective
from ragcun.losses.predictive import predictive_error, residual_penalty

__all__ = [
    "LossOutput",
    "Objective",
    "covariance",
    "covariance_isotropy",
    "in_batch_margin_loss",
    "info_nce",
    "margin_loss",
    "predictive_error",
    "residual_penalty",
    "similarity_logits",
    "variance_regularisation",
]
