"""Views: what one training batch shows. Models make them, losses read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Bool, Float
from torch import Tensor

Features = dict[str, Any]
"""Tokenised texts, as a sentence-transformers model takes them."""
Role = Literal["query", "document"]


@dataclass(frozen=True)
class Views:
    """The embeddings of one batch, row `i` of each field belonging to training pair `i`.

    Attributes:
        positive: the document that answers each query.
        negative: a hard negative of each query; rows without one, which `negative_mask` says, hold anything finite.
        relevant: ``relevant[i, j]`` says that positive `j` is a known positive of query `i`, as the diagonal always is.
        predicted: the predictor's guess of `target`, a document embedding or an EMA teacher's.
        residual: the correction that a residual predictor adds (its delta).
        pool: further documents, candidates for all queries (mined negatives); `pool_relevant` names known positives.
        teacher: a teacher's scores of each query for all positives, then negatives, then the pool; NaN: it has none.
    """

    query: Float[Tensor, "batch dim"]
    positive: Float[Tensor, "batch dim"]
    negative: Float[Tensor, "batch dim"] | None = None
    negative_mask: Bool[Tensor, " batch"] | None = None
    relevant: Bool[Tensor, "batch batch"] | None = None
    predicted: Float[Tensor, "batch dim"] | None = None
    target: Float[Tensor, "batch dim"] | None = None
    residual: Float[Tensor, "batch dim"] | None = None
    pool: Float[Tensor, "pool dim"] | None = None
    pool_relevant: Bool[Tensor, "batch pool"] | None = None
    teacher: Float[Tensor, "batch candidates"] | None = None


@dataclass(frozen=True)
class PairBatch:
    """Inputs of one training batch: cached base vectors or tokenised texts, aligned by row; fields as of `Views`."""

    query: Float[Tensor, "batch dim"] | Features
    positive: Float[Tensor, "batch dim"] | Features
    negative: Float[Tensor, "batch dim"] | Features | None = None
    negative_mask: Bool[Tensor, " batch"] | None = None
    relevant: Bool[Tensor, "batch batch"] | None = None
    pool: Float[Tensor, "pool dim"] | Features | None = None
    pool_relevant: Bool[Tensor, "batch pool"] | None = None
    teacher: Float[Tensor, "batch candidates"] | None = None
