"""What training starts from: initial weights (identity, closed-form whitening or random), and mined negatives."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ragcun.config import TrainConfig
from ragcun.data.pairs import PairDataset
from ragcun.errors import InputError
from ragcun.models.encoder import RetrievalEncoder
from ragcun.models.heads import preserving_projection
from ragcun.models.whitening import EXPONENT, Calibration, calibrate
from ragcun.training.batches import NOTHING, PairSource, Pools, Rows, Vectors

MOST_VECTORS = 100_000
BLOCK_ELEMENTS = 2**25


def initialize_weights(
    config: TrainConfig, encoder: RetrievalEncoder, source: PairSource, queries: Vectors | None = None
) -> Calibration | None:
    """Set the heads of a new encoder to the base (identity), to whitening in closed form, or at random.

    The closed form, returned where it is used, takes its shift of queries from the base vectors `queries`; None means
    the training queries.
    """
    if config.load_checkpoint is not None:
        return None
    sample = source.sample(config.seed)
    encoder.start_from(sample)
    if config.start == "identity" and encoder.to_config()["head"]["kind"] == "mlp":
        dim, out = sample.shape[1], encoder.dimension
        weight = preserving_projection(sample, out) if out < dim else torch.eye(out, dim)
        _start_as(encoder, Calibration(weight.double().cpu().numpy(), np.zeros(dim)), config.start)
    if config.start != "calibrated":
        return None
    if not encoder.base.normalize:
        raise InputError("--head_init calibrated needs base vectors of length 1; leave out --no_normalize_embeddings")
    own, documents = source.sides(MOST_VECTORS, config.seed)
    smaller = None if encoder.dimension == documents.shape[1] else encoder.dimension
    # Where one side alone is trained, queries are shifted and nothing is whitened.
    asked, exponent = own if queries is None else queries, EXPONENT if config.train_side == "both" else 0.0
    try:
        closed = calibrate(documents, asked, exponent, output_dim=smaller, ordered=bool(config.nested_dims))
    except ValueError as error:
        raise InputError(f"--head_init calibrated: {error}; or choose --head_init identity") from error
    _start_as(encoder, closed, config.start)
    return closed


def _start_as(encoder: RetrievalEncoder, closed: Calibration, kind: str) -> None:
    try:
        encoder.start_as(closed.weight, closed.query_shift)
    except ValueError as error:
        raise InputError(f"--head_init {kind}: {error}; choose another --head_init") from error


def mine_pools(config: TrainConfig, encoder: RetrievalEncoder, source: PairSource) -> Pools | None:
    """Mine hard negatives of every training query among all documents; None where none are asked for."""
    if not (config.mines and len(source.dataset)):
        return None
    queries, documents = source.sides()
    embedded = encoder.embed(queries, "query"), encoder.embed(documents, "document")
    return Pools(mine(*embedded, source.dataset, *config.mined_ranks), config.mines, config.seed)


@torch.no_grad()
def mine(
    queries: NDArray[np.float32], documents: NDArray[np.float32], data: PairDataset, first: int, last: int
) -> Rows:
    """Return the documents at ranks `first` to `last` − 1 of each query by Euclidean distance, without its positives.

    Given embeddings of ``data.queries`` and ``data.documents``, these are indices ``(queries, last − first)`` into the
    latter, `NOTHING` where a query has fewer. The nearest documents (ranks from 0) may be unlabelled answers.
    """
    mined = np.full((len(queries), last - first), NOTHING, dtype=np.int64)
    corpus = torch.from_numpy(documents)
    half_squares = corpus.square().sum(1) / 2
    block = max(1, BLOCK_ELEMENTS // max(1, len(documents)))
    for start in tqdm(range(0, len(queries), block), desc="mining negatives", unit="block", delay=2, leave=False):
        nearness = torch.from_numpy(queries[start : start + block]) @ corpus.T - half_squares
        for row in range(len(nearness)):
            nearness[row, torch.from_numpy(data.answers(start + row))] = -torch.inf
        best = nearness.topk(min(last, len(documents)), dim=1)
        ranked = best.indices.masked_fill(best.values == -torch.inf, NOTHING)[:, first:].numpy()
        mined[start : start + block, : ranked.shape[1]] = ranked
    return mined
