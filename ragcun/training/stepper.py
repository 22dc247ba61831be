"""One optimiser step: the gradients of some batches added, clipped, and followed."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from ragcun.errors import InputError
from ragcun.losses.objective import LossOutput, Objective
from ragcun.training.batches import PairSource, Rows


class Stepper:
    """Takes optimiser steps.

    Args:
        accelerator: what model and optimiser were prepared by.
        model: the prepared encoder.
        optimizer: the prepared optimiser.
        objective: what is minimised.
        source: where batches come from.
        max_grad_norm: norm to which gradients are clipped; 0 does not clip.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: Any,
        objective: Objective,
        source: PairSource,
        max_grad_norm: float,
    ) -> None:
        self.accelerator, self.model, self.optimizer = accelerator, model, optimizer
        self.objective, self.source, self.max_grad_norm = objective, source, max_grad_norm

    def __call__(self, batches: list[Rows], number: int = 0) -> tuple[LossOutput, Tensor | None]:
        """Take optimiser step `number`; return the last batch's loss and the gradient's norm, None if not clipped."""
        # Only a scaler needs accelerate's own backward, clipping and step, which search the path for optional packages.
        scaler = self.accelerator.scaler
        for i, rows in enumerate(batches):
            last = i == len(batches) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                output = self.objective(self.model(self.source.batch(rows)), number)
                loss = output.total / len(batches)
                (loss if scaler is None else scaler.scale(loss)).backward()
        norm = None
        if self.max_grad_norm > 0:
            if scaler is not None:
                self.accelerator.unscale_gradients(self.optimizer)
            trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
            norm = clip_grad_norm_(trained, self.max_grad_norm)
        optimizer = self.optimizer.optimizer if scaler is None else self.optimizer
        optimizer.step()
        optimizer.zero_grad()
        return output, norm


def check_finite(output: LossOutput, step: int) -> None:
    """Stop a run whose loss is no longer a number, before anything of it is kept.

    Raises:
        InputError: the loss is not finite.
    """
    total = float(output.total.detach())
    if not math.isfinite(total):
        raise InputError(f"the loss is {total} at step {step}; lower --learning_rate, or raise --temperature")


def step_row(
    epoch: int, step: int, output: LossOutput, norm: Tensor | None, groups: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return the row of the metrics that belongs to one step."""
    return {
        "kind": "step",
        "epoch": epoch,
        "step": step,
        "total": float(output.total.detach()),
        "terms": {name: float(value.detach()) for name, value in output.terms.items()},
        "learning_rate": {group["name"]: group["lr"] for group in groups},
        "grad_norm": None if norm is None else float(norm),
    }
