"""Losses and gradients that are no numbers: what a run does then, and what it writes down."""

from __future__ import annotations

import logging
import math
from typing import Any

from torch import Tensor

from ragcun.errors import InputError
from ragcun.files import write_json
from ragcun.losses.objective import LossOutput
from ragcun.models.encoder import RetrievalEncoder
from ragcun.training.batches import PairSource, Rows
from ragcun.training.checkpoint import Progress
from ragcun.training.processes import Processes
from ragcun.training.runfolder import RunFolder
from ragcun.training.stepper import OVERFLOW, Step

logger = logging.getLogger(__name__)

HELP = "lower --learning_rate or raise --temperature"


class NumberGuard:
    """Counts the steps that were left out, and ends a run that has too many of them.

    Args:
        run: where rows and the batch go.
        source: the training pairs.
        most: steps without a finite loss and gradient that a run may leave out; one more ends it. An overflow of fp16's
            loss scale is none of them.
    """

    def __init__(self, run: RunFolder, source: PairSource, most: int) -> None:
        self.run, self.source, self.most = run, source, most

    def __call__(self, step: Step, batches: list[Rows], progress: Progress, processes: Processes) -> None:
        """Count a step that was left out, and let the main process log it.

        Raises:
            InputError: there were too many; the batches are in the run folder's ``non_finite.json``.
        """
        progress.overflows += step.left_out == OVERFLOW
        progress.skipped += step.left_out != OVERFLOW
        processes.on_main(lambda: self._record(step, batches, progress))

    def _record(self, step: Step, batches: list[Rows], progress: Progress) -> None:
        row = {"kind": "skipped", "epoch": progress.epoch, "step": progress.step, "cause": step.left_out}
        self.run.log(row | _values(step.outputs[-1]) | {"grad_norm": plain(step.norm)})
        if step.left_out == OVERFLOW:
            logger.info("step %d left out: fp16 overflow, the loss scale is halved", progress.step)
            return
        found = f"{what_is_wrong(step)} at step {progress.step}"
        if progress.skipped <= self.most:
            logger.warning("%s; step left out, %d of at most %d", found, progress.skipped, self.most)
            return
        before = f"after {self.most} steps left out, " if self.most else ""
        remedy = "go on with --resume and a larger --max_skipped" if self.most else "leave it out with --on_nan skip"
        raise InputError(f"{before}{found}{self._written(step, batches, progress)}; {HELP}, or {remedy}")

    def _written(self, step: Step, batches: list[Rows], progress: Progress) -> str:
        """Write the batches to disk, and return the words that say where they are."""
        if not self.run.recorded:
            return ""
        place = {"epoch": progress.epoch, "step": progress.step, "wrong": what_is_wrong(step)}
        rows = [
            {**_values(output), "pairs": self._pairs(batch)}
            for output, batch in zip(step.outputs, batches, strict=True)
        ]
        source = {"source": self.source.dataset.source, "grad_norm": plain(step.norm)}
        write_json(self.run.non_finite, {**place, **source, "batches": rows})
        return f" (its pairs: {self.run.non_finite})"

    def _pairs(self, rows: Rows) -> list[dict[str, Any]]:
        texts = zip(rows.tolist(), self.source.dataset.rows(rows), strict=True)
        return [{"pair": row, "query": q, "positive": p, "negative": n} for row, (q, p, n) in texts]


def what_is_wrong(step: Step) -> str:
    """Say which loss, by which of its terms, or else that the gradient is not finite."""
    for output in step.outputs:
        if not math.isfinite(float(output.total)):
            wrong = [f"{name} {plain(value)}" for name, value in output.terms.items() if not _finite(value)]
            return f"the loss is {plain(output.total)}" + (f" by {', '.join(wrong)}" if wrong else "")
    return f"the gradient's norm is {plain(step.norm)}"


def plain(value: Tensor) -> float | str:
    """Return a number as JSON can hold it: what is not finite by its name.

    >>> import torch
    >>> plain(torch.tensor(0.5)), plain(torch.tensor(torch.inf)), plain(torch.tensor(torch.nan))
    (0.5, 'inf', 'nan')
    """
    number = float(value)
    return number if math.isfinite(number) else str(number)


def require_finite(encoder: RetrievalEncoder, when: str) -> None:
    """Refuse weights that must not be kept.

    Raises:
        InputError: a weight is not finite.
    """
    if not all(bool(tensor.isfinite().all()) for tensor in encoder.trained_state().values()):
        raise InputError(f"weights are not finite after {when}; lower --learning_rate")


def _values(output: LossOutput) -> dict[str, Any]:
    terms = {name: plain(value) for name, value in output.terms.items()}
    return {"total": plain(output.total), "terms": terms}


def _finite(value: Tensor) -> bool:
    return math.isfinite(float(value))
