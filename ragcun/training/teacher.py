"""Teachers: another model, a TREC run or a pairs file, whose scores of queries and documents a student learns."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import chain

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import csr_array
from torch import Tensor

from ragcun.data.pairs import PairDataset, Scores
from ragcun.embeddings.base import Base, Rows, VectorSource
from ragcun.errors import InputError
from ragcun.losses.contrastive import similarity_logits
from ragcun.training.processes import to_device

logger = logging.getLogger(__name__)
Teacher = Callable[[Rows, Rows], Float[Tensor, "queries documents"]]
"""Scores queries and documents, given by their indices in a `PairDataset`; NaN: missing, as document −1 always is."""


def teacher_of_vectors(source: VectorSource, pairs: PairDataset, device: torch.device) -> Teacher:
    """Return the teacher that scores the texts of `pairs` by the similarity of their vectors in `source`."""
    asked, shown = source.rows(pairs.queries, "query"), source.rows(pairs.documents, "document")
    unit, distance = source.base.ends_normalized, source.base.distance
    vectors = getattr(source, "vectors", source)  # not the cache, which would keep the model in memory

    def score(queries: Rows, documents: Rows) -> Float[Tensor, "queries documents"]:
        sides = [to_device(torch.from_numpy(vectors[rows]), device) for rows in (asked[queries], shown[documents])]
        query, document = (Base.finish(side, unit) for side in sides)
        missing = to_device(torch.from_numpy(documents < 0), device)
        return similarity_logits(query, document, distance).masked_fill(missing, torch.nan)

    return score


def teacher_of_scores(scores: Scores, pairs: PairDataset, source: str, device: torch.device) -> Teacher:
    """Return the teacher that looks up scores, which `source` gave; InputError if there is none to learn from."""
    place = {text: column for column, text in enumerate(pairs.documents)}
    found = [{place[each]: s for each, s in scores.get(query, {}).items() if each in place} for query in pairs.queries]
    values = np.array([np.nan, *chain.from_iterable(row.values() for row in found)], dtype=np.float32)
    columns, ends = np.array([*chain.from_iterable(found)], dtype=np.int64), np.cumsum([0, *map(len, found)])
    # of each score its place in values, 0 where there is none; the last column, which is that of document −1, is empty
    places = csr_array((np.arange(1, len(values)), columns, ends), (len(found), len(place) + 1))
    scored = int((places[pairs.query_ids, pairs.positive_ids] > 0).sum())
    logger.info("teacher %s: %d of the %d positives of %s have a score", source, scored, len(pairs), pairs.source)
    if not scored or max(map(len, found)) < 2:
        needed = "a positive and another document of a query; give --teacher, or `scores` in a pairs file"
        raise InputError(f"--contrastive kl and margin_mse learn scores, and {source} has none of {needed}")

    def score(queries: Rows, documents: Rows) -> Float[Tensor, "queries documents"]:
        return to_device(torch.from_numpy(values[places[queries][:, documents].toarray()]), device)

    return score
