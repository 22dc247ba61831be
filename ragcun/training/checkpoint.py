"""Resume points: weights, optimiser, random states and progress, in safetensors and JSON, complete or absent."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ragcun.errors import InputError
from ragcun.io import file_digest, read_json, remove_leftovers, replacing_folder, write_json
from ragcun.models.checkpoint import OWN_SUM, description_digest
from ragcun.models.encoder import RetrievalEncoder
from ragcun.tensors import contiguous, copy_strictly, naming_disk_errors
from ragcun.training.averaging import Keeper

# Settings that may differ when a run is resumed.
NOT_COMPARED = (
    "output_dir",
    "resume",
    "overwrite",
    "cache_dir",
    "device",
    "log_interval",
    "tracker",
    "on_collapse",
    "on_nan",
    "max_skipped",
    "save_interval",
    "state_interval",
)
FILES = ("model.safetensors", "kept.safetensors", "optimizer.safetensors", "random.safetensors")


class DamagedPointError(InputError):
    """A resume point is not as it was written.

    Attributes:
        found: what is wrong, without the remedy.
    """

    def __init__(self, folder: Path, reason: object) -> None:
        self.found = f"resume point {folder} is corrupt ({reason})"
        super().__init__(f"{self.found}; delete it or start with --overwrite")


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        epoch: epochs begun, from 1; 0 before training.
        epochs_done: epochs that are behind us, with the look at the held-out data at their end.
        batches_done: batches of this epoch that are behind us.
        step: optimiser steps taken, or left out.
        skipped: steps left out because a loss or the gradient was not finite.
        overflows: steps left out because fp16's loss scale was too large.
        best_score: score of the best epoch so far, higher is better.
        best_epoch: that epoch; 0 is the start, before training.
        metric_rows: rows of the metrics file at this point.
        seconds: time spent in training so far.
        collapse: state of the collapse monitor.
    """

    epoch: int = 0
    epochs_done: int = 0
    batches_done: int = 0
    step: int = 0
    skipped: int = 0
    overflows: int = 0
    best_score: float | None = None
    best_epoch: int = 0
    metric_rows: int = 0
    seconds: float = 0.0
    collapse: dict[str, Any] = field(default_factory=dict)


def save_state(
    folder: Path,
    encoder: RetrievalEncoder,
    optimizer: torch.optim.Optimizer,
    keeper: Keeper,
    progress: Progress,
    settings: dict[str, Any],
    scaler: torch.amp.GradScaler | None = None,
) -> None:
    """Write a resume point; an older one is replaced only when this one is whole."""
    state = optimizer.state_dict()
    moments = {f"{i}.{name}": value for i, values in state["state"].items() for name, value in values.items()}
    groups = [{name: value for name, value in group.items() if name != "params"} for group in state["param_groups"]]
    random = {"cpu": torch.get_rng_state()}
    random |= {f"cuda{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())} if _cuda() else {}
    tensors = (encoder.trained_state(), keeper.state(), moments, random)
    with replacing_folder(folder) as temporary, naming_disk_errors():
        for name, values in zip(FILES, tensors, strict=True):
            save_file(contiguous(values), temporary / name)
        scale = None if scaler is None else scaler.state_dict()
        rest = {"progress": asdict(progress), "groups": groups, "scaler": scale, "settings": settings}
        whole = {"files_blake2b": {name: file_digest(temporary / name) for name in FILES}, **rest}
        write_json(temporary / "state.json", {**whole, OWN_SUM: description_digest(whole)})


def load_state(
    folder: Path,
    encoder: RetrievalEncoder,
    optimizer: torch.optim.Optimizer,
    keeper: Keeper,
    settings: dict[str, Any],
    scaler: torch.amp.GradScaler | None = None,
) -> Progress:
    """Load a resume point into encoder, optimiser, keeper, scaler and random generators; return the progress.

    Raises:
        DamagedPointError: the resume point is corrupt; mostly found before anything is loaded.
        InputError: it was made with other settings.
    """
    try:
        values = _read(folder)
        _same_settings(folder, values["settings"], settings)
        copy_strictly(encoder.trained_state(), load_file(folder / "model.safetensors"))
        keeper.load(load_file(folder / "kept.safetensors"))
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in load_file(folder / "optimizer.safetensors").items():
            index, _, key = name.partition(".")
            moments.setdefault(int(index), {})[key] = tensor
        shape = optimizer.state_dict()["param_groups"]
        groups = [{**saved, "params": group["params"]} for saved, group in zip(values["groups"], shape, strict=True)]
        optimizer.load_state_dict({"state": moments, "param_groups": groups})
        random = load_file(folder / "random.safetensors")
        torch.set_rng_state(random["cpu"])
        for i in range(torch.cuda.device_count() if _cuda() else 0):
            torch.cuda.set_rng_state(random[f"cuda{i}"], i)
        if scaler is not None and values["scaler"] is not None:
            scaler.load_state_dict(values["scaler"])
        return Progress(**values["progress"])
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError, OSError, SafetensorError) as error:
        raise DamagedPointError(folder, error) from error


def _read(folder: Path) -> dict[str, Any]:
    """Return what the JSON of a resume point holds, once its other files are known to be as they were written."""
    try:
        values: dict[str, Any] = read_json(folder / "state.json")
    except InputError as error:
        raise DamagedPointError(folder, error) from error
    if values[OWN_SUM] != description_digest(values):
        raise DamagedPointError(folder, "state.json has another checksum than when it was written")
    for name, digest in values["files_blake2b"].items():
        if file_digest(folder / name) != digest:
            raise DamagedPointError(folder, f"{name} has another checksum than when it was written")
    return values


def comparable(settings: dict[str, Any]) -> dict[str, Any]:
    """Return those settings that have to stay the same when a run is resumed."""
    return {name: value for name, value in settings.items() if name not in NOT_COMPARED}


def _same_settings(folder: Path, saved: dict[str, Any], settings: dict[str, Any]) -> None:
    for name in settings.keys() | saved.keys():
        if saved.get(name) != settings.get(name):
            raise InputError(
                f"{folder} was made with {name} = {saved.get(name)}, this run has {settings.get(name)}; "
                "give the same, or start with --overwrite"
            )


def _cuda() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_initialized()


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
