"""What a training run came to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class FitResult:
    """What a run came to.

    Attributes:
        checkpoint: folder of the chosen model.
        best_epoch: the epoch chosen; 0 is the start, before training.
        criterion: what it was chosen by.
        score: its score, higher is better (minus the objective, for that criterion); None without a criterion.
        base_score: the untouched base's score on the same data, None where the criterion has none.
        steps: optimiser steps.
        seconds: time spent in training.
        skipped: steps left out because a loss or the gradient was not finite.
        overflows: steps left out because fp16's loss scale was too large.
        comparison: what `never_worse` found and kept, in a sentence; None where nothing was compared.
    """

    checkpoint: Path
    best_epoch: int
    criterion: str
    score: float | None
    base_score: float | None
    steps: int
    seconds: float
    comparison: str | None = None
    skipped: int = 0
    overflows: int = 0
