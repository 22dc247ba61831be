"""The resume points of a run: numbered folders, of which the newest that is whole counts."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from ragcun.atomic import remove_leftovers
from ragcun.models.encoder import RetrievalEncoder
from ragcun.training.checkpoint import DamagedPointError, Progress, load_state, save_state
from ragcun.training.keeping import Keeper

logger = logging.getLogger(__name__)

KEPT = 2
"""Resume points on disk: the newest, and the one before, which stands in where the newest is damaged."""
DIGITS = 6


class ResumePoints:
    """The resume points in a folder.

    Args:
        folder: where they are, each in a folder ``000001``, ``000002``, …
        settings: of the run; a point of a run with others is refused.
        encoder: what is trained.
        optimizer: what trains it.
        keeper: what averages its weights.
        scaler: fp16's loss scale; None without.
    """

    def __init__(
        self,
        folder: Path,
        settings: dict[str, Any],
        encoder: RetrievalEncoder,
        optimizer: torch.optim.Optimizer,
        keeper: Keeper,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        self.folder, self.settings, self.scaler = folder, settings, scaler
        self.encoder, self.optimizer, self.keeper = encoder, optimizer, keeper
        self._damaged: list[Path] = []

    def newest_first(self) -> list[Path]:
        """Return the points that are on disk."""
        found = [path for path in self.folder.glob("[0-9]" * DIGITS) if path.is_dir()]
        return sorted(found, reverse=True)

    def save(self, progress: Progress) -> Path:
        """Write a new point, then remove all but it and the one before; return its folder."""
        before = [path for path in self.newest_first() if path not in self._damaged]
        numbers = [int(path.name) for path in self.newest_first()]
        point = self.folder / f"{max(numbers, default=0) + 1:0{DIGITS}d}"
        save_state(point, self.encoder, self.optimizer, self.keeper, progress, self.settings, self.scaler)
        for path in [*before[KEPT - 1 :], *self._damaged]:
            _remove(path)
        self._damaged = []
        for left in self.folder.glob(".*"):
            remove_leftovers(self.folder / left.name.split(".")[1])
        return point

    def load(self) -> Progress | None:
        """Load the newest point that is whole; None where there is no point.

        Raises:
            InputError: all points are damaged, or the newest whole one is of a run with other settings.
        """
        points = self.newest_first()
        for point, before in itertools.zip_longest(points, points[1:]):
            progress = self._load(point, before)
            if progress is not None:
                logger.info("resuming from %s: after step %d, epoch %d", point, progress.step, progress.epoch)
                return progress
        logger.info("no resume point in %s: starting from the beginning", self.folder.parent)
        return None

    def _load(self, point: Path, before: Path | None) -> Progress | None:
        """Load a point; None where it is damaged and there is one before it."""
        try:
            return load_state(point, self.encoder, self.optimizer, self.keeper, self.settings, self.scaler)
        except DamagedPointError as error:
            if before is None:
                raise
            self._damaged.append(point)
            logger.warning("%s; trying the one before, %s", error.found, before)
            return None


def _remove(point: Path) -> None:
    """Remove a point, which no longer has the name of one while its files go."""
    hidden = tempfile.mkdtemp(dir=point.parent, prefix=f".{point.name}.", suffix=".tmp")
    os.replace(point, hidden)
    shutil.rmtree(hidden, ignore_errors=True)
