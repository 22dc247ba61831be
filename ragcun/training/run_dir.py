"""The folder of a run: configuration, manifest, metrics with one JSON object a line, and trackers that follow them."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from ragcun.config import TrainConfig
from ragcun.data.overlap import HoldOut, training_documents
from ragcun.embeddings.base import Base
from ragcun.embeddings.hub import BEST_MODEL
from ragcun.embeddings.joined import JoinedBase
from ragcun.embeddings.lexical import LexicalChannel
from ragcun.environment import environment
from ragcun.errors import InputError
from ragcun.io import claim_folder, write_json, write_text
from ragcun.models.encoder import RetrievalEncoder
from ragcun.training.batches import PairSource
from ragcun.training.selection import DEV, FinalSelection
from ragcun.training.setup import TrainingData
from ragcun.training.summary import FitResult, card, in_words, model_settings, trained_parts

logger = logging.getLogger(__name__)

Callback = Callable[[dict[str, Any]], object]
"""What a user follows a run with: it receives every row of the metrics."""
PLACES = ("kind", "step", "epoch")  # of a row of the metrics, not measured there


class RunFolder:
    """The files of a run; without a path nothing is written, and only those who follow get its rows."""

    def __init__(self, path: str | Path | None) -> None:
        self.recorded = path is not None
        self.path = path = Path(path or os.devnull)
        self.config, self.manifest, self.metrics = path / "config.yaml", path / "manifest.json", path / "metrics.jsonl"
        self.loss_curve, self.non_finite = path / "loss_curve.png", path / "non_finite.json"
        self.state, self.best_model, self.tracking = path / "state", path / BEST_MODEL, path / "tensorboard"
        self.followers: list[Callback] = []

    def claim(self, resume: bool = False, overwrite: bool = False) -> None:
        """Make the folder, or continue or replace an earlier run in it; raise InputError if neither is asked for."""
        if not self.recorded:
            return
        folders = (self.state, self.best_model, *self.path.glob("epoch-[0-9]*"), self.tracking, self.path / "isotropy")
        files = (self.metrics, self.manifest, self.config, self.loss_curve, self.non_finite, self.path / "report.html")
        claim_folder(self.path, "run", self.config, (*folders, *files), resume, overwrite)

    def keep_channel(self, base: Base) -> None:
        """Keep the lexical channel, if the base has one, of a run that begins, beside its resume points."""
        if isinstance(base, JoinedBase) and self.recorded and not any(self.state.glob("[0-9]*")):
            base.channel.save(self.state / "lexical")

    def kept_channel(self) -> LexicalChannel | None:
        """Return the lexical channel that the run's resume points belong to, None where there are none."""
        folder = self.state / "lexical"
        return LexicalChannel.load(folder) if any(self.state.glob("[0-9]*")) and folder.exists() else None

    def log(self, row: dict[str, Any]) -> None:
        """Append a row to the metrics, and give it to those who follow."""
        if self.recorded:
            with self.metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        for follower in self.followers:
            follower(row)

    def count_rows(self) -> int:
        """Count the rows of the metrics, which are on the disk then."""
        if not self.metrics.exists():
            return 0
        with self.metrics.open("rb") as file:
            os.fsync(file.fileno())
            return sum(1 for _ in file)

    def keep_rows(self, count: int) -> None:
        """Drop all rows of the metrics after the first `count`."""
        lines = self.metrics.read_text(encoding="utf-8").splitlines(keepends=True) if self.metrics.exists() else []
        write_text(self.metrics, "".join(lines[:count]))


def require_tracker(name: str) -> None:
    """Raise InputError, before anything is computed, if a tracker's package is not installed."""
    if name != "none" and importlib.util.find_spec(name) is None:
        raise InputError(f"--tracker {name} needs a package that is not installed: pip install {name}, or leave it out")


@contextmanager
def tracked(name: str, run: RunFolder, settings: Mapping[str, Any], step: int) -> Iterator[None]:
    """Let a tracker follow the rows of a run under the names of `named`; TensorBoard's events after `step` go."""
    if name == "none" or not run.recorded:
        yield
        return
    from accelerate.tracking import GeneralTracker, TensorBoardTracker, WandBTracker

    tracker: GeneralTracker
    if name == "tensorboard":
        tracker = TensorBoardTracker(run.tracking.name, run.tracking.parent, purge_step=step + 1 if step else None)
    else:
        tracker = WandBTracker("ragcun", name=run.path.name, dir=str(run.path), config=dict(settings))
    tracker.start()
    run.followers.append(lambda row: tracker.log(named(row), step=int(row.get("step", 0))))
    try:
        yield
    finally:
        tracker.finish()


def named(row: dict[str, Any]) -> dict[str, float | str]:
    """Return the numbers and texts of a row of the metrics by their full names.

    >>> named({"kind": "step", "epoch": 1, "step": 10, "total": 2.5, "terms": {"contrastive": 2.0}, "grad_norm": None})
    {'step/total': 2.5, 'step/terms/contrastive': 2.0}
    """
    from transformers.utils.generic import flatten_dict

    measured = {key: value for key, value in row.items() if key not in PLACES}
    flat = flatten_dict(measured, row["kind"], "/")
    return {name: value for name, value in flat.items() if isinstance(value, (int, float, str))}


@dataclass(frozen=True)
class RunRecord:
    """Writes what a run is made of and what comes of it."""

    run: RunFolder
    settings: dict[str, Any]
    manifest: dict[str, Any]
    seen: frozenset[str] | None
    hold_out: HoldOut | None

    def start(self) -> None:
        """Write configuration and manifest."""
        if self.run.recorded:
            write_text(self.run.config, yaml.safe_dump(self.settings, sort_keys=False, allow_unicode=True))
            write_json(self.run.manifest, self.manifest | {"status": "running"})

    def save_model(self, folder: Path, encoder: RetrievalEncoder, result: FitResult, trained: bool = True) -> None:
        """Write a checkpoint folder with its model card, of trained weights or of the initial ones."""
        if self.run.recorded:
            title = f"{folder.parent.name}/{folder.name}"
            page = card(title, encoder, self.settings, result, in_words(self.manifest["trained"]))
            fresh = not trained and self.settings["load_checkpoint"] is None
            seen = frozenset[str]() if fresh else self.seen
            parameters = None if fresh else self.manifest["trained"]["parameters"]
            encoder.save_pretrained(folder, page, seen, self.hold_out, parameters)

    def finish(self, encoder: RetrievalEncoder, result: FitResult, comparison: FinalSelection | None) -> FitResult:
        """Write the final checkpoint and the manifest; return the result with the comparison."""
        trained = comparison is None or comparison.kept == "trained"
        if comparison is not None:
            result = replace(result, comparison=str(comparison))
            if not trained:
                own = comparison.scores[comparison.kept] if result.criterion == DEV else None
                result = replace(result, best_epoch=0, score=own)
        self.save_model(self.run.best_model, encoder, result, trained)
        if self.run.recorded:
            outcome = {name: value for name, value in asdict(result).items() if name != "checkpoint"}
            compared = None if comparison is None else asdict(replace(comparison, per_query={}))
            ended = {"status": "finished", "result": outcome, "never_worse": compared}
            write_json(self.run.manifest, self.manifest | ended)
        if result.best_epoch == 0 and result.steps:
            logger.warning("no epoch was better than the start: the checkpoint is the model before training")
        return result


def make_record(
    config: TrainConfig, run: RunFolder, data: TrainingData, encoder: RetrievalEncoder, source: PairSource
) -> RunRecord:
    """Return the record of a run: its settings, and what it is made of."""
    fingerprint = encoder.base.fingerprint() if source.vectors is None else source.vectors.fingerprint
    made_of = {"seed": config.seed, "data_sha256": data.hashes(), "base_fingerprint": fingerprint}
    made_of["trained"] = trained_parts(config, encoder)
    seen = training_documents(data.train, config.documents, config.load_checkpoint, data.hold_out)
    settings = config.to_dict() | (model_settings(encoder) if config.load_checkpoint else {})
    return RunRecord(run, settings, environment(str(source.device)) | made_of, seen, data.hold_out)
