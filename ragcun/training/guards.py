"""Guards of a run: non-finite losses and gradients, too little memory, SIGTERM and Ctrl-C."""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

import torch
from typing_extensions import Self

from ragcun.config import TrainConfig
from ragcun.data.pairs import PairDataset
from ragcun.embeddings.base import Rows
from ragcun.errors import InputError
from ragcun.io import write_json
from ragcun.models.encoder import RetrievalEncoder
from ragcun.training.checkpoint import Progress
from ragcun.training.run_dir import RunFolder
from ragcun.training.step import OVERFLOW, Step, loss_values, plain

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)
ECHO = 1.0
"""Seconds within which a launcher may pass on a Ctrl-C that its processes have had from the terminal already."""


def record_skipped(
    step: Step, batches: list[Rows], progress: Progress, config: TrainConfig, run: RunFolder, data: PairDataset
) -> None:
    """Log a step that was left out and is counted in `progress`.

    Raises:
        InputError: there are more than the settings allow; their pairs are in the run folder's ``non_finite.json``.
    """
    place, norm = {"epoch": progress.epoch, "step": progress.step}, {"grad_norm": plain(step.norm)}
    run.log({"kind": "skipped", **place, "cause": step.left_out, **loss_values(step.outputs[-1]), **norm})
    if step.left_out == OVERFLOW:
        logger.info("step %d left out: fp16 overflow, the loss scale is halved", progress.step)
        return
    wrong, most = what_is_wrong(step), config.max_skipped if config.on_nan == "skip" else 0
    found = f"{wrong} at step {progress.step}"
    if progress.skipped <= most:
        logger.warning("%s; step left out, %d of at most %d", found, progress.skipped, most)
        return
    if run.recorded:
        shown = [{**loss_values(o), "pairs": _texts(data, rows)} for o, rows in zip(step.outputs, batches, strict=True)]
        write_json(run.non_finite, {**place, "wrong": wrong, "source": data.source, **norm, "batches": shown})
        found += f" (its pairs: {run.non_finite})"
    before = f"after {most} steps left out, " if most else ""
    remedy = "continue with --resume and a larger --max_skipped" if most else "leave it out with --on_nan skip"
    raise InputError(f"{before}{found}; lower --learning_rate or raise --temperature, or {remedy}")


def _texts(data: PairDataset, rows: Rows) -> list[dict[str, Any]]:
    texts = zip(rows.tolist(), data.rows(rows), strict=True)
    return [{"pair": row, "query": q, "positive": p, "negative": n} for row, (q, p, n) in texts]


def what_is_wrong(step: Step) -> str:
    """Say which loss, by which of its terms, or else that the gradient is not finite."""
    for output in step.outputs:
        if not math.isfinite(float(output.total)):
            wrong = [f"{name} {plain(value)}" for name, value in output.terms.items() if isinstance(plain(value), str)]
            return f"the loss is {plain(output.total)}" + (f" by {', '.join(wrong)}" if wrong else "")
    return f"the gradient's norm is {plain(step.norm)}"


def require_finite(encoder: RetrievalEncoder, when: str) -> None:
    """Raise InputError if a weight is not finite after the step or epoch that `when` names."""
    if not all(bool(tensor.isfinite().all()) for tensor in encoder.trained_state().values()):
        raise InputError(f"weights are not finite after {when}; lower --learning_rate")


def flags_that_save_memory(config: TrainConfig) -> str:
    """Name the flags that make a step smaller, those first that change the result least."""
    half = max(2, config.batch_size // 2)
    flags = []
    if not config.freeze_base:
        flags += [] if config.gradient_checkpointing else ["--gradient_checkpointing"]
        flags += ["a smaller --grad_cache_size" if config.grad_cache_size else f"--grad_cache_size {half}"]
    flags += ["--mixed_precision auto"] if config.mixed_precision == "no" and torch.cuda.is_available() else []
    flags += ["a smaller --num_slices"] if config.isotropy == "sigreg" and config.lambda_isotropy else []
    flags += ["a smaller --mined_negatives"] if config.mines else []
    accumulation = f"--gradient_accumulation_steps {2 * config.gradient_accumulation_steps}"
    return ", or ".join([*flags, f"--batch_size {half} with {accumulation}"])


@contextmanager
def explaining_memory(config: TrainConfig, pairs: int) -> Iterator[None]:
    """Turn a lack of memory for a batch of `pairs` pairs into an InputError that names flags."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        of_cpu = "can't allocate memory" in str(error)  # for which torch has no exception of its own
        if not (of_cpu or isinstance(error, (torch.OutOfMemoryError, MemoryError))):
            raise
        where = f"out of memory at a batch of {pairs} pairs (--batch_size {config.batch_size})"
        raise InputError(f"{where}; start again with {flags_that_save_memory(config)}") from error


class TrainingStopped(KeyboardInterrupt):
    """A signal ended training after a step, and the resume point of that step is on disk."""

    def __init__(self, number: int, step: int) -> None:
        self.code = 128 + number
        super().__init__(f"stopped by {signal.Signals(number).name} after step {step}; --resume continues from there")


class StopRequest(ExitStack):
    """Notes, while it is entered, a SIGTERM or SIGINT instead of ending the process; a second SIGINT ends it at once.

    The earlier handlers are put back on leaving. A signal that is ignored stays so. Outside the main thread, where
    Python allows no handlers, nothing is noted.
    """

    def __init__(self, echo: float = 0.0) -> None:
        super().__init__()
        self.received, self.echo = 0, echo
        self._since = 0.0

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                before = signal.getsignal(number)
                if before is not signal.SIG_IGN and before is not None:  # None: set by other than Python
                    self.callback(signal.signal, number, signal.signal(number, self._note))
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.received:
            self.received, self._since = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._since >= self.echo:
            raise KeyboardInterrupt
