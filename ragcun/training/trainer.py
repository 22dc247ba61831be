"""Trainer: the loop of optimiser steps, with what is logged, evaluated and saved between them."""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch.optim import AdamW
from tqdm.auto import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ragcun.config import TrainConfig
from ragcun.data.pairs import PairDataset
from ragcun.embeddings.base import Rows
from ragcun.errors import InputError
from ragcun.io import write_json
from ragcun.losses.objective import Objective
from ragcun.models.encoder import RetrievalEncoder
from ragcun.models.heads import Stackable
from ragcun.training.batches import PairSource, epoch_steps, mine_pools, plan_steps
from ragcun.training.checkpoint import NOT_COMPARED, CheckpointManager, Progress
from ragcun.training.processes import ECHO, Processes, StopRequest, TrainingStopped, explaining_memory
from ragcun.training.run_dir import RunRecord, tracked
from ragcun.training.selection import Selection, is_better, is_evaluated, mixed_with_base
from ragcun.training.step import OVERFLOW, Step, Stepper, ema_decay, loss_values, plain, warmup_cosine
from ragcun.training.summary import FitResult
from ragcun.training.weights import WeightAverage, trained_share

logger = logging.getLogger(__name__)


@dataclass
class Trainer:
    """Trains an encoder that has its initial weights."""

    config: TrainConfig
    record: RunRecord
    processes: Processes
    encoder: RetrievalEncoder
    objective: Objective
    source: PairSource
    selection: Selection
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        self.run = self.record.run
        self.stop = StopRequest(ECHO if self.processes.count > 1 else 0.0)

    def train(self) -> RetrievalEncoder:
        """Take all steps, or those after the newest resume point; return the encoder of the best epoch."""
        self._prepare()
        if self.config.resume:
            self.progress = self.checkpoints.load() or self.progress
            self.processes.on_main(lambda: self.run.keep_rows(self.progress.metric_rows))
            self.processes.seed(self.config.seed, self.progress.step)
        stop, main = self.stop if self.run.recorded else contextlib.nullcontext(), self.processes.main
        tracker = tracked(self.config.tracker if main else "none", self.run, self.config.to_dict(), self.progress.step)
        hidden: dict[str, Any] = {} if main else {"disable": True}
        bar = tqdm(total=self.total, initial=self.progress.step, desc="training", unit="step", **hidden)
        with tracker, logging_redirect_tqdm(), bar:
            if self.progress.step == 0:
                self.processes.on_main(self._start)
                self._evaluate()
                self._check_collapse()
            with stop:
                for epoch in range(self.progress.epochs_done + 1, self.epochs + 1):
                    self._epoch(epoch, bar)
        self.encoder = self.stepper.accelerator.unwrap_model(self.stepper.model, keep_fp32_wrapper=False)
        self.average.restore_best(self.encoder)
        return self.encoder

    def result(self, epoch: int | None = None) -> FitResult:
        """Return the result of the run so far, with the checkpoint of an epoch; None means the best one."""
        at, selection = self.progress, self.selection
        epoch = at.best_epoch if epoch is None else epoch
        score = at.best_score if epoch == at.best_epoch else None
        chosen = self.run.best_model, epoch, selection.criterion, score, selection.base_score
        return FitResult(*chosen, at.step, at.seconds, None, at.skipped, at.overflows)

    def _prepare(self) -> None:
        config, encoder, accelerator, source = self.config, self.encoder, self.processes.accelerator, self.source
        for part in encoder.modules() if config.compile else ():
            if isinstance(part, Stackable):
                part.compile()
        groups = encoder.parameter_groups(config.rates, config.weight_decay)
        self.rates = [group["lr"] for group in groups]
        model, optimizer = accelerator.prepare(encoder, AdamW(groups, fused=True))
        most = config.max_grad_norm, config.grad_cache_size
        self.stepper = Stepper(accelerator, model, optimizer, self.objective, source, *most)
        self.epochs, self.total = plan_steps(config, source.dataset, self.processes.count)
        share = trained_share(config, encoder, len(np.unique(source.dataset.query_ids)))
        self.average = WeightAverage(encoder, config.average_decay, share)
        settings = {name: value for name, value in self.record.settings.items() if name not in NOT_COMPARED}
        settings |= {"data": self.record.manifest["data_sha256"], "base": self.record.manifest["base_fingerprint"]}
        # a resumed run has to have as many
        settings |= {"processes": self.processes.count} if self.processes.count > 1 else {}
        parts = encoder, optimizer, self.average, accelerator.scaler, source if config.mine_every else None
        self.checkpoints = CheckpointManager(self.run.state, settings, *parts)
        self.processes.seed(config.seed)

    def _start(self) -> None:
        self.record.start()
        base_score = self.selection.base_score
        if base_score is not None:
            self.run.log({"kind": "base", "dev": {"NDCG@10": base_score}})
            logger.info("untouched base: %s %.4f", self.selection.criterion, base_score)
        elif not (self.encoder.base.frozen or self.config.never_worse):
            blind = "the base is trained, and no held-out queries show whether it ends below where it began"
            logger.warning("%s; add --never_worse with --dev_beir or --dev_fraction", blind)

    def _epoch(self, epoch: int, bar: tqdm[Any]) -> None:
        steps = epoch_steps(self.config, self.source.dataset, self.processes.count, epoch)
        done = self.progress.batches_done if self.progress.epoch == epoch else 0
        self.progress.epoch, interval = epoch, self.config.state_interval
        bar.set_description(f"training, epoch {epoch}/{self.epochs}", refresh=False)
        self.clock = time.perf_counter()
        if self.config.mine_every and epoch > 1 and (epoch - 1) % self.config.mine_every == done == 0:
            with self.average.applied():
                self.source.pools = self.processes.on_main(lambda: mine_pools(self.config, self.encoder, self.source))
        self.stepper.model.train()
        for index in range(done, len(steps)):
            step = self._scheduled_step(steps[index])
            self.progress.batches_done = index + 1
            self._log_step(step, bar)
            self._check_collapse()
            bar.update()
            last = index + 1 == len(steps)
            self._save_and_stop(due=interval > 0 and (index + 1) % interval == 0 and not last)
        self._count_time()
        self._close_epoch()

    def _close_epoch(self) -> None:
        epoch = self.progress.epoch
        saved = self.config.save_interval > 0 and epoch % self.config.save_interval == 0
        evaluated = is_evaluated(epoch, self.epochs)
        with self.average.applied() if saved or evaluated else contextlib.nullcontext():
            if saved:
                folder = self.run.path / f"epoch-{epoch}"
                self.processes.on_main(lambda: self.record.save_model(folder, self.encoder, self.result(epoch)))
            if evaluated:
                self._evaluate()
        self.progress.epochs_done = epoch
        self.clock = time.perf_counter()
        self._save_and_stop(due=evaluated)

    def _save_and_stop(self, due: bool) -> None:
        signalled = self.processes.highest(self.stop.received)
        if due or signalled:
            self._count_time()
            self.processes.on_main(self._save_state)
        if signalled:
            raise TrainingStopped(signalled, self.progress.step)

    def _count_time(self) -> None:
        before, self.clock = self.clock, time.perf_counter()
        self.progress.seconds += self.clock - before

    def _scheduled_step(self, batches: list[Rows]) -> Step:
        config, progress = self.config, self.progress
        factor = warmup_cosine(progress.step, self.total, config.warmup(self.total))
        for group, rate in zip(self.stepper.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        progress.step += 1
        with explaining_memory(config, max(map(len, batches))):
            done = self.stepper(batches, progress.step)
        if done.left_out is None:
            self.encoder.after_step(ema_decay(progress.step, self.total, config.ema_decay, config.ema_schedule))
            self.average.update(progress.step)
        else:
            progress.overflows += done.left_out == OVERFLOW
            progress.skipped += done.left_out != OVERFLOW
            self.processes.on_main(lambda: self._report_left_out(done, batches))
        return done

    def _report_left_out(self, step: Step, batches: list[Rows]) -> None:
        """Log a step that was left out and is counted.

        Raises:
            InputError: there are more than the settings allow; their pairs are in the run folder's ``non_finite.json``.
        """
        config, at, run, data = self.config, self.progress, self.run, self.source.dataset
        place, norm = {"epoch": at.epoch, "step": at.step}, {"grad_norm": plain(step.norm)}
        run.log({"kind": "skipped", **place, "cause": step.left_out, **loss_values(step.outputs[-1]), **norm})
        if step.left_out == OVERFLOW:
            logger.info("step %d left out: fp16 overflow, the loss scale is halved", at.step)
            return
        cause, most = step.cause(), config.max_skipped if config.on_nan == "skip" else 0
        found = f"{cause} at step {at.step}"
        if at.skipped <= most:
            logger.warning("%s; step left out, %d of at most %d", found, at.skipped, most)
            return
        if run.recorded:
            losses = zip(step.outputs, batches, strict=True)
            shown = [{**loss_values(output), "pairs": _texts(data, rows)} for output, rows in losses]
            write_json(run.non_finite, {**place, "wrong": cause, "source": data.source, **norm, "batches": shown})
            found += f" (its pairs: {run.non_finite})"
        before = f"after {most} steps left out, " if most else ""
        remedy = "continue with --resume and a larger --max_skipped" if most else "leave it out with --on_nan skip"
        raise InputError(f"{before}{found}; lower --learning_rate or raise --temperature, or {remedy}")

    def _log_step(self, step: Step, bar: tqdm[Any]) -> None:
        at, output = self.progress, step.outputs[-1]
        if step.left_out is not None or not (at.step % self.config.log_interval == 0 or at.step == self.total):
            return
        shown = {} if at.best_score is None else {f"best {self.selection.criterion}": f"{abs(at.best_score):.4f}"}
        bar.set_postfix({"loss": f"{float(output.total):.4f}", **shown}, refresh=False)
        rates = {group["name"]: group["lr"] for group in self.stepper.optimizer.param_groups}
        norm = float(step.norm) if self.config.max_grad_norm > 0 else None
        row = {"kind": "step", "epoch": at.epoch, "step": at.step, **loss_values(output)}
        if self.processes.main:
            self.run.log(row | {"learning_rate": rates, "grad_norm": norm})

    def _check_collapse(self) -> None:
        config, at, source, checks = self.config, self.progress, self.source, self.config.collapse_checks

        def check() -> None:
            batch, stop = source.batch(source.probe(config.seed)), config.on_collapse == "stop"
            at.collapse.check(self.encoder, batch, {"epoch": at.epoch, "step": at.step}, stop, self.run.log)

        if checks > 0 and self.total and (at.step % max(1, self.total // checks) == 0 or at.step == self.total):
            self.processes.on_main(check)

    def _evaluate(self) -> None:
        score = self.processes.on_main(self._score)
        if is_better(score, self.progress.best_score):
            self.progress.best_score, self.progress.best_epoch = score, self.progress.epoch
            self.average.keep_best(self.encoder)

    def _score(self) -> float | None:
        at = self.progress
        self._require_finite_weights(f"epoch {at.epoch}")
        shown = mixed_with_base(self.encoder, self.config.mix_with_base, self.source, self.config.seed)
        score, found = self.selection.evaluate(shown, at.epoch)
        self.run.log({"kind": "epoch", "epoch": at.epoch, "step": at.step, "seconds": at.seconds} | found)
        return score

    def _require_finite_weights(self, when: str) -> None:
        if not all(bool(tensor.isfinite().all()) for tensor in self.encoder.trained_state().values()):
            raise InputError(f"weights are not finite after {when}; lower --learning_rate")

    def _save_state(self) -> None:
        if self.run.recorded:
            self._require_finite_weights(f"step {self.progress.step}")
            self.progress.metric_rows = self.run.count_rows()
            self.checkpoints.save(self.progress)


def _texts(data: PairDataset, rows: Rows) -> list[dict[str, Any]]:
    texts = zip(rows.tolist(), data.rows(rows), strict=True)
    return [{"pair": row, "query": q, "positive": p, "negative": n} for row, (q, p, n) in texts]
