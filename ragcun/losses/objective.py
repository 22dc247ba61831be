"""Objective: Views of a batch in, rows transformed, named loss terms and their weighted sum out."""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ragcun import losses
from ragcun.batch import Views
from ragcun.config import ObjectiveConfig
from ragcun.losses import CONTRASTIVE, ISOTROPY
from ragcun.losses.covariance import COLLAPSED_VARIANCE, _require_two_rows, _scaled, in_full_precision, unit_rows
from ragcun.losses.gather import gather_views, world_size

UNIT_TOLERANCE = 1e-3
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


def cut_views(views: Views, dim: int) -> Views:
    """Return the batch with queries, positives, negatives and pool cut to their first `dim` dimensions.

    Where the queries have length 1 the cut rows are scaled to length 1 again, as in retrieval with cut vectors.

    Source: Kusupati et al. 2022 (Matryoshka representation learning), arXiv:2205.13147, eq. 1.
    """
    if not 0 < dim < views.query.shape[1]:
        raise ValueError(f"nested_dims must be below {views.query.shape[1]}, the length of the embeddings, got {dim}")
    unit = bool(((views.query.detach().float().norm(dim=1) - 1).abs() < UNIT_TOLERANCE).all())
    names = ("query", "positive", "negative", "pool")
    cut = {name: rows[:, :dim] for name in names if (rows := getattr(views, name)) is not None}
    return replace(views, **{name: F.normalize(rows, dim=1) if unit else rows for name, rows in cut.items()})


@in_full_precision
def variance_regularisation(z: Float[Tensor, "n dim"]) -> Float[Tensor, ""]:
    """Mean over dimensions d of (std_d − 1)², std_d = √(unbiased variance of column d + 1e-12).

    Unlike `covariance.variance_hinge` it also shrinks a spread above 1.
    """
    _require_two_rows(z)
    return ((z.var(0) + 1e-12).sqrt() - 1).square().mean()


@in_full_precision
def predictive_error(
    predicted: Float[Tensor, "batch dim"], target: Float[Tensor, "batch dim"], stop_gradient: bool = True
) -> Float[Tensor, ""]:
    """Mean squared error of the prediction over rows and dimensions: Σ (predicted − target)² / (batch·dim).

    With `stop_gradient` the target is a constant: only the predicting side learns (Grill et al. 2020 (BYOL),
    arXiv:2006.07733, eq. 2, without its normalisation).
    """
    if predicted.shape != target.shape:
        raise ValueError(f"predicted has shape {tuple(predicted.shape)}, but target has {tuple(target.shape)}")
    return (predicted - (target.detach() if stop_gradient else target)).square().mean()


@in_full_precision
def residual_penalty(residual: Float[Tensor, "batch dim"]) -> Float[Tensor, ""]:
    """Mean over rows of ‖δ‖², δ being the correction that a residual predictor adds; δ = 0 is its minimum."""
    return residual.square().sum(1).mean()


class LossOutput(NamedTuple):
    """The weighted sum of the terms, which is what to minimise, and the terms by name, unweighted."""

    total: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]


class Objective:
    """Σ λ·term over the terms whose λ is not 0; the others are not computed.

    Takes an `ObjectiveConfig`, which documents weights and losses (None: the defaults of training), or its fields.
    `weights` are λ of each active term by the term's name, in the order of `LossOutput.terms`.

    >>> Objective(lambda_isotropy=0.5).weights
    {'contrastive': 1.0, 'isotropy': 0.5}
    """

    def __init__(self, config: ObjectiveConfig | None = None, **settings: Any) -> None:
        if config is not None and settings:
            raise ValueError(f"config and {', '.join(settings)} are given; put them into the config")
        self.config = config or ObjectiveConfig(**settings)
        self.weights = self.config.weights
        if not self.weights:
            raise ValueError(f"no loss is active; raise one of {', '.join(f'lambda_{name}' for name in TERMS)} above 0")

    def __call__(self, views: Views, step: int = 0, alone: bool = False) -> LossOutput:
        """Compute the active terms on one batch; what is random in them is drawn from `step` alone.

        In a distributed run the batch is that of all ranks together (`gather_views`), which all have to call, or this
        rank's own with `alone`. ValueError if an active term needs a view that the model does not give.
        """
        shown = views if alone or world_size() == 1 else gather_views(views)
        terms = {name: TERMS[name](self.config, shown, step) for name in self.weights}
        return LossOutput(torch.stack([self.weights[name] * term for name, term in terms.items()]).sum(), terms)


def _contrastive(config: ObjectiveConfig, views: Views, step: int) -> Float[Tensor, ""]:
    sizes = [views, *(cut_views(views, dim) for dim in config.nested_dims)]
    return torch.stack([CONTRASTIVE[config.contrastive](each, config) for each in sizes]).mean()


def _isotropy(config: ObjectiveConfig, views: Views, step: int) -> Float[Tensor, ""]:
    transform, loss = TRANSFORMS[config.isotropy_transform or "none"], ISOTROPY[config.isotropy]
    rows = ISOTROPY_ROWS[config.isotropy_rows](views)
    return torch.stack([loss(transform(z), config, step) for z in rows]).mean()


def _predictive(config: ObjectiveConfig, views: Views, step: int) -> Float[Tensor, ""]:
    if views.predicted is None or views.target is None:
        raise ValueError("lambda_predictive needs a prediction and its target; set use_predictor, or set it to 0")
    return predictive_error(views.predicted, views.target, config.stopgrad)


def _residual(config: ObjectiveConfig, views: Views, step: int) -> Float[Tensor, ""]:
    if views.residual is None:
        raise ValueError("lambda_residual needs a residual, got None; use a residual predictor or set it to 0")
    return residual_penalty(views.residual)


SCALED_BY_ROWS = ("sigreg", "vicreg")
"""Isotropy losses whose optimum has rows of length √D."""
TRANSFORMS: dict[str, Callable[[Float[Tensor, "n dim"]], Float[Tensor, "n dim"]]] = {
    "none": lambda z: z,
    **{transform.__name__: transform for transform in (standardize, standardize_l2, unit_scale, sqrt_dim)},
}
ISOTROPY_ROWS: dict[str, Callable[[Views], list[Float[Tensor, "rows dim"]]]] = {
    "together": lambda views: [torch.cat([views.query, views.positive])],
    "each": lambda views: [views.query, views.positive],
}

TERMS: dict[str, Callable[[ObjectiveConfig, Views, int], Float[Tensor, ""]]] = {
    "contrastive": _contrastive,
    "isotropy": _isotropy,
    "reg": lambda config, views, step: variance_regularisation(torch.cat([views.query, views.positive])),
    "predictive": _predictive,
    "residual": _residual,
}

for module in pkgutil.iter_modules(losses.__path__):  # each registers its own losses
    importlib.import_module(f"ragcun.losses.{module.name}")
