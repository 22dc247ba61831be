"""What ``scripts/train.py`` and its variants for one system do."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ragcun.training.config import TrainConfig


def train(config: TrainConfig) -> str:
    """Train, draw the loss curve into the run folder, and return a summary; of several processes the main one does.

    Raises:
        InputError: a setting or a file is wrong.
    """
    from accelerate import PartialState

    from ragcun.reporting.plots import plot_loss_curves
    from ragcun.training.loop import fit
    from ragcun.training.runfolder import RunFolder

    result = fit(config)
    if not PartialState().is_main_process:
        return ""
    run = RunFolder(config.output_dir, resume=True)
    plot_loss_curves(run.metrics, run.loss_curve)
    score = "" if result.score is None else f" {abs(result.score):.4f}"
    base = "" if result.base_score is None else f" (untouched base {result.base_score:.4f})"
    compared = f"{result.comparison}\n" if result.comparison else ""
    return (
        f"epoch {result.best_epoch} kept, chosen by {result.criterion}{score}{base}\n{compared}"
        f"{result.steps} steps in {result.seconds:.1f} s; checkpoint: {result.checkpoint}"
    )
