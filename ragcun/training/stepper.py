"""One optimiser step: the gradients of some batches added, clipped, and followed."""

from __future__ import annotations

import math
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from ragcun.data.pairs import PairDataset
from ragcun.errors import InputError
from ragcun.losses.distributed import average_gradients, sum_over_ranks_, world_size
from ragcun.losses.objective import LossOutput, Objective
from ragcun.training.batches import PairSource, Rows, epoch_batches, epoch_pairs
from ragcun.training.config import TrainConfig
from ragcun.training.gradcache import cached_backward, require_independent_rows


class Stepper:
    """Takes optimiser steps.

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

    def __call__(self, batches: list[Rows], number: int = 0) -> tuple[LossOutput, Tensor | None]:
        """Take optimiser step `number` on batches, each of which is that of all processes together.

        Returns the last batch's loss and the gradient's norm, None if it is not clipped.
        """
        # Only a scaler needs accelerate's own backward, clipping and step, which search the path for optional packages.
        scaler = self.accelerator.scaler
        trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        for rows in batches:
            output = self._add_gradient(rows, number, len(batches))
        average_gradients(trained)
        norm = None
        if self.max_grad_norm > 0:
            if scaler is not None:
                self.accelerator.unscale_gradients(self.optimizer)
            norm = clip_grad_norm_(trained, self.max_grad_norm)
        optimizer = self.optimizer.optimizer if scaler is None else self.optimizer
        optimizer.step()
        optimizer.zero_grad()
        return output, norm

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
                return cached_backward(self.model, parts, lambda views: self.objective(views, number), scaled)
            part = self.source.batch(rows) if world == 1 else self.source.parts(rows, range(rank, rank + 1), world)[0]
            output = self.objective(self.model(part), number)
            scaled(output.total).backward()
        return output


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


def check_finite(output: LossOutput, step: int) -> None:
    """Stop a run whose loss is no longer a number, before anything of it is kept.

    Raises:
        InputError: the loss is not finite.
    """
    # The sum over processes, so that all of them stop where one does.
    total = float(sum_over_ranks_(output.total.detach().clone())) / world_size()
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
