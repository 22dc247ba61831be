"""Losses: functions of tensors, and the objective that weighs them."""

from ragcun.losses.contrastive import in_batch_margin_loss, info_nce, margin_loss, similarity_logits
from ragcun.losses.covariance import covariance, covariance_isotropy, variance_covariance, variance_regularisation
from ragcun.losses.objective import LossOutput, Objective, predictive_error, residual_penalty
from ragcun.losses.orthogonal import global_orthogonal_regularization
from ragcun.losses.sigreg import SIGReg, epps_pulley, random_slices, sigreg
from ragcun.losses.transforms import TRANSFORMS, sqrt_dim, standardize, standardize_l2, unit_scale

__all__ = [
    "TRANSFORMS",
    "LossOutput",
    "Objective",
    "SIGReg",
    "covariance",
    "covariance_isotropy",
    "epps_pulley",
    "global_orthogonal_regularization",
    "in_batch_margin_loss",
    "info_nce",
    "margin_loss",
    "predictive_error",
    "random_slices",
    "residual_penalty",
    "sigreg",
    "similarity_logits",
    "sqrt_dim",
    "standardize",
    "standardize_l2",
    "unit_scale",
    "variance_covariance",
    "variance_regularisation",
]
