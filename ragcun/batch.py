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
        query: query embeddings.
        positive: embeddings of the document that answers each query.
        negative: embeddings of a hard negative of each query; rows without one hold anything finite.
        negative_mask: which rows of `negative` are real; None where all are.
        relevant: ``relevant[i, j]`` says that positive `j` is a known positive of query `i` (the diagonal always
            is), so that a loss does not push apart what belongs together; None where only the diagonal is known.
        predicted: the predictor's guess of the target.
        target: what it should have guessed (a document embedding, or an EMA teacher's).
        residual: the correction that a residual predictor adds (its delta).
        pool: embeddings of further documents, candidates for all queries of the batch (mined negatives).
        pool_relevant: which of them are known positives of which query.
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
