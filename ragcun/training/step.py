"""One optimiser step: schedules, and the gradients of its batches, in chunks if need be, clipped and applied."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import clip_grad_norm_
from torch.utils.checkpoint import checkpoint

from ragcun.batch import PairBatch, Views
from ragcun.embeddings.base import Rows
from ragcun.errors import InputError
from ragcun.losses.gather import average_gradients, sum_over_ranks_
from ragcun.losses.objective import LossOutput, Objective
from ragcun.training.batches import PairSource

NOT_FINITE, OVERFLOW = "not finite", "fp16 overflow"


def warmup_cosine(step: int, total_steps: int, warmup_steps: int) -> float:
    """Return the factor on every learning rate at optimiser step `step` (from 0): linear warm-up, then a half cosine.

    ``(step + 1) / warmup_steps`` below `warmup_steps`, then ``(1 + cos(π · (step − warmup) / (total − warmup))) / 2``.

    >>> [round(warmup_cosine(step, 6, 2), 3) for step in range(6)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def ema_decay(step: int, total_steps: int, start: float, schedule: str = "constant") -> float:
    """Return the decay m of an EMA target after optimiser step `step` (from 1 to `total_steps`).

    ``constant``: start; ``cosine``: 1 − (1 − start)·(1 + cos(π·step/total))/2; ``linear``:
    start + (1 − start)·step/total. The last two end at 1, where the target stands still.

    Source: Grill et al. 2020 (BYOL), arXiv:2006.07733, section 3.2 (cosine).

    >>> [ema_decay(step, 4, 0.5, "linear") for step in (1, 2, 4)]
    [0.625, 0.75, 1.0]
    """
    if schedule not in EMA_SCHEDULES:
        raise ValueError(f"ema_schedule must be one of {', '.join(EMA_SCHEDULES)}, got {schedule!r}")
    return 1 - (1 - start) * EMA_SCHEDULES[schedule](min(1.0, step / max(1, total_steps)))


EMA_SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,
    "linear": lambda progress: 1 - progress,
}


def plain(value: Tensor) -> float | str:
    """Return a number as JSON can hold it: one that is not finite by its name.

    >>> import torch
    >>> plain(torch.tensor(0.5)), plain(torch.tensor(torch.inf)), plain(torch.tensor(torch.nan))
    (0.5, 'inf', 'nan')
    """
    number = float(value)
    return number if math.isfinite(number) else str(number)


class Step(NamedTuple):
    """The outcome of an optimiser step: its batches' losses, without a graph, and the gradient's norm before clipping.

    ``left_out`` says why no weight was changed: `NOT_FINITE` (a loss or the gradient), or `OVERFLOW` (fp16's loss scale
    was too large and is now halved); None where the step was taken.
    """

    outputs: list[LossOutput]
    norm: Tensor
    left_out: str | None = None

    def cause(self) -> str:
        """Say which loss, by which of its terms, or else that the gradient is not finite."""
        for output in self.outputs:
            if not math.isfinite(float(output.total)):
                values = {name: float(value) for name, value in output.terms.items()}
                wrong = [f"{name} {value}" for name, value in values.items() if not math.isfinite(value)]
                return f"the loss is {float(output.total)}" + (f" by {', '.join(wrong)}" if wrong else "")
        return f"the gradient's norm is {float(self.norm)}"


def loss_values(output: LossOutput) -> dict[str, Any]:
    """Return a loss and its terms as JSON can hold them."""
    return {"total": plain(output.total), "terms": {name: plain(value) for name, value in output.terms.items()}}


@dataclass
class Stepper:
    """Takes optimiser steps; a gradient that is not finite leaves weights and optimiser as they are.

    With `cache_size`, gradients are cached, that many pairs at a time; InputError where a row's embedding depends on
    the others of its chunk.
    """

    accelerator: Accelerator
    model: nn.Module
    optimizer: Any
    objective: Objective
    source: PairSource
    max_grad_norm: float
    cache_size: int = 0

    def __post_init__(self) -> None:
        for name, module in self.model.named_modules() if self.cache_size else ():
            if isinstance(module, _BatchNorm) and module.training:
                what = f"{name} normalises over the batch, which chunks change"
                raise InputError(f"--grad_cache_size: {what}; leave it out")

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
        norm = clip_grad_norm_(trained, self.max_grad_norm or math.inf)
        wrong = [~torch.stack([output.total for output in outputs]).isfinite().all(), ~norm.isfinite()]
        loss, gradient = sum_over_ranks_(torch.stack(wrong).float()).bool().tolist()
        if not (loss or gradient):
            optimizer.step()
        left_out = NOT_FINITE if loss or gradient else None
        if scaler is not None and _halved(scaler) and not loss:
            left_out = OVERFLOW
        optimizer.zero_grad()
        return Step(outputs, norm, left_out)

    def _add_gradient(self, rows: Rows, number: int, batches: int) -> LossOutput:
        accelerator = self.accelerator
        world, rank, scaler = accelerator.num_processes, accelerator.process_index, accelerator.scaler
        chunks = chunk_count(len(rows), world, self.cache_size)
        # Gradients are averaged once, after the last batch: a backward pass that has only some of the views' gradients
        # (no loss uses the prediction, say) would leave DistributedDataParallel waiting for the rest.
        with accelerator.no_sync(self.model):
            parts = self.source.parts(rows, range(rank * chunks, (rank + 1) * chunks), world * chunks)
            views = cached_views(self.model, parts) if chunks > 1 else self.model(parts[0])
            output = self.objective(views, number)
            total = output.total / batches
            (total if scaler is None else scaler.scale(total)).backward()
        return LossOutput(output.total.detach(), {name: value.detach() for name, value in output.terms.items()})


def _halved(scaler: torch.amp.GradScaler) -> bool:
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


# Gradient caching: the gradient of a loss on a large batch in the memory of a small one


def cached_views(model: nn.Module, chunks: Sequence[PairBatch]) -> Views:
    """Return the views of all chunks; in the backward pass each chunk is embedded again, with the same random numbers.

    The memory is that of one chunk's graph and of all embeddings; the cost is one more forward pass.

    Source: Gao et al. 2021, arXiv:2101.06983, section 3.
    """
    shown = [vars(checkpoint(model, chunk, use_reentrant=False)) for chunk in chunks]
    parts = {name: [part for views in shown if (part := views[name]) is not None] for name in shown[0]}
    return Views(**{name: torch.cat(values) for name, values in parts.items() if values})


def random_states() -> dict[str, Tensor]:
    """Return the states of torch's random generators, of the CPU and of each GPU in use."""
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {"cpu": torch.get_rng_state()} | {f"cuda{i}": state for i, state in enumerate(gpus)}


def set_random_states(states: dict[str, Tensor]) -> None:
    """Set what `random_states` returned."""
    torch.set_rng_state(states["cpu"])
    for i in range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0):
        torch.cuda.set_rng_state(states[f"cuda{i}"], i)
