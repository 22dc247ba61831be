"""fit: from data to a checkpoint, on accelerate, for every encoder system, cached vectors or live texts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial

import torch
from accelerate import PartialState
from accelerate.utils import set_seed

from ragcun.config import TrainConfig
from ragcun.embeddings.precomputed import VectorStore
from ragcun.models.encoder import RetrievalEncoder
from ragcun.training.batches import make_source
from ragcun.training.initialization import initialize_weights, mine_pools
from ragcun.training.model_card import FitResult
from ragcun.training.processes import Processes, make_accelerator
from ragcun.training.run_dir import Callback, RunFolder, make_record, require_tracker
from ragcun.training.selection import (
    FinalSelection,
    Selection,
    make_selection,
    mixed_with_base,
    select_final_model,
    with_weights,
)
from ragcun.training.setup import (
    TrainingData,
    build_base,
    build_data,
    build_encoder,
    build_features,
    build_objective,
    build_vectors,
    compile_heads,
    resolve_checkpoint,
)
from ragcun.training.summary import Plan, announce
from ragcun.training.trainer import make_trainer, plan_steps


def fit(config: TrainConfig, callbacks: Sequence[Callback] = ()) -> FitResult:
    """Train an encoder as `config` says, and write its run folder.

    Each callback receives every row of ``metrics.jsonl`` as it is written, in the main process: those of `kind` step
    (every `log_interval` steps: losses, rates), epoch (with its held-out score), base, probe, collapse and skipped.

    Raises:
        InputError: data, settings, checkpoint or output folder are not possible, or the loss is no longer finite.
        TrainingStopped: SIGTERM or Ctrl-C came; a resume point is on disk.
    """
    require_tracker(config.tracker)
    config = resolve_checkpoint(config)
    data = build_data(config)
    vectors = build_vectors(config, data)

    def open_run() -> RunFolder:
        resume = config.resume or not PartialState().is_main_process
        run = RunFolder.create(config.output_dir, resume, config.overwrite)
        run.followers += callbacks
        return run

    return fit_encoder(config, data, vectors, open_run)[1]


def fit_encoder(
    config: TrainConfig, data: TrainingData, vectors: VectorStore | None, open_run: Callable[[], RunFolder]
) -> tuple[RetrievalEncoder, FitResult]:
    """Train an encoder on `data`, with given vectors or a base model; return it and the result."""
    config, processes = copy.copy(config), Processes(make_accelerator(config.device, config.mixed_precision))
    set_seed(config.seed)
    kept = RunFolder(config.output_dir).kept_channel() if config.resume else None
    encoder = build_encoder(config, build_base(config, data, vectors, processes, kept)).to(processes.device)
    objective = build_objective(config, encoder)
    plan = Plan(config, encoder, *plan_steps(config, data.train, processes)[1:])
    processes.on_main(lambda: announce(plan))
    features = build_features(config, encoder.base, vectors)
    run = processes.main_first(open_run)
    if config.load_checkpoint is None:
        processes.on_main(partial(run.keep_channel, encoder.base))
    source = processes.main_first(lambda: make_source(data.train, encoder.base, features, processes.device))
    judged_by = encoder.base, features, objective, config.batch_size, processes.device
    selection = processes.main_only(lambda: make_selection(data, *judged_by), Selection())
    queries = None
    if data.queries and features is not None and config.load_checkpoint is None:
        queries = processes.main_first(partial(features.encode, data.queries, "query"))
    closed = initialize_weights(config, encoder, source, queries)
    source.pools = processes.on_main(lambda: mine_pools(config, encoder, source))
    initial = {name: value.clone() for name, value in encoder.own_state().items()}
    if config.compile:
        compile_heads(encoder)
    record = make_record(config, run, data, processes, encoder, features)
    trainer = make_trainer(config, record, processes, encoder, objective, source, selection)
    trained = trainer.train()
    if closed is not None and config.label_free and config.head == "linear":
        # Without labels the shift of queries is the closed form's, since the training queries are not like real ones.
        trained.shift_queries(torch.from_numpy(closed.query_shift))

    def select() -> tuple[RetrievalEncoder, FinalSelection | None]:
        mix = partial(mixed_with_base, share=config.mix_with_base, source=source, seed=config.seed)
        if data.check is None or features is None:
            return mix(trained), None
        return select_final_model(mix(trained), mix(with_weights(trained, initial)), data.check, features, config.seed)

    final, comparison = processes.main_only(select, (trained, None))
    return final, processes.on_main(lambda: record.finish(final, trainer.result(), comparison))
