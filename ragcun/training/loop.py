"""fit: from data to a checkpoint, on accelerate, for every encoder system, cached vectors or live texts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from accelerate import PartialState
from accelerate.utils import set_seed
from torch import Tensor

from ragcun.config import TrainConfig
from ragcun.embeddings.precomputed import VectorStore
from ragcun.models.encoder import RetrievalEncoder
from ragcun.training.batches import PairSource, Pools, Vectors, make_source
from ragcun.training.initialization import initialize_weights, mine_negatives
from ragcun.training.processes import Processes, make_accelerator
from ragcun.training.run_dir import RunFolder, environment, require_tracker
from ragcun.training.saving import FitResult, RunRecord
from ragcun.training.selection import (
    Comparison,
    LastSelection,
    make_selection,
    mixed_with_base,
    select_final_model,
    with_weights,
)
from ragcun.training.setup import (
    TrainingData,
    build_data,
    build_encoder,
    build_features,
    build_objective,
    build_vectors,
)
from ragcun.training.trainer import make_trainer


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
        return RunFolder.create(
            config.output_dir, config.resume or not PartialState().is_main_process, config.overwrite
        )

    return fit_encoder(config, data, vectors, open_run)[1]


def fit_encoder(
    config: TrainConfig, data: TrainingData, vectors: VectorStore | None, open_run: Callable[[], RunFolder]
) -> tuple[RetrievalEncoder, FitResult]:
    """Train an encoder on data that is read, on given vectors or a base model; return it and the result.

    Raises:
        InputError, TrainingStopped: as of `fit`.
    """
    objective, processes = build_objective(config), Processes(make_accelerator(config.device, config.mixed_precision))
    device, on_main, main_first = processes.device, processes.main_only, processes.main_first
    set_seed(config.seed)
    encoder = build_encoder(config, None if vectors is None else vectors.base).to(device)
    features = build_features(config, encoder.base, vectors)
    run = main_first(open_run)
    source = main_first(lambda: make_source(data.train, encoder.base, features, device))
    judged_by = encoder.base, features, objective, config.batch_size, device
    selection = on_main(lambda: make_selection(data, *judged_by), LastSelection())
    asked = data.queries if features is not None and config.load_checkpoint is None else None
    queries = main_first(lambda: features.encode(asked, "query")) if features and asked else None
    shift = _initialize(config, encoder, source, queries)
    source.pools = _mine(config, encoder, source, processes)
    initial = {name: value.clone() for name, value in encoder.own_state().items()}
    record = _record(config, run, data, str(device), features.fingerprint if features else encoder.base.fingerprint())
    trainer = make_trainer(config, record, processes, encoder, objective, source, selection)
    trained = trainer.train()
    if shift is not None:
        trained.shift_queries(shift)

    def select() -> tuple[RetrievalEncoder, Comparison | None]:
        mix = partial(mixed_with_base, share=config.mix_with_base, source=source, seed=config.seed)
        if data.check is None or features is None:
            return mix(trained), None
        return select_final_model(mix(trained), mix(with_weights(trained, initial)), data.check, features, config.seed)

    final, comparison = on_main(select, (trained, None))
    return final, processes.on_main(lambda: record.finish(final, trainer.result(), comparison))


def _initialize(
    config: TrainConfig, encoder: RetrievalEncoder, source: PairSource, queries: Vectors | None
) -> Tensor | None:
    if config.load_checkpoint is not None:
        return None
    whiten, ordered = config.train_side == "both", bool(config.nested_dims)
    closed = initialize_weights(encoder, source, config.start, config.seed, queries, whiten, ordered)
    if closed is None or not config.label_free or config.head != "linear":
        return None
    return torch.from_numpy(closed.query_shift)


def _mine(config: TrainConfig, encoder: RetrievalEncoder, source: PairSource, processes: Processes) -> Pools | None:
    if not config.mines:
        return None
    mined = processes.on_main(lambda: mine_negatives(encoder, source, *config.mined_ranks))
    return Pools(mined, config.mines, config.seed)


def _record(config: TrainConfig, run: RunFolder, data: TrainingData, device: str, base: str) -> RunRecord:
    manifest = environment(device) | {"seed": config.seed, "data_sha256": data.hashes(), "base_fingerprint": base}
    seen = data.seen(config.documents, config.load_checkpoint)
    return RunRecord(run, config.to_dict(), manifest, seen, data.hold_out)
