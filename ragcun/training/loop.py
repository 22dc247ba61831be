"""fit: one training loop on accelerate, for every encoder system, cached vectors or live texts."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import Accelerator, PartialState
from accelerate.utils import set_seed
from torch.optim import AdamW
from tqdm.auto import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ragcun.config import TrainConfig
from ragcun.data.overlap import training_documents
from ragcun.embeddings.base import VectorSource
from ragcun.embeddings.cache import EmbeddingCache
from ragcun.embeddings.precomputed import VectorStore
from ragcun.losses.objective import Objective
from ragcun.models.encoder import RetrievalEncoder
from ragcun.tensors import copy_strictly
from ragcun.training.averaging import Keeper
from ragcun.training.batches import Rows, make_source
from ragcun.training.checkpoint import Progress, ResumePoints, comparable
from ragcun.training.collapse import Watch
from ragcun.training.guards import ECHO, NumberGuard, StopRequest, explaining_memory, require_finite, stop_where_asked
from ragcun.training.initialization import mixed, start_training, trained_share
from ragcun.training.model_card import model_card
from ragcun.training.processes import Processes, make_accelerator
from ragcun.training.result import FitResult
from ragcun.training.run_dir import RunFolder, environment
from ragcun.training.schedule import ema_decay, set_rates, warmup_cosine
from ragcun.training.selection import LastSelection, Selection, is_better, is_judged, judge, make_selection, settle
from ragcun.training.setup import TrainingData, build_data, build_encoder, build_objective, build_vectors
from ragcun.training.step import Step, Stepper, epoch_steps, step_row
from ragcun.training.tracking import require_tracker, track

logger = logging.getLogger(__name__)


def fit(config: TrainConfig) -> FitResult:
    """Train an encoder as `config` says, and write its run folder.

    Raises:
        InputError: data, settings, checkpoint or output folder are not possible, or the loss is no longer finite.
        TrainingStopped: SIGTERM or Ctrl-C came; a resume point is on disk.
    """
    require_tracker(config.tracker)
    data = build_data(config)
    vectors = build_vectors(config, data)

    def open_run() -> RunFolder:
        return RunFolder(config.output_dir, config.resume or not PartialState().is_main_process, config.overwrite)

    return make_trainer(config, data, open_run, vectors).train()


def make_trainer(
    config: TrainConfig, data: TrainingData, open_run: Callable[[], RunFolder], vectors: VectorStore | None = None
) -> Trainer:
    """Return what trains the encoder of `config` on `data`: on vectors that are there, or on those of its base model.

    Raises:
        InputError: settings, checkpoint or run folder are not possible.
    """
    objective, accelerator = build_objective(config), make_accelerator(config)
    set_seed(config.seed)
    encoder = build_encoder(config, None if vectors is None else vectors.base)
    cache: VectorSource | None = vectors
    if vectors is not None:
        vectors.require_fit(encoder.base)
    elif encoder.base.frozen:
        cache = EmbeddingCache(encoder.base, config.cache_dir, config.encode_batch_size)
    run = Processes(accelerator).main_first(open_run)
    return Trainer(config, run, accelerator, encoder, objective, data, cache)


class Trainer:
    """State of one run: model, optimiser, sources of batches, and progress."""

    def __init__(
        self,
        config: TrainConfig,
        run: RunFolder,
        accelerator: Accelerator,
        encoder: RetrievalEncoder,
        objective: Objective,
        data: TrainingData,
        cache: VectorSource | None = None,
    ) -> None:
        self.config, self.run, self.accelerator, self.objective = config, run, accelerator, objective
        self.processes = processes = Processes(accelerator)
        device, base = accelerator.device, encoder.to(accelerator.device).base
        self.source = processes.main_first(lambda: make_source(data.train, base, cache, device))
        self.selection: Selection = processes.main_only(
            lambda: make_selection(data, base, cache, objective, config.batch_size, device), LastSelection()
        )
        self.calibration = start_training(encoder, config, self.source, cache, data.queries, processes)
        groups = encoder.parameter_groups(config.rates["base"], config.rates, config.weight_decay)
        self.rates = [group["lr"] for group in groups]
        self.encoder = encoder
        self.model, self.optimizer = accelerator.prepare(encoder, AdamW(groups, fused=True))
        prepared = accelerator, self.model, self.optimizer
        self.stepper = Stepper(*prepared, objective, self.source, config.max_grad_norm, config.grad_cache_size)
        self.progress, steps = Progress(), len(self.steps_of(1))
        self.epochs = config.epochs or max(1, round(config.steps / steps))
        self.total = steps * self.epochs
        self.keeper = Keeper(encoder, config.average_decay, trained_share(config, encoder, data))
        self.guard = NumberGuard(run, self.source, config.max_skipped if config.on_nan == "skip" else 0)
        self.stop = StopRequest(ECHO if processes.count > 1 else 0.0)
        self.watch = Watch(self.source, config.seed, config.collapse_checks, self.total, config.on_collapse == "stop")
        self.comparison: str | None = None
        self.hashes = data.hashes()
        self.seen = training_documents(data.train, config.documents, config.load_checkpoint, data.hold_out)
        self.hold_out, self.check, self.cache = data.hold_out, data.check, cache
        self.start = {name: value.clone() for name, value in encoder.own_state().items()} if data.check else {}
        settings = comparable(config.to_dict()) | {"data": self.hashes} | processes.settings()
        self.points = ResumePoints(run.state, settings, encoder, self.optimizer, self.keeper, accelerator.scaler)
        processes.seed(config.seed)
        self.manifest = environment(str(accelerator.device)) | {"seed": config.seed, "data_sha256": self.hashes}
        self.manifest |= {"base_fingerprint": base.fingerprint() if cache is None else cache.fingerprint}

    def train(self) -> FitResult:
        """Run all epochs that are left, keep the best, and write the checkpoint."""
        resumed = self._resume()
        tracker = self.config.tracker if self.processes.main else "none"
        end_tracking = track(tracker, self.run, self.config.to_dict(), self.progress.step)
        if not resumed:
            self.processes.on_main(self._write_start)
            self._judge(0)
            self._look(0)
        stop, main = self.stop if self.run.recorded else contextlib.nullcontext(), self.processes.main
        bar = tqdm(total=self.total, initial=self.progress.step, desc="training", unit="step", disable=not main)
        with logging_redirect_tqdm(), bar, stop:
            for epoch in range(max(1, self.progress.epoch), self.epochs + 1):
                self._epoch(epoch, bar)
        result = self._finish()
        end_tracking()
        return result

    def _resume(self) -> bool:
        """Go on from the resume point, if that is asked for and there is one; return whether."""
        if not self.config.resume:
            return False
        found = self.points.load()
        self.progress = found or self.progress
        self.processes.on_main(lambda: self.run.keep_rows(self.progress.metric_rows))
        if found is not None:
            self.watch.monitor.load_state_dict(found.collapse)
            self.processes.seed(self.config.seed, found.step)
        return found is not None

    def _write_start(self) -> None:
        """Write what is known before training."""
        self.run.write_config(self.config.to_dict())
        self.run.write_manifest(self.manifest | {"status": "running"})
        if self.selection.base_score is not None:
            self.run.log({"kind": "base", "dev": {"NDCG@10": self.selection.base_score}})
            logger.info("untouched base: %s %.4f", self.selection.criterion, self.selection.base_score)

    def steps_of(self, epoch: int) -> list[list[Rows]]:
        """Return the epoch's optimiser steps, each a list of batches, which all processes share out."""
        return epoch_steps(self.source.dataset, self.config, epoch, self.processes.count)

    def _epoch(self, epoch: int, bar: tqdm[Any]) -> None:
        if self.progress.epochs_done >= epoch:
            return
        steps = self.steps_of(epoch)
        done = self.progress.batches_done if self.progress.epoch == epoch else 0
        self.progress.epoch, interval = epoch, self.config.state_interval
        self.clock = time.perf_counter()
        self.model.train()
        for index in range(done, len(steps)):
            step = self._scheduled_step(steps[index])
            self.progress.batches_done = index + 1
            self._log_step(epoch, step, bar)
            self._look(epoch)
            bar.update()
            asked = self.processes.highest(self.stop.received)
            if asked or (interval > 0 and (index + 1) % interval == 0 and index + 1 < len(steps)):
                self._count_time()
                self.processes.on_main(self._write_state)
            stop_where_asked(asked, self.progress.step)
        self._count_time()
        self._close_epoch(epoch)

    def _close_epoch(self, epoch: int) -> None:
        """Keep the epoch's checkpoint, look at the held-out data and make a resume point, where these are due."""
        if self.config.save_interval and epoch % self.config.save_interval == 0:
            with self.keeper.applied():
                self.processes.on_main(lambda: self._write_model(self.run.epoch_model(epoch), epoch))
        if is_judged(epoch, self.epochs):
            with self.keeper.applied():
                self._judge(epoch)
        self.progress.epochs_done = epoch
        if is_judged(epoch, self.epochs):
            self.processes.on_main(self._write_state)
        stop_where_asked(self.processes.highest(self.stop.received), self.progress.step)

    def _count_time(self) -> None:
        before, self.clock = self.clock, time.perf_counter()
        self.progress.seconds += self.clock - before

    def _scheduled_step(self, batches: list[Rows]) -> Step:
        """Set this step's learning rates, take the step, and let an EMA target follow it."""
        config = self.config
        factor = warmup_cosine(self.progress.step, self.total, config.warmup(self.total))
        set_rates(self.optimizer.param_groups, self.rates, factor)
        self.progress.step += 1
        with explaining_memory(config, max(map(len, batches))):
            done = self.step(batches)
        if done.left_out is None:
            self.encoder.after_step(ema_decay(self.progress.step, self.total, config.ema_decay, config.ema_schedule))
            self.keeper.update(self.progress.step)
        else:
            self.guard(done, batches, self.progress, self.processes)
        return done

    def step(self, batches: list[Rows]) -> Step:
        """Take one optimiser step on some batches."""
        return self.stepper(batches, self.progress.step)

    def _log_step(self, epoch: int, step: Step, bar: tqdm[Any]) -> None:
        number, interval = self.progress.step, self.config.log_interval
        if step.left_out is not None or not (number % interval == 0 or number == self.total):
            return
        row = step_row(epoch, number, step, self.config.max_grad_norm > 0, self.optimizer.param_groups)
        bar.set_postfix(loss=f"{row['total']:.4f}", refresh=False)
        if self.accelerator.is_main_process:
            self.run.log(row)

    def _look(self, epoch: int) -> None:
        """Let the watch see its probe, if a look is due; write what it finds, and stop there if asked."""
        if self.watch.is_due(self.progress.step):
            self.processes.on_main(lambda: self.watch.report(self.encoder, epoch, self.progress.step, self.run.log))

    def _judge(self, epoch: int) -> None:
        """Measure the model and keep its weights if it is the best so far."""
        score = self.processes.on_main(lambda: self._measure(epoch))
        if is_better(score, self.progress.best_score):
            self.progress.best_score, self.progress.best_epoch = score, epoch
            self.keeper.keep(self.encoder)

    def _measure(self, epoch: int) -> float | None:
        verdict = judge(self.selection, self.encoder, lambda: mixed(self.encoder, self.config, self.source), epoch)
        row = {"kind": "epoch", "epoch": epoch, "step": self.progress.step, "seconds": self.progress.seconds}
        self.run.log(row | verdict.row)
        return verdict.score

    def _write_state(self) -> None:
        if not self.run.recorded:
            return
        require_finite(self.encoder, f"step {self.progress.step}")
        self.progress.metric_rows = self.run.count_rows()
        self.progress.collapse = self.watch.monitor.state_dict()
        self.points.save(self.progress)

    def _write_model(self, folder: Path, epoch: int) -> None:
        if self.run.recorded:
            card = model_card(folder, self.encoder, self.config, self._result(epoch))
            self.encoder.save_pretrained(folder, card, self.seen, self.hold_out)

    def _result(self, epoch: int) -> FitResult:
        progress, selection = self.progress, self.selection
        score = progress.best_score if epoch == progress.best_epoch else None
        shown = self.run.best_model, epoch, selection.criterion, score, selection.base_score
        left_out = progress.skipped, progress.overflows
        return FitResult(*shown, progress.step, progress.seconds, self.comparison, *left_out)

    def _finish(self) -> FitResult:
        """Load the best weights and write the checkpoint."""
        self.encoder = self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        copy_strictly(self.encoder.trained_state(), self.keeper.best)
        return FitResult(self.run.best_model, **self.processes.on_main(self._close))

    def _close(self) -> dict[str, Any]:
        """Decide between trained model, start and base, write the checkpoint, and return the result without it."""
        ways = self.start, self.calibration, self.check, self.cache
        self.encoder, comparison = settle(self.encoder, self.config, self.source, *ways)
        if comparison is not None and comparison.kept != "trained" and self.config.load_checkpoint is None:
            self.seen = frozenset()
        self.comparison = None if comparison is None else str(comparison)
        result = self._result(self.progress.best_epoch)
        self._write_model(self.run.best_model, result.best_epoch)
        outcome = {name: value for name, value in dataclasses.asdict(result).items() if name != "checkpoint"}
        compared = None if comparison is None else comparison.to_dict()
        self.run.write_manifest(self.manifest | {"status": "finished", "result": outcome, "never_worse": compared})
        if result.best_epoch == 0:
            logger.warning("no epoch was better than the start: the checkpoint is the model before training")
        return outcome
