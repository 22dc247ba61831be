"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math


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
