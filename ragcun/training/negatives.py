"""Hard negatives: documents that a model ranks high for a query and that are not known to answer it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ragcun.data.pairs import PairDataset

Rows = NDArray[np.int64]
NOTHING = -1
BLOCK_ELEMENTS = 2**25


@dataclass(frozen=True)
class Pools:
    """Mined negatives of every query, from which each batch draws some, anew each time but repeatably.

    Attributes:
        mined: documents by query ``(queries, ranks)``, `NOTHING` where there are fewer.
        per_query: how many of them a batch shows of each of its queries.
        seed: of the draws.
    """

    mined: Rows
    per_query: int
    seed: int

    def draw(self, data: PairDataset, rows: Rows) -> Rows:
        """Return distinct documents for a batch of pairs, none of which is a positive of the batch.

        The draw follows from the seed and the pairs of the batch alone.
        """
        generator = np.random.default_rng([self.seed, len(rows), *rows[:8].tolist()])
        mined = self.mined[np.unique(data.query_ids[rows])]
        keys = np.where(mined == NOTHING, 2.0, generator.random(mined.shape))
        chosen = np.argsort(keys, axis=1)[:, : self.per_query]
        documents = np.take_along_axis(mined, chosen, axis=1)
        return np.setdiff1d(documents[documents != NOTHING], data.positive_ids[rows])


@torch.no_grad()
def mine(
    queries: NDArray[np.float32], documents: NDArray[np.float32], data: PairDataset, first: int, last: int
) -> Rows:
    """Return the documents at ranks `first` to `last` − 1 of each query, its known positives left out.

    Documents are ranked by Euclidean distance, in float32.

    Args:
        queries: embeddings of ``data.queries``, ``(queries, dim)``.
        documents: embeddings of ``data.documents``, ``(documents, dim)``.
        data: says which document answers which query.
        first: ranks above this one, counted from 0 without the known positives, are passed over: the nearest
            documents may be answers that nobody marked.
        last: the first rank that is no longer taken.

    Returns:
        Indices into ``data.documents``, ``(queries, last − first)``, `NOTHING` where a query has fewer.

    Raises:
        ValueError: not 0 ≤ first < last.
    """
    if not 0 <= first < last:
        raise ValueError(f"ranks must be 0 <= first < last, got {first} and {last}")
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
