"""``ragcun train``: a training run, its loss curve and its summary; the flags are `ragcun.config.TrainConfig`."""

from __future__ import annotations

import logging

from ragcun.config import TrainConfig

RECIPE = (
    "recipe: ragcun's own, the best we measured (closed-form whitening, linear heads, InfoNCE, mined negatives); "
    "the founding notes' recipe is --config notes"
)
logger = logging.getLogger(__name__)


def run(config: TrainConfig) -> str:
    """Train, draw the loss curve into the run folder, and return a summary; of several processes the main one does."""
    from accelerate import PartialState

    from ragcun.reporting.plots import loss_figure, write_png
    from ragcun.training.guards import TrainingStopped
    from ragcun.training.loop import fit
    from ragcun.training.run_dir import RunFolder

    if "config" not in config.given:
        logger.info(RECIPE)
    try:
        result = fit(config)
    except TrainingStopped as stopped:
        logger.warning("%s", stopped)
        raise SystemExit(stopped.code) from None
    if not PartialState().is_main_process:
        return ""
    folder = RunFolder(config.output_dir)
    if result.steps:
        write_png(loss_figure(folder.metrics), folder.loss_curve)
    score = "" if result.score is None else f" {abs(result.score):.4f}"
    base = "" if result.base_score is None else f" (untouched base {result.base_score:.4f})"
    compared = f"{result.comparison}\n" if result.comparison else ""
    skipped = f"{result.skipped} steps left out: loss or gradient not finite\n" if result.skipped else ""
    return (
        f"epoch {result.best_epoch} kept, chosen by {result.criterion}{score}{base}\n{compared}{skipped}"
        f"{result.steps} steps in {result.seconds:.1f} s; checkpoint: {result.checkpoint}"
    )
