"""PairBatch: what an encoder is given of one training batch."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from ragcun.models.base import Features


@dataclass(frozen=True)
class PairBatch:
    """Inputs of one training batch: cached base vectors ``(batch, dim)`` or tokenised texts, aligned by row.

    Attributes:
        query: the queries.
        positive: the document that answers each.
        negative: a hard negative of each, None where no row has one.
        negative_mask: which rows of `negative` are real.
        relevant: which positive of the batch is a known positive of which query.
        pool: further documents, candidates for all queries of the batch.
        pool_relevant: which of them is a known positive of which query.
    """

    query: Float[Tensor, "batch dim"] | Features
    positive: Float[Tensor, "batch dim"] | Features
    negative: Float[Tensor, "batch dim"] | Features | None = None
    negative_mask: Bool[Tensor, " batch"] | None = None
    relevant: Bool[Tensor, "batch batch"] | None = None
    pool: Float[Tensor, "pool dim"] | Features | None = None
    pool_relevant: Bool[Tensor, "batch pool"] | None = None
