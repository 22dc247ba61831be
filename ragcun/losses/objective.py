"""Objective: Views of a batch in, named loss terms and their weighted sum out."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ragcun.batch import Views
from ragcun.config import ObjectiveConfig
from ragcun.distance import DISTANCES
from ragcun.losses.characteristic import KNOTS
from ragcun.losses.covariance import ISOTROPY_FORMS, variance_regularisation
from ragcun.losses.gather import alone, gather_views, world_size
from ragcun.losses.matryoshka import cut_views
from ragcun.losses.predictive import predictive_error, residual_penalty
from ragcun.losses.registry import CONTRASTIVE, ISOTROPY, load_losses
from ragcun.losses.transforms import TRANSFORMS


class LossOutput(NamedTuple):
    """The weighted sum of the terms, which is what to minimise, and the terms by name, unweighted."""

    total: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]


class Objective:
    """Σ λ·term over the terms whose λ is not 0; the others are not computed.

    Args:
        config: the weights and losses (`ObjectiveConfig` documents each); None takes the defaults of training.
        **settings: fields of `ObjectiveConfig`, in place of `config`.

    Raises:
        ValueError: an unknown name, no active term, or `config` and settings together.

    >>> Objective(lambda_isotropy=0.5).weights
    {'contrastive': 1.0, 'isotropy': 0.5}
    """

    def __init__(self, config: ObjectiveConfig | None = None, **settings: Any) -> None:
        if config is not None and settings:
            raise ValueError(f"config and {', '.join(settings)} are given; put them into the config")
        self.config = config or ObjectiveConfig(**settings)
        load_losses()
        for option, known in CHOICES.items():
            if getattr(self.config, option) not in known:
                raise ValueError(f"{option} must be one of {', '.join(known)}, got {getattr(self.config, option)!r}")

        if not self.weights:
            raise ValueError(f"no loss is active; raise one of {', '.join(f'lambda_{name}' for name in TERMS)} above 0")

    @property
    def weights(self) -> dict[str, float]:
        """λ of each active term by the term's name, in the order of `LossOutput.terms`."""
        return self.config.weights

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
            terms = {name: TERMS[name](self.config, shown, step) for name in weights}
        return LossOutput(torch.stack([weights[name] * term for name, term in terms.items()]).sum(), terms)


def _queries_and_positives(views: Views) -> Float[Tensor, "rows dim"]:
    return torch.cat([views.query, views.positive])


def _contrastive(config: ObjectiveConfig, views: Views, step: int) -> Float[Tensor, ""]:
    sizes = [views, *(cut_views(views, dim) for dim in config.nested_dims)]
    return torch.stack([CONTRASTIVE[config.contrastive](each, config) for each in sizes]).mean()


def _isotropy(config: ObjectiveConfig, views: Views, step: int) -> Float[Tensor, ""]:
    transform, loss = TRANSFORMS[config.isotropy_transform], ISOTROPY[config.isotropy]
    rows = ISOTROPY_ROWS[config.isotropy_rows](views)
    return torch.stack([loss(transform(z), config, step) for z in rows]).mean()


def _predictive(config: ObjectiveConfig, views: Views, step: int) -> Float[Tensor, ""]:
    if views.predicted is None or views.target is None:
        raise ValueError(
            "lambda_predictive needs a prediction and its target, got None; set use_predictor or set it to 0"
        )
    return predictive_error(views.predicted, views.target, config.stopgrad)


def _residual(config: ObjectiveConfig, views: Views, step: int) -> Float[Tensor, ""]:
    if views.residual is None:
        raise ValueError("lambda_residual needs a residual, got None; use a residual predictor or set it to 0")
    return residual_penalty(views.residual)


ISOTROPY_ROWS: dict[str, Callable[[Views], list[Float[Tensor, "rows dim"]]]] = {
    "together": lambda views: [_queries_and_positives(views)],
    "each": lambda views: [views.query, views.positive],
}

TERMS: dict[str, Callable[[ObjectiveConfig, Views, int], Float[Tensor, ""]]] = {
    "contrastive": _contrastive,
    "isotropy": _isotropy,
    "reg": lambda config, views, step: variance_regularisation(_queries_and_positives(views)),
    "predictive": _predictive,
    "residual": _residual,
}

CHOICES: dict[str, Collection[str]] = {
    "contrastive": CONTRASTIVE,
    "isotropy": ISOTROPY,
    "isotropy_form": ISOTROPY_FORMS,
    "isotropy_transform": TRANSFORMS,
    "isotropy_rows": ISOTROPY_ROWS,
    "knots": KNOTS,
    "distance": DISTANCES,
}
