"""Resume points: weights, optimiser, random states and progress, in safetensors and JSON, complete or absent."""

from __future__ import annotations

import itertools
import logging
import shutil
from dataclasses import asdict, dataclass, field, replace
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
from ragcun.tensors import contiguous, copy_strictly
from ragcun.training.batches import PairSource
from ragcun.training.collapse import CollapseMonitor
from ragcun.training.step import random_states, set_random_states
from ragcun.training.weights import WeightAverage

logger = logging.getLogger(__name__)

NOT_COMPARED = (
    *("output_dir", "resume", "overwrite", "cache_dir", "device", "log_interval", "tracker"),
    *("on_collapse", "on_nan", "max_skipped", "save_interval", "state_interval"),
)
"""Settings that may differ when a run is resumed."""
KEPT = 2
"""Resume points on disk: the newest, and the one before, which is used where the newest is damaged."""
DIGITS = 6


@dataclass
class Progress:
    """How far a run is.

    Epochs count from 1, and 0 is before training; `batches_done` are optimiser steps of this epoch, `step` of the run,
    with those left out (`skipped` since a loss or the gradient was not finite, `overflows` of fp16's loss scale);
    a higher `best_score` is better; `metric_rows` are those of the metrics file at this point.
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
    collapse: CollapseMonitor = field(default_factory=CollapseMonitor)


@dataclass
class CheckpointManager:
    """The resume points of a run, in folders ``000001``, ``000002`` and so on; one of other `settings` is refused.

    `source` is that of mined negatives which the weights at a point do not give, as they were mined before it.
    """

    folder: Path
    settings: dict[str, Any]
    encoder: RetrievalEncoder
    optimizer: torch.optim.Optimizer
    average: WeightAverage
    scaler: torch.amp.GradScaler | None = None
    source: PairSource | None = None
    _damaged: list[Path] = field(default_factory=list, init=False)

    def newest_first(self) -> list[Path]:
        """Return the points that are on disk."""
        return sorted((path for path in self.folder.glob("[0-9]" * DIGITS) if path.is_dir()), reverse=True)

    def save(self, progress: Progress) -> Path:
        """Write a new point, then remove all but it and the one before; return its folder."""
        there = self.newest_first()
        point = self.folder / f"{int(there[0].name) + 1 if there else 1:0{DIGITS}d}"
        self._write(point, progress)
        for path in [*[path for path in there if path not in self._damaged][KEPT - 1 :], *self._damaged]:
            gone = path.rename(path.with_name(f".{path.name}.obsolete.tmp"))  # whole or not there, also when killed
            shutil.rmtree(gone, ignore_errors=True)
        self._damaged = []
        for left in self.folder.glob(".*"):
            remove_leftovers(self.folder / left.name.split(".")[1])
        return point

    def _write(self, point: Path, progress: Progress) -> None:
        state = self.optimizer.state_dict()
        moments = {f"{i}.{name}": value for i, values in state["state"].items() for name, value in values.items()}
        groups = [{name: value for name, value in group.items() if name != "params"} for group in state["param_groups"]]
        tensors = {"model": self.encoder.trained_state(), "average": self.average.state()}
        tensors |= {"optimizer": moments, "random": random_states()}
        if self.source is not None and self.source.pools is not None:
            tensors["pools"] = {"mined": torch.from_numpy(self.source.pools.mined)}
        scale = None if self.scaler is None else self.scaler.state_dict()
        rest = {"progress": asdict(progress), "groups": groups, "scaler": scale, "settings": self.settings}
        with replacing_folder(point) as temporary:
            files = {temporary / f"{name}.safetensors": values for name, values in tensors.items()}
            for path, values in files.items():
                save_file(contiguous(values), path)
            whole = {"files_blake2b": {path.name: file_digest(path) for path in files}, **rest}
            write_json(temporary / "state.json", {**whole, OWN_SUM: description_digest(whole)})

    def load(self) -> Progress | None:
        """Load the newest undamaged point, and return the progress there; None where there is no point.

        Raises:
            InputError: all points are damaged, or the newest undamaged one is of a run with other settings.
        """
        points = self.newest_first()
        for point, before in itertools.zip_longest(points, points[1:]):
            try:
                values = _checked(point)
                ours, theirs = self.settings, values["settings"]
                other = next((name for name in [*ours, *theirs] if theirs.get(name) != ours.get(name)), None)
                progress = self._restore(point, values) if other is None else Progress()
            except (KeyError, TypeError, ValueError, RuntimeError, OSError, SafetensorError) as error:
                damage = f"resume point {point} is corrupt ({error})"
                if before is None:
                    raise InputError(f"{damage}; delete it or start with --overwrite") from error
                self._damaged.append(point)
                logger.warning("%s; trying the one before, %s", damage, before)
                continue
            if other is not None:
                raise InputError(
                    f"{point} was made with {other} = {theirs.get(other)}, this run has {ours.get(other)}; "
                    "give the same, or start with --overwrite"
                )
            logger.info("resuming from %s: after step %d, epoch %d", point, progress.step, progress.epoch)
            return progress
        logger.info("no resume point in %s: starting from the beginning", self.folder.parent)
        return None

    def _restore(self, point: Path, values: dict[str, Any]) -> Progress:
        copy_strictly(self.encoder.trained_state(), load_file(point / "model.safetensors"))
        self.average.load(load_file(point / "average.safetensors"))
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in load_file(point / "optimizer.safetensors").items():
            index, _, key = name.partition(".")
            moments.setdefault(int(index), {})[key] = tensor
        shape = self.optimizer.state_dict()["param_groups"]
        groups = [{**saved, "params": each["params"]} for saved, each in zip(values["groups"], shape, strict=True)]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        set_random_states(load_file(point / "random.safetensors"))
        if self.scaler is not None and values["scaler"] is not None:
            self.scaler.load_state_dict(values["scaler"])
        if self.source is not None and self.source.pools is not None:
            mined = load_file(point / "pools.safetensors")["mined"].numpy()
            self.source.pools = replace(self.source.pools, mined=mined)
        collapse = CollapseMonitor(**values["progress"]["collapse"])
        return Progress(**{**values["progress"], "collapse": collapse})


def _checked(point: Path) -> dict[str, Any]:
    values: dict[str, Any] = read_json(point / "state.json")
    digests = {"state.json": values[OWN_SUM], **values["files_blake2b"]}
    for name, digest in digests.items():
        if digest != (description_digest(values) if name == "state.json" else file_digest(point / name)):
            raise ValueError(f"{name} does not match the checksum it was written with")
    return values
