"""Where training starts and ends: heads set from data, negatives mined by the start, the base mixed in."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ragcun.config import TrainConfig
from ragcun.embeddings.base import VectorSource
from ragcun.errors import InputError
from ragcun.models.encoder import RetrievalEncoder
from ragcun.models.heads import Stackable, preserving_projection
from ragcun.models.interpolation import mix_with_base
from ragcun.models.projection import ProjectionEncoder
from ragcun.models.whitening import EXPONENT, Calibration, calibrate
from ragcun.training.averaging import LABEL_FREE_SHARE, share_of_trained
from ragcun.training.batches import PairSource
from ragcun.training.negatives import Pools, mine
from ragcun.training.processes import Processes
from ragcun.training.setup import TrainingData

MOST_VECTORS = 100_000
MIXED_VECTORS = 2000


def start_training(
    encoder: RetrievalEncoder,
    config: TrainConfig,
    source: PairSource,
    cache: VectorSource | None,
    texts: list[str] | None,
    processes: Processes,
) -> Calibration | None:
    """Set heads, mine negatives and compile, as `config` says; return the calibration that heads start from, if any.

    Args:
        encoder: a new encoder, or a loaded one, whose heads stay.
        config: the settings.
        source: the training pairs, which are given the mined negatives.
        cache: where base vectors are from; None where the base is trained.
        texts: queries without labels to calibrate by.
        processes: of which the main one encodes and mines.

    Raises:
        InputError: a calibrated start is not possible.
    """
    new = config.load_checkpoint is None
    queries = processes.main_first(lambda: cache.encode(texts, "query")) if new and cache and texts else None
    calibration = start_heads(encoder, config, source, queries) if new else None
    if config.mines:
        mined = processes.array(lambda: mine_pools(encoder, config, source).mined)
        source.pools = Pools(mined, config.mines, config.seed)
    if config.compile:
        compile_parts(encoder)
    return calibration


def start_heads(
    encoder: RetrievalEncoder, config: TrainConfig, source: PairSource, queries: NDArray[np.float32] | None
) -> Calibration | None:
    """Set the heads of a new encoder as `config` says, and return the calibration they start from, if any.

    Args:
        encoder: a new encoder.
        config: says how heads start.
        source: the training pairs.
        queries: base vectors of the queries to calibrate by; None takes those of the training pairs.

    Raises:
        InputError: a calibrated start is not possible.
    """
    sample = source.sample(config.seed)
    encoder.start_from(sample)
    if config.head == "mlp" and config.start == "identity":
        _start_as_base(encoder, sample)
    if config.start != "calibrated":
        return None
    if not config.normalize_embeddings:
        raise InputError("--head_init calibrated needs base vectors of length 1; leave out --no_normalize_embeddings")
    own, documents = source.sides(config.seed, MOST_VECTORS)
    exponent = EXPONENT if config.train_side == "both" else 0.0
    output_dim = None if encoder.dimension == documents.shape[1] else encoder.dimension
    try:
        calibration = calibrate(
            *(documents, own if queries is None else queries, exponent),
            output_dim=output_dim,
            ordered=bool(config.nested_dims),
        )
        encoder.start_calibrated(calibration)
    except ValueError as error:
        raise InputError(f"--head_init calibrated: {error}; or choose --head_init identity") from error
    return calibration


def _start_as_base(encoder: RetrievalEncoder, vectors: Float[Tensor, "n dim"]) -> None:
    """Start heads of a kind that is random otherwise as the base, or what keeps most of its distances.

    Raises:
        InputError: the head cannot start so.
    """
    dim, out = vectors.shape[1], encoder.dimension
    weight = preserving_projection(vectors, out) if out < dim else torch.eye(out, dim)
    try:
        encoder.start_calibrated(Calibration(weight.double().cpu().numpy(), np.zeros(dim)))
    except ValueError as error:
        raise InputError(f"--head_init identity: {error}") from error


def mine_pools(encoder: RetrievalEncoder, config: TrainConfig, source: PairSource) -> Pools:
    """Mine hard negatives of every training query among all documents, by Euclidean distance in the start's space."""
    queries, documents = source.sides(config.seed)
    embedded = encoder.embed(queries, "query"), encoder.embed(documents, "document")
    return Pools(mine(*embedded, source.dataset, *config.mined_ranks), config.mines, config.seed)


def mixed(encoder: RetrievalEncoder, config: TrainConfig, source: PairSource) -> RetrievalEncoder:
    """Return the encoder whose embeddings hold the base's vectors too, where ``--mix_with_base`` asks for that.

    Raises:
        InputError: the encoder cannot be mixed with its base.
    """
    if not config.mix_with_base:
        return encoder
    if not isinstance(encoder, ProjectionEncoder):
        raise InputError(f"--mix_with_base: a {encoder.system} encoder has no head to put the base beside")
    queries, documents = source.sides(config.seed, MIXED_VECTORS)
    try:
        return mix_with_base(encoder, config.mix_with_base, {"query": queries, "document": documents})
    except ValueError as error:
        raise InputError(f"--mix_with_base: {error}") from error


def compile_parts(encoder: RetrievalEncoder) -> None:
    """Compile heads and predictor with torch.compile."""
    for part in encoder.modules():
        if isinstance(part, Stackable):
            part.compile()


def trained_share(config: TrainConfig, encoder: RetrievalEncoder, data: TrainingData) -> float:
    """Return the share of the trained weights in the final ones: as asked, or by what is trained and from how much."""
    if config.trained_share is not None:
        return config.trained_share
    from_elsewhere = config.start == "random" or config.load_checkpoint is not None
    if from_elsewhere or not encoder.base.frozen or encoder.shows:
        return 1.0
    return LABEL_FREE_SHARE if config.label_free else share_of_trained(len(set(data.train.query_ids.tolist())))
