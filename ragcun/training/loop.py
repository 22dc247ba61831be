"""fit: from data to a trained encoder of any system, on accelerate."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from functools import partial

import torch
from accelerate.utils import set_seed

from ragcun.config import TrainConfig
from ragcun.embeddings.hub import model_folder
from ragcun.models.encoder import RetrievalEncoder
from ragcun.options import settle
from ragcun.training.batches import PairSource, mine_pools, plan_steps, require_contrast
from ragcun.training.processes import Processes, make_accelerator
from ragcun.training.run_dir import Callback, RunFolder, make_record, require_tracker
from ragcun.training.selection import FinalSelection, Selection, final_model, make_selection, query_folds_of
from ragcun.training.setup import (
    TrainingData,
    build_base,
    build_data,
    build_encoder,
    build_features,
    build_objective,
    build_teacher,
)
from ragcun.training.summary import FitResult, announce
from ragcun.training.trainer import Trainer
from ragcun.training.weights import initialize_weights

logger = logging.getLogger(__name__)


def fit(config: TrainConfig, callbacks: Sequence[Callback] = ()) -> FitResult:
    """Train an encoder as `config` says, and write its run folder.

    Each callback receives every row of ``metrics.jsonl`` as it is written, in the main process: those of `kind` step
    (every `log_interval` steps: losses, rates), epoch (with its held-out score), base, probe, collapse and skipped.

    Raises:
        InputError: data, settings, checkpoint or output folder are not possible, or the loss is no longer finite.
        TrainingStopped: SIGTERM or Ctrl-C came; a resume point is on disk.
    """
    require_tracker(config.tracker)
    if config.load_checkpoint is not None:
        config = copy.copy(config)  # with what the command line names
        config.load_checkpoint = model_folder(str(config.load_checkpoint))
    data, run = build_data(config), RunFolder(config.output_dir)
    run.followers += callbacks
    return fit_encoder(config, data, run)[1]


def fit_encoder(config: TrainConfig, data: TrainingData, run: RunFolder) -> tuple[RetrievalEncoder, FitResult]:
    """Train an encoder on `data`; return it and the result."""
    encoder, result, comparison = _fit(config, data, run)
    if comparison is not None:
        logger.info("%s", comparison)
    return encoder, result


def _fit(
    config: TrainConfig, data: TrainingData, run: RunFolder
) -> tuple[RetrievalEncoder, FitResult, FinalSelection | None]:
    config = copy.copy(config)
    settle(config)
    require_contrast(config, data.train)
    processes = Processes(make_accelerator(config.device, config.mixed_precision))
    folds = [*query_folds_of(config, data, processes)] if config.never_worse and data.check is None else []
    set_seed(config.seed)
    teacher = processes.main_first(partial(build_teacher, config, data, processes))
    kept = run.kept_channel() if config.resume else None
    base, vectors = build_base(config, data, processes, kept)
    encoder = build_encoder(config, base).to(processes.device)
    objective = build_objective(config, encoder)
    epochs, steps = plan_steps(config, data.train, processes.count)
    processes.on_main(lambda: announce(config, encoder, epochs, steps))
    features = build_features(config, encoder.base, vectors)
    processes.main_first(lambda: run.claim(config.resume or not processes.main, config.overwrite))
    if config.load_checkpoint is None:
        processes.on_main(partial(run.keep_channel, encoder.base))
    source = processes.main_first(lambda: PairSource(data.train, encoder.base, processes.device, features, teacher))
    judge = partial(make_selection, data, source, objective, config.batch_size)
    selection = processes.main_only(judge, Selection())
    queries = None
    if data.queries and features is not None and config.load_checkpoint is None:
        queries = processes.main_first(partial(features.encode, data.queries, "query"))
    closed = initialize_weights(config, encoder, source, queries)
    source.pools = processes.on_main(lambda: mine_pools(config, encoder, source))
    compared = folds or data.check is not None
    initial = {name: value.clone() for name, value in encoder.trained_state().items()} if compared else {}
    record = make_record(config, run, data, encoder, source)
    trainer = Trainer(config, record, processes, encoder, objective, source, selection)
    trained = trainer.train()
    if closed is not None and config.label_free and config.head == "linear":
        # Without labels the shift of queries is the closed form's, since the training queries are not like real ones.
        trained.shift_queries(torch.from_numpy(closed.query_shift))

    others = (_fit(_of_fold(config), fold, RunFolder(None))[2] for fold in folds)
    held_out = data.check or [each for each in others if each is not None]
    select = partial(final_model, config, trained, initial, held_out, source)
    final, comparison = processes.main_only(select, (trained, None))
    return final, processes.on_main(lambda: record.finish(final, trainer.result(), comparison)), comparison


def _of_fold(config: TrainConfig) -> TrainConfig:
    """Return the settings of a run in memory alone."""
    config = copy.copy(config)
    config.resume, config.tracker, config.save_interval, config.state_interval = False, "none", 0, 0
    return config
