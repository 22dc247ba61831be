"""Learning rate and EMA decay as pure functions of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any


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


def set_rates(groups: Iterable[dict[str, Any]], rates: Iterable[float], factor: float) -> None:
    """Give each group of an optimiser its rate times a factor."""
    for group, rate in zip(groups, rates, strict=True):
        group["lr"] = rate * factor


def ema_decay(step: int, total_steps: int, start: float, schedule: str = "constant") -> float:
    """Return the decay m of an EMA target after optimiser step `step` (from 1 to `total_steps`).

    ``constant``: start; ``cosine``: 1 − (1 − start)·(1 + cos(π·step/total))/2; ``linear``:
    start + (1 − start)·step/total. The last two end at 1, where the target stands still.

    Source: Grill et al. 2020 (BYOL), arXiv:2006.07733, section 3.2 (cosine).

    Raises:
        ValueError: an unknown schedule.

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
