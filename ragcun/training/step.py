"""One optimiser step: the gradients of some batches added, clipped, and followed where they are numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm

from ragcun.config import TrainConfig
from ragcun.data.pairs import PairDataset
from ragcun.errors import InputError
from ragcun.losses.gather import average_gradients, sum_over_ranks_
from ragcun.losses.objective import LossOutput, Objective
from ragcun.training.batches import PairSource, Rows, epoch_batches, epoch_pairs
from ragcun.training.grad_cache import cached_backward, require_independent_rows

NOT_FINITE, OVERFLOW = "not finite", "fp16 overflow"


class Step(NamedTuple):
    """What an optimiser step came to.

    Attributes:
        outputs: the loss of each of its batches, without a graph.
        norm: the gradient's norm before it was clipped.
        left_out: why the weights stayed as they were: `NOT_FINITE` where a loss or the gradient is no number,
            `OVERFLOW` where fp16's loss scale was too large and is now halved; None where they moved.
    """

    outputs: list[LossOutput]
    norm: Tensor
    left_out: str | None = None


class Stepper:
    """Takes optimiser steps; a gradient that is no number leaves weights and optimiser as they are.

    Args:
        accelerator: what model and optimiser were prepared by.
        model: the prepared encoder.
        optimizer: the prepared optimiser.
        objective: what is minimised.
        source: where batches come from.
        max_grad_norm: norm to which gradients are clipped; 0 does not clip.
        cache_size: most pairs that a process embeds at a time, by gradient caching; 0 embeds all of a batch at once.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: Any,
        objective: Objective,
        source: PairSource,
        max_grad_norm: float,
        cache_size: int = 0,
    ) -> None:
        self.accelerator, self.model, self.optimizer = accelerator, model, optimizer
        self.objective, self.source, self.max_grad_norm = objective, source, max_grad_norm
        self.cache_size = cache_size
        if cache_size:
            require_independent_rows(model)

    def __call__(self, batches: list[Rows], number: int = 0) -> Step:
        """Take optimiser step `number` on batches, each of which is that of all processes together."""
        # accelerate's own backward, clipping and step search the path for optional packages, and its step does not see
        # that a scaler made a fused optimiser leave the step out.
        scaler, optimizer = self.accelerator.scaler, self.optimizer.optimizer
        trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        outputs = [self._add_gradient(rows, number, len(batches)) for rows in batches]
        average_gradients(trained)
        if scaler is not None:
            scaler.unscale_(optimizer)
        if self.max_grad_norm > 0:
            norm = clip_grad_norm_(trained, self.max_grad_norm)
        else:
            norm = get_total_norm([parameter.grad for parameter in trained if parameter.grad is not None])
        loss, gradient = _not_finite([output.total for output in outputs], norm)
        if not (loss or gradient):
            optimizer.step()
        left_out = NOT_FINITE if loss or gradient else None
        if scaler is not None and _halved(scaler) and not loss:
            left_out = OVERFLOW
        optimizer.zero_grad()
        return Step(outputs, norm, left_out)

    def _add_gradient(self, rows: Rows, number: int, batches: int) -> LossOutput:
        """Add this process's part of the gradient of one batch, of `batches` in the step; return the loss."""
        accelerator = self.accelerator
        world, rank, scaler = accelerator.num_processes, accelerator.process_index, accelerator.scaler

        def scaled(total: Tensor) -> Tensor:
            return total / batches if scaler is None else scaler.scale(total / batches)

        chunks = chunk_count(len(rows), world, self.cache_size)
        # Gradients are averaged once, after the last batch: a backward pass that has only some of the views' gradients
        # (no loss uses the prediction, say) would leave DistributedDataParallel waiting for the rest.
        with accelerator.no_sync(self.model):
            if chunks > 1:
                parts = self.source.parts(rows, range(rank * chunks, (rank + 1) * chunks), world * chunks)
                return _detached(cached_backward(self.model, parts, lambda v: self.objective(v, number), scaled))
            part = self.source.batch(rows) if world == 1 else self.source.parts(rows, range(rank, rank + 1), world)[0]
            output = self.objective(self.model(part), number)
            scaled(output.total).backward()
        return _detached(output)


def _detached(output: LossOutput) -> LossOutput:
    return LossOutput(output.total.detach(), {name: value.detach() for name, value in output.terms.items()})


def _not_finite(totals: list[Tensor], norm: Tensor) -> tuple[bool, bool]:
    """Return whether a loss, and whether the gradient's norm, is not finite in any process: the same in all of them."""
    wrong = torch.stack([~torch.stack(totals).isfinite().all(), ~norm.isfinite()]).float()
    loss, gradient = sum_over_ranks_(wrong).tolist()
    return loss > 0, gradient > 0


def _halved(scaler: torch.amp.GradScaler) -> bool:
    """Let the scaler go on; return whether it took its scale, above 1, for too large.

    What overflows at a scale of 1 or below is the gradient itself.
    """
    before = scaler.get_scale()
    scaler.update()
    return before > 1 and scaler.get_scale() < before


def chunk_count(rows: int, world: int, size: int) -> int:
    """Return in how many chunks each of `world` processes embeds its part of a batch, at most `size` rows in each.

    The parts of all processes are split evenly, and none is empty. 0 means no limit.

    >>> chunk_count(4096, 1, 100), chunk_count(4096, 2, 100), chunk_count(3, 2, 1), chunk_count(64, 2, 0)
    (41, 21, 1, 1)
    """
    return 1 if size == 0 else max(1, min(-(-rows // (world * size)), rows // world))


def epoch_steps(data: PairDataset, config: TrainConfig, epoch: int, processes: int) -> list[list[Rows]]:
    """Return an epoch's optimiser steps, each a list of batches, which all processes share out.

    Raises:
        InputError: there are more processes than pairs in a batch.
    """
    pairs = epoch_pairs(data, config.positives_per_query, config.seed, epoch)
    batches = epoch_batches(len(pairs), config.batch_size * processes, config.seed, epoch)
    if len(batches[-1]) < processes:
        raise InputError(f"{len(pairs)} training pairs are too few for {processes} processes; start fewer")
    size = config.gradient_accumulation_steps
    return [[pairs[rows] for rows in batches[start : start + size]] for start in range(0, len(batches), size)]


def step_row(epoch: int, number: int, step: Step, clipped: bool, groups: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the row of the metrics that belongs to one step: the loss of its last batch, and its gradient's norm."""
    output = step.outputs[-1]
    return {
        "kind": "step",
        "epoch": epoch,
        "step": number,
        "total": float(output.total),
        "terms": {name: float(value) for name, value in output.terms.items()},
        "learning_rate": {group["name"]: group["lr"] for group in groups},
        "grad_norm": float(step.norm) if clipped else None,
    }
