"""Watch: regular looks at a fixed probe of the training pairs, for the log and for the collapse monitor."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch

from ragcun.errors import InputError
from ragcun.models.encoder import RetrievalEncoder
from ragcun.training.batches import PairSource
from ragcun.training.collapse import CollapseMonitor

logger = logging.getLogger(__name__)


class Watch:
    """Looks before the first step, `checks` times in a run, and after the last step; 0 checks look never.

    Args:
        source: where the probe's pairs come from.
        seed: chooses them.
        checks: looks in a run.
        total: optimiser steps in a run.
        stop: whether a collapse ends the run.
    """

    def __init__(self, source: PairSource, seed: int, checks: int, total: int, stop: bool) -> None:
        self.source = source
        self.rows = source.probe(seed)
        self.total = total
        self.every = max(1, total // checks) if checks else 0
        self.stop = stop
        self.monitor = CollapseMonitor()

    def is_due(self, step: int) -> bool:
        """Whether there is a look after this step."""
        return self.every > 0 and (step % self.every == 0 or step == self.total)

    @torch.no_grad()
    def look(self, encoder: RetrievalEncoder, epoch: int, step: int) -> list[dict[str, Any]]:
        """Look at the probe in evaluation mode; return rows for the metrics, and warn of what collapses.

        Raises:
            InputError: embeddings are not finite.
        """
        training = encoder.training
        views = encoder.eval()(self.source.batch(self.rows))
        encoder.train(training)
        place = {"epoch": epoch, "step": step}
        try:
            found = self.monitor.observe(step, views)
        except ValueError as error:
            raise InputError(f"{error} at step {step}; lower --learning_rate") from error
        rows = [{"kind": "probe", **place, "figures": self.monitor.latest, "model": encoder.diagnostics(views)}]
        for collapse in found:
            rows.append({"kind": "collapse", **place, "collapse": collapse.kind, "message": collapse.message})
            rows[-1]["figures"] = collapse.figures
            if not self.stop:
                logger.warning("%s", collapse.message)
        return rows

    def report(self, encoder: RetrievalEncoder, epoch: int, step: int, log: Callable[[dict[str, Any]], None]) -> None:
        """Look, log the rows, and end the run where they name a collapse and that is what was asked for.

        Raises:
            InputError: there is a collapse, or embeddings are not finite.
        """
        rows = self.look(encoder, epoch, step)
        for row in rows:
            log(row)
        for row in rows:
            if self.stop and row["kind"] == "collapse":
                raise InputError(f"{row['message']}; or go on with --on_collapse warn")
