"""Objective: Views of a batch in, named loss terms and their weighted sum out."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ragcun.batch import Views
from ragcun.distance import DISTANCES, Distance
from ragcun.losses.contrastive import in_batch_margin_loss, info_nce, margin_loss
from ragcun.losses.covariance import ISOTROPY_FORMS, covariance_isotropy, variance_regularisation
from ragcun.losses.gather import alone, gather_views, world_size
from ragcun.losses.matryoshka import cut_views
from ragcun.losses.orthogonal import global_orthogonal_regularization
from ragcun.losses.predictive import predictive_error, residual_penalty
from ragcun.losses.sigreg import KNOTS, sigreg
from ragcun.losses.transforms import TRANSFORMS
from ragcun.losses.vicreg import variance_covariance


class LossOutput(NamedTuple):
    """The weighted sum of the terms, which is what to minimise, and the terms by name, unweighted."""

    total: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]


@dataclass(frozen=True)
class Objective:
    """Σ λ·term over the terms whose λ is not 0; the others are not computed.

    Attributes:
        lambda_contrastive: weight of "contrastive", the loss named by `contrastive`.
        lambda_isotropy: weight of "isotropy", the loss named by `isotropy`.
        lambda_reg: weight of "reg", the variance regularisation on the rows of [query; positive].
        lambda_predictive: weight of "predictive", the predictor's error.
        lambda_residual: weight of "residual", the size of a residual predictor's correction.
        contrastive: a name in `CONTRASTIVE`.
        isotropy: a name in `ISOTROPY`; "none" leaves the term out whatever its weight.
        isotropy_form: a form of `covariance_isotropy`.
        isotropy_transform: a name in `TRANSFORMS`: what is done to the rows before the isotropy loss.
        isotropy_rows: "together" takes [query; positive] as one set of rows; "each" takes the mean of the loss on the
            queries and of that on the positives.
        num_slices: of SIGReg.
        knots: of SIGReg.
        margin: of the margin losses, in the units of the embeddings.
        temperature: of InfoNCE.
        distance: of InfoNCE.
        symmetric: whether InfoNCE also goes from documents to queries.
        soft_targets: whether InfoNCE's target is uniform over a query's known positives in the batch; else those but
            for the row's own are no candidates.
        nested_dims: lengths below the full one; the contrastive loss is the mean over these and the full one of that on
            embeddings cut to their first dimensions.
        stopgrad: whether the predictor's target is held constant.

    Raises:
        ValueError: a weight below 0 or not finite, no active term, `temperature` not above 0, `margin` below 0, or an
            unknown name.
    """

    lambda_contrastive: float = 1.0
    lambda_isotropy: float = 0.0
    lambda_reg: float = 0.0
    lambda_predictive: float = 0.0
    lambda_residual: float = 0.0
    contrastive: str = "infonce"
    isotropy: str = "covariance"
    isotropy_form: str = "scale_free"
    isotropy_transform: str = "none"
    isotropy_rows: str = "together"
    num_slices: int = 256
    knots: str = "reference"
    margin: float = 1.0
    temperature: float = 0.05
    distance: Distance = "euclidean"
    symmetric: bool = False
    soft_targets: bool = False
    nested_dims: tuple[int, ...] = ()
    stopgrad: bool = True

    def __post_init__(self) -> None:
        for option, known in _CHOICES.items():
            if getattr(self, option) not in known:
                raise ValueError(f"{option} must be one of {', '.join(known)}, got {getattr(self, option)!r}")
        for name in TERMS:
            weight = self._weight(name)
            if not (weight >= 0 and math.isfinite(weight)):
                raise ValueError(f"lambda_{name} must be finite and at least 0, got {weight}")
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise ValueError(f"temperature must be finite and above 0, got {self.temperature}")
        if not (self.margin >= 0 and math.isfinite(self.margin)):
            raise ValueError(f"margin must be finite and at least 0, got {self.margin}")
        if self.num_slices < 1:
            raise ValueError(f"num_slices must be at least 1, got {self.num_slices}")
        if any(dim < 1 for dim in self.nested_dims):
            raise ValueError(f"nested_dims must be at least 1, got {min(self.nested_dims)}")
        if not self.weights:
            raise ValueError(f"no term is active; raise one of {', '.join(f'lambda_{name}' for name in TERMS)} above 0")

    def _weight(self, name: str) -> float:
        return float(getattr(self, f"lambda_{name}"))

    @property
    def weights(self) -> dict[str, float]:
        """λ of each active term by the term's name, in the order of `LossOutput.terms`."""
        off = {"isotropy"} if self.isotropy == "none" else set()
        return {name: self._weight(name) for name in TERMS if self._weight(name) != 0 and name not in off}

    def __call__(self, views: Views, step: int = 0) -> LossOutput:
        """Compute the active terms on one batch; what is random in them is drawn from `step` alone.

        In a distributed run the batch is that of all ranks together (`gather_views`): every rank has to call, gets the
        value of the whole batch, and has gradients whose mean over ranks is that of one process. Within `alone` it is
        this rank's own.

        Raises:
            ValueError: an active term needs a view that the model does not give, or more rows than there are.
        """
        weights = self.weights
        shown = gather_views(views) if world_size() > 1 else views
        with alone():
            terms = {name: TERMS[name](self, shown, step) for name in weights}
        return LossOutput(torch.stack([weights[name] * term for name, term in terms.items()]).sum(), terms)


def _queries_and_positives(views: Views) -> Float[Tensor, "rows dim"]:
    return torch.cat([views.query, views.positive])


def _contrastive(objective: Objective, views: Views, step: int) -> Float[Tensor, ""]:
    sizes = [views, *(cut_views(views, dim) for dim in objective.nested_dims)]
    return torch.stack([CONTRASTIVE[objective.contrastive](objective, each) for each in sizes]).mean()


def _isotropy(objective: Objective, views: Views, step: int) -> Float[Tensor, ""]:
    rows = ISOTROPY_ROWS[objective.isotropy_rows](views)
    transform, loss = TRANSFORMS[objective.isotropy_transform], ISOTROPY[objective.isotropy]
    return torch.stack([loss(objective, transform(z), step) for z in rows]).mean()


def _predictive(objective: Objective, views: Views, step: int) -> Float[Tensor, ""]:
    if views.predicted is None or views.target is None:
        raise ValueError(
            "lambda_predictive needs a prediction and its target, got None; set use_predictor or set it to 0"
        )
    return predictive_error(views.predicted, views.target, objective.stopgrad)


def _residual(objective: Objective, views: Views, step: int) -> Float[Tensor, ""]:
    if views.residual is None:
        raise ValueError("lambda_residual needs a residual, got None; use a residual predictor or set it to 0")
    return residual_penalty(views.residual)


CONTRASTIVE: dict[str, Callable[[Objective, Views], Float[Tensor, ""]]] = {
    "margin": lambda o, v: margin_loss(v.query, v.positive, v.negative, v.negative_mask, v.relevant, o.margin),
    "in_batch_margin": lambda o, v: in_batch_margin_loss(v.query, v.positive, v.relevant, o.margin),
    "infonce": lambda o, v: info_nce(
        v.query,
        v.positive,
        v.negative,
        v.negative_mask,
        v.relevant,
        o.temperature,
        o.distance,
        o.symmetric,
        v.pool,
        v.pool_relevant,
        o.soft_targets,
    ),
}

ISOTROPY: dict[str, Callable[[Objective, Float[Tensor, "rows dim"], int], Float[Tensor, ""]]] = {
    "covariance": lambda objective, z, step: covariance_isotropy(z, objective.isotropy_form),
    "sigreg": lambda objective, z, step: sigreg(z, step, objective.num_slices, objective.knots, n_free=True),
    "gor": lambda objective, z, step: global_orthogonal_regularization(z),
    "vicreg": lambda objective, z, step: variance_covariance(z),
    "none": lambda objective, z, step: z.new_zeros(()),
}

ISOTROPY_ROWS: dict[str, Callable[[Views], list[Float[Tensor, "rows dim"]]]] = {
    "together": lambda views: [_queries_and_positives(views)],
    "each": lambda views: [views.query, views.positive],
}

TERMS: dict[str, Callable[[Objective, Views, int], Float[Tensor, ""]]] = {
    "contrastive": _contrastive,
    "isotropy": _isotropy,
    "reg": lambda objective, views, step: variance_regularisation(_queries_and_positives(views)),
    "predictive": _predictive,
    "residual": _residual,
}

_CHOICES: dict[str, Collection[str]] = {
    "contrastive": CONTRASTIVE,
    "isotropy": ISOTROPY,
    "isotropy_form": ISOTROPY_FORMS,
    "isotropy_transform": TRANSFORMS,
    "isotropy_rows": ISOTROPY_ROWS,
    "knots": KNOTS,
    "distance": DISTANCES,
}
