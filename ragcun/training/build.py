"""From a TrainConfig to what training needs: encoder, objective and data."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ragcun.data.augment import pairs_from_documents
from ragcun.data.beir import Collection, hold_out_queries, load_collection, pairs_from_collection
from ragcun.data.pairs import PairDataset, read_pairs
from ragcun.errors import InputError
from ragcun.losses.objective import Objective
from ragcun.models.base import TextBase
from ragcun.models.encoder import SYSTEMS, RetrievalEncoder
from ragcun.models.heads import HeadConfig
from ragcun.training.config import TrainConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingData:
    """Training pairs, and what the best epoch is chosen on: validation pairs, or a dev collection, or neither."""

    train: PairDataset
    val: PairDataset | None
    dev: Collection | None

    def hashes(self) -> dict[str, str]:
        """Return the SHA-256 of each set that there is."""
        sets: dict[str, PairDataset | Collection | None] = {"train": self.train, "val": self.val, "dev": self.dev}
        return {name: data.sha256() for name, data in sets.items() if data is not None}


def build_data(config: TrainConfig) -> TrainingData:
    """Read all data of a run.

    Raises:
        InputError: a file is missing or wrong, or a set has no pairs.
    """
    dev = load_collection(config.dev_beir, config.dev_split) if config.dev_beir else None
    if config.dev_fraction and not Path(config.train_data or "").is_dir():
        raise InputError("--dev_fraction holds out queries of a BEIR folder in --train_data; use --dev_beir")
    if config.documents is not None:
        train = pairs_from_documents(config.documents, config.pair_method, config.seed)
    elif Path(str(config.train_data)).is_dir():
        collection = load_collection(str(config.train_data), "train")
        if config.dev_fraction:
            collection, dev = hold_out_queries(collection, config.dev_fraction, config.seed)
        train = pairs_from_collection(collection)
    else:
        train = read_pairs(str(config.train_data))
    val = None if config.val_data is None else _read(config.val_data)
    for pairs in (train, val):
        if pairs is not None and len(pairs) < 2:
            raise InputError(f"{pairs.source} has {len(pairs)} pair; a batch needs at least 2")
    return TrainingData(train, val, dev)


def _read(path: str) -> PairDataset:
    if not Path(path).is_dir():
        return read_pairs(path)
    return pairs_from_collection(load_collection(path, "dev"))


def build_objective(config: TrainConfig) -> Objective:
    """Return the objective that a configuration describes; fields of one name mean one thing.

    Raises:
        InputError: the weights and names do not make an objective.
    """
    names = {field.name for field in dataclasses.fields(Objective)} & {
        field.name for field in dataclasses.fields(config)
    }
    try:
        return Objective(**{name: getattr(config, name) for name in names})
    except ValueError as error:
        raise InputError(f"objective: {error}") from error


def build_encoder(config: TrainConfig) -> RetrievalEncoder:
    """Build the encoder that a configuration describes, or load the checkpoint it goes on from; freeze its base.

    Raises:
        InputError: base, checkpoint or head settings are not possible.
    """
    if config.system not in SYSTEMS:
        raise InputError(f"--system must be one of {', '.join(SYSTEMS)}, got {config.system!r}")
    encoder = _from_checkpoint(config) if config.load_checkpoint else _new(config)
    if config.lambda_predictive > 0 and "predicted" not in encoder.shows:
        raise InputError(f"--lambda_predictive {config.lambda_predictive} needs a predictor; add --use_predictor")
    if config.lambda_residual > 0 and "residual" not in encoder.shows:
        raise InputError(f"--lambda_residual {config.lambda_residual} needs a residual predictor: --system respred")
    encoder.freeze_base(bool(config.freeze_base), config.freeze_early_layers)
    if config.gradient_checkpointing:
        if encoder.base.frozen:
            logger.info("--gradient_checkpointing has no effect: the base is frozen and not run in training")
        else:
            encoder.base.checkpoint_activations()
    return encoder


def _new(config: TrainConfig) -> RetrievalEncoder:
    base = TextBase.load(config.base_model, config.normalize_embeddings, config.device)
    try:
        dim = base.dimension
        shape = (config.head_depth, config.head_expansion, config.activation, config.dropout)
        out = config.output_dim if config.output_dim is not None else dim
        head = HeadConfig(config.head, dim, out, *shape)
        system = SYSTEMS[config.system]
        predicts = system.always_predicts if config.use_predictor is None else config.use_predictor
        predictor = HeadConfig(config.predictor or system.predictor_kind, out, out, *shape) if predicts else None
        parts = {"head": head.to_dict(), "predictor": None if predictor is None else predictor.to_dict()}
        return system.from_config(base, parts | {"query_embedding": config.query_embedding})
    except ValueError as error:
        raise InputError(f"head: {error}") from error


def _from_checkpoint(config: TrainConfig) -> RetrievalEncoder:
    encoder = RetrievalEncoder.from_pretrained(str(config.load_checkpoint), config.device)
    head = encoder.to_config()["head"]
    saved: dict[str, Any] = {
        "system": encoder.system,
        "base_model": encoder.base.name,
        "normalize_embeddings": encoder.base.normalize,
        "output_dim": encoder.dimension,
        "head": head["kind"],
        "head_depth": head["depth"],
        "head_expansion": head["expansion"],
        "activation": head["activation"],
    }
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    for name, value in saved.items():
        asked = getattr(config, name)
        if asked not in (defaults[name], value):
            raise InputError(
                f"--{name} {asked} does not fit checkpoint {config.load_checkpoint}, whose {name} is {value}; "
                "leave it out"
            )
    return _changed(encoder, config)


def _changed(encoder: RetrievalEncoder, config: TrainConfig) -> RetrievalEncoder:
    """Give a loaded encoder the predictor, or the kind of query embedding, that a run asks for."""
    loaded = encoder.to_config()
    asked = dict(loaded)
    if config.use_predictor and loaded["predictor"] is None:
        out, kind = encoder.dimension, config.predictor or encoder.predictor_kind
        shape = dataclasses.replace(HeadConfig(**loaded["head"]), kind=kind, input_dim=out, output_dim=out)
        asked["predictor"] = shape.to_dict()
    if config.query_embedding == "prediction":
        asked["query_embedding"] = config.query_embedding
    if asked == loaded:
        return encoder
    try:
        changed = type(encoder).from_config(encoder.base, asked)
    except ValueError as error:
        raise InputError(f"--load_checkpoint {config.load_checkpoint}: {error}") from error
    changed.load_state_dict({**changed.state_dict(), **encoder.state_dict()})
    return changed
