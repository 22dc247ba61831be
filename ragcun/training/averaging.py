"""Keeper: from the weights of a run to those that are judged and kept: averaged over steps, drawn back to the start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from ragcun.models.encoder import RetrievalEncoder
from ragcun.tensors import check_fit, contiguous, copy_strictly

FULL_SHARE, HALF_AT = 0.7, 100
LABEL_FREE_SHARE = 0.25


def share_of_trained(queries: int) -> float:
    """Return which share of the final weights is trained, by the number of training queries: .7 n / (n + 100).

    Few labels move a head little. Chosen on dev queries of SciFact and NFCorpus with 10 to 2,590 training queries.

    >>> [round(share_of_trained(queries), 2) for queries in (10, 100, 2500)]
    [0.06, 0.35, 0.67]
    """
    return FULL_SHARE * queries / (queries + HALF_AT)


class Keeper:
    """Holds, beside the weights in training, their average and their start; gives the weights to keep.

    After step t the average is ``m·average + (1 − m)·weights`` with m = min(decay, (1 + t) / (10 + t)), and the weights
    to keep are ``(1 − share)·start + share·average``, of all trainable parameters; others are kept as they are.

    Source: Polyak and Juditsky 1992 (averaging); Wortsman et al. 2022 (WiSE-FT), arXiv:2109.01903, eq. 1 (share).

    Args:
        encoder: what is trained, as it is before the first step.
        decay: of the average; 0 takes the weights themselves.
        share: of what was trained; 1 forgets the start.
    """

    def __init__(self, encoder: RetrievalEncoder, decay: float, share: float) -> None:
        self.decay, self.share = decay, share
        self.trained = {name: value for name, value in encoder.named_parameters() if value.requires_grad}
        self.start = {name: value.detach().clone() for name, value in self.trained.items()} if share < 1 else {}
        self.average = {name: value.detach().clone() for name, value in self.trained.items()} if decay else {}
        self.keep(encoder)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Let the average take up the weights after optimiser step `step` (from 1)."""
        if self.average:
            weight = 1 - min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(self.average.values()), [value.data for value in self.trained.values()], weight)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the weights to keep into the encoder, and take them out again afterwards."""
        now = {name: value.detach().clone() for name, value in self.trained.items()}
        copy_strictly(self._data(), self.kept())
        try:
            yield
        finally:
            copy_strictly(self._data(), now)

    @torch.no_grad()
    def kept(self) -> dict[str, Tensor]:
        """Return the weights to keep, of all trainable parameters."""
        trained = self.average or {name: value.detach() for name, value in self.trained.items()}
        if not self.start:
            return dict(trained)
        return {name: torch.lerp(self.start[name], value, self.share) for name, value in trained.items()}

    def keep(self, encoder: RetrievalEncoder) -> None:
        """Remember all weights of the encoder, as they are now, as the best."""
        self.best = {name: tensor.clone() for name, tensor in contiguous(encoder.trained_state()).items()}

    def state(self) -> dict[str, Tensor]:
        """Return what a resume point has to hold."""
        parts = {"start": self.start, "average": self.average, "best": self.best}
        return {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`.

        Raises:
            ValueError: it is not of such a run.
        """
        check_fit(self.state(), state)
        for name, value in self.state().items():
            value.copy_(state[name])

    def _data(self) -> dict[str, Tensor]:
        return {name: value.data for name, value in self.trained.items()}
