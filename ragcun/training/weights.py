"""Weights that a run starts from (identity, whitening or random) and keeps (averaged, interpolated towards those)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from ragcun.config import TrainConfig
from ragcun.embeddings.base import Vectors
from ragcun.embeddings.text_base import FACTORS
from ragcun.errors import InputError, as_input_error
from ragcun.models.encoder import RetrievalEncoder
from ragcun.models.heads import preserving_projection
from ragcun.models.whitening import EXPONENT, Calibration, calibrate
from ragcun.tensors import contiguous, copy_strictly
from ragcun.training.batches import PairSource

MOST_VECTORS = 100_000
FULL_SHARE, HALF_AT = 0.7, 100
LABEL_FREE_SHARE = 0.25


def initialize_weights(
    config: TrainConfig, encoder: RetrievalEncoder, source: PairSource, queries: Vectors | None = None
) -> Calibration | None:
    """Set the heads of a new encoder to the base (identity), to whitening in closed form, or at random.

    The closed form, returned where it is used, takes its shift of queries from the base vectors `queries`; None means
    the training queries.
    """
    if config.load_checkpoint is not None:
        return None
    sample = source.sample(config.seed)
    encoder.start_from(sample)
    if config.start == "identity" and encoder.to_config()["head"]["kind"] == "mlp":
        dim, out = sample.shape[1], encoder.dimension
        weight = preserving_projection(sample, out) if out < dim else torch.eye(out, dim)
        with as_input_error("--head_init identity", "; choose another --head_init"):
            encoder.start_as(weight.double().cpu().numpy(), np.zeros(dim))
    if config.start != "calibrated":
        return None
    if not encoder.base.normalize:
        raise InputError("--head_init calibrated needs base vectors of length 1; leave out --no_normalize_embeddings")
    own, documents = source.sides(MOST_VECTORS, config.seed)
    smaller = None if encoder.dimension == documents.shape[1] else encoder.dimension
    # Where one side alone is trained, queries are shifted and nothing is whitened.
    asked, exponent = own if queries is None else queries, EXPONENT if config.train_side == "both" else 0.0
    with as_input_error("--head_init calibrated", "; or choose --head_init identity"):
        closed = calibrate(documents, asked, exponent, output_dim=smaller, ordered=bool(config.nested_dims))
        encoder.start_as(closed.weight, closed.query_shift)
    return closed


def share_of_trained(queries: int) -> float:
    """Return which share of the final weights is trained, by the number of training queries: .7 n / (n + 100).

    Few labels move a head little. Chosen on dev queries of SciFact and NFCorpus with 10 to 2,590 training queries.

    >>> [round(share_of_trained(queries), 2) for queries in (10, 100, 2500)]
    [0.06, 0.35, 0.67]
    """
    return FULL_SHARE * queries / (queries + HALF_AT)


def trained_share(config: TrainConfig, encoder: RetrievalEncoder, queries: int) -> float:
    """Return the share of the trained weights in the final ones: as asked, or by what is trained from how much."""
    if config.trained_share is not None:
        return config.trained_share
    from_elsewhere = config.start == "random" or config.load_checkpoint is not None
    if from_elsewhere or not encoder.base.frozen or encoder.shows:
        return 1.0
    return LABEL_FREE_SHARE if config.label_free else share_of_trained(queries)


class WeightAverage:
    """The average over steps of the weights in training, interpolated towards the initial ones, and the best so far.

    After step t the average is ``m·average + (1 − m)·weights`` with m = min(decay, (1 + t) / (10 + t)); the model that
    is evaluated and saved has ``(1 − share)·initial + share·average`` in all trainable parameters.
    Of LoRA it is averaged A and share times averaged B, so that the interpolation is that of the merged weights.

    Source: Polyak and Juditsky 1992 (averaging); Wortsman et al. 2022 (WiSE-FT), arXiv:2109.01903, eq. 1 (share).
    """

    def __init__(self, encoder: RetrievalEncoder, decay: float, share: float) -> None:
        self.decay, self.share = decay, share
        self.trained = {name: value for name, value in encoder.named_parameters() if value.requires_grad}
        # the first factor of an adapter is not interpolated: the second starts as zero, and carries the whole share
        drawn = [name for name in self.trained if share < 1 and FACTORS[0] not in name]
        self.initial = {name: self.trained[name].detach().clone() for name in drawn}
        self.average = {name: value.detach().clone() for name, value in self.trained.items()} if decay else {}
        self.keep_best(encoder)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the weights after optimiser step `step` (from 1) to the average."""
        if self.average:
            weight = 1 - min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(self.average.values()), [value.data for value in self.trained.values()], weight)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the encoder the averaged weights, and the weights in training back afterwards."""
        data = {name: value.data for name, value in self.trained.items()}
        now = {name: value.clone() for name, value in data.items()}
        copy_strictly(data, self.weights())
        try:
            yield
        finally:
            copy_strictly(data, now)

    @torch.no_grad()
    def weights(self) -> dict[str, Tensor]:
        """Return the averaged, interpolated weights of all trainable parameters."""
        trained = self.average or {name: value.detach() for name, value in self.trained.items()}
        drawn = {name: torch.lerp(value, trained[name], self.share) for name, value in self.initial.items()}
        return {**trained, **drawn}

    def keep_best(self, encoder: RetrievalEncoder) -> None:
        """Copy all weights of the encoder as the best so far."""
        self.best = {name: tensor.clone() for name, tensor in contiguous(encoder.trained_state()).items()}

    def restore_best(self, encoder: RetrievalEncoder) -> None:
        """Give an encoder the best weights so far."""
        copy_strictly(encoder.trained_state(), self.best)

    def state(self) -> dict[str, Tensor]:
        """Return what a resume point has to hold."""
        parts = {"initial": self.initial, "average": self.average, "best": self.best}
        return {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state`."""
        copy_strictly(self.state(), state)
