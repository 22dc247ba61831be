"""Batches of training pairs: their order, by seed and epoch, what is in them, mined negatives, a teacher's scores."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor
from tqdm.auto import tqdm

from ragcun.batch import Features, PairBatch, Role
from ragcun.config import TrainConfig
from ragcun.data.pairs import LARGEST, PairDataset, Scores
from ragcun.data.texts import text_classes
from ragcun.embeddings.base import Base, Rows, Vectors, VectorSource
from ragcun.embeddings.encode import progress_bar
from ragcun.errors import InputError
from ragcun.losses.contrastive import similarity_logits
from ragcun.models.encoder import RetrievalEncoder
from ragcun.options import refuse
from ragcun.training.processes import to_device

logger = logging.getLogger(__name__)

NOTHING = -1
"""Fills the ranks of a query that has fewer mined negatives than others."""
BLOCK_ELEMENTS = 2**25
"""Distances in memory at a time, while negatives are mined."""
MOST_KEPT = 2**28
"""Bytes of cached vectors up to which those of all texts are read once; else each batch reads its own."""
Teacher = Callable[[Rows, Rows], Float[Tensor, "queries documents"]]
"""Scores queries and documents, given by their indices in a `PairDataset`; NaN: missing, as document −1 always is."""


def epoch_pairs(dataset: PairDataset, per_query: int, seed: int, epoch: int) -> Rows:
    """Return the pairs that an epoch shows: up to `per_query` of each query, drawn anew in each epoch; 0 means all."""
    if per_query == 0:
        return np.arange(len(dataset))
    order = np.random.default_rng([seed, epoch, 1]).permutation(len(dataset))
    order = order[np.argsort(dataset.query_ids[order], kind="stable")]
    queries = dataset.query_ids[order]
    first = np.searchsorted(queries, queries)
    return np.sort(order[np.arange(len(order)) - first < per_query])


def epoch_batches(pairs: int, batch_size: int, seed: int, epoch: int | None) -> list[Rows]:
    """Split all pairs into ``ceil(pairs / batch_size)`` batches whose sizes differ by at most one, none a single pair.

    The order is random from `seed` and `epoch`; with `epoch` None it is the order of the pairs.
    """
    order = np.arange(pairs)
    if epoch is not None:
        order = np.random.default_rng([seed, epoch]).permutation(pairs)
    return np.array_split(order, max(1, min(-(-pairs // batch_size), pairs // 2)))


def epoch_steps(config: TrainConfig, dataset: PairDataset, processes: int, epoch: int) -> list[list[Rows]]:
    """Return an epoch's optimiser steps, each a list of batches of all processes together."""
    pairs = epoch_pairs(dataset, config.positives_per_query, config.seed, epoch)
    batches = epoch_batches(len(pairs), config.batch_size * processes, config.seed, epoch)
    if len(batches[-1]) < processes:
        raise InputError(f"{len(pairs)} training pairs are too few for {processes} processes; start fewer")
    accumulated = config.gradient_accumulation_steps
    return [[pairs[rows] for rows in batches[i : i + accumulated]] for i in range(0, len(batches), accumulated)]


def plan_steps(config: TrainConfig, dataset: PairDataset, processes: int) -> tuple[int, int]:
    """Return how many epochs and optimiser steps a run has."""
    if not len(dataset):
        return 0, 0
    steps = len(epoch_steps(config, dataset, processes, 1))
    epochs = config.epochs or max(1, round(config.steps / steps))
    return epochs, epochs * steps


def require_contrast(config: TrainConfig, data: PairDataset) -> None:
    """Raise InputError if batches are too small, or a contrastive loss would see no document but answers."""
    if not len(data):
        return
    one_pair = len(data.queries) == config.positives_per_query == 1  # in each epoch, and so in each batch
    least, answers = data.answer_counts().min(), len(np.unique(data.positive_ids))
    own = (data.negative_ids >= 0) & (config.contrastive != "in_batch_margin")
    given = own.all() if one_pair else own.any()
    mined = config.mines and least + config.mined_ranks[0] < len(data.documents)
    alike = "contrastive" in config.weights and not (least < answers or given or mined)
    small = one_pair and "isotropy" in config.weights and config.isotropy_rows == "each"
    found = f"nothing to contrast (distinct queries: {len(data.queries)}, answers that each of them has: {answers})"
    mining = "a --corpus to mine negatives from" if config.mines else "--mined_negatives 4"
    remedy = f"add pairs of other queries, a negative to each pair, or {mining}"
    too_small = "--isotropy_rows each needs batches of 2 pairs, and an epoch has one of the only query"
    mistakes = {f"{found}; {remedy}": alike, f"{too_small}; add --positives_per_query 0": small}
    refuse({f"{data.source}: {message}": wrong for message, wrong in mistakes.items()})


@dataclass(frozen=True)
class Pools:
    """Mined negatives, of which each batch draws `per_query` for each of its queries, repeatably.

    ``mined`` holds documents by query ``(queries, ranks)``, `NOTHING` where there are fewer.
    """

    mined: Rows
    per_query: int
    seed: int

    def draw(self, data: PairDataset, rows: Rows) -> Rows:
        """Return distinct documents, no positives of the batch; a function of the seed and the batch's pairs alone."""
        generator = np.random.default_rng([self.seed, len(rows), *rows[:8].tolist()])
        mined = self.mined[np.unique(data.query_ids[rows])]
        keys = np.where(mined == NOTHING, 2.0, generator.random(mined.shape))
        chosen = np.argsort(keys, axis=1)[:, : self.per_query]
        documents = np.take_along_axis(mined, chosen, axis=1)
        return np.setdiff1d(documents[documents != NOTHING], data.positive_ids[rows])


class PairSource:
    """Where a batch's inputs come from: `vectors` that a frozen base encoded once, or tokens for a base in training."""

    def __init__(
        self,
        dataset: PairDataset,
        base: Base,
        device: torch.device,
        vectors: VectorSource | None = None,
        teacher: Teacher | None = None,
    ) -> None:
        self.dataset, self.base, self.device, self.vectors, self.teacher = dataset, base, device, vectors, teacher
        self.texts: dict[Role, Sequence[str]] = {"query": dataset.queries, "document": dataset.documents}
        self.rows = {
            role: np.arange(len(texts)) if vectors is None else vectors.rows(texts, role)
            for role, texts in self.texts.items()
        }
        self.probe_size, self.sample_size = (128, 2_000) if vectors is None else (256, 20_000)
        self.pools: Pools | None = None
        self.kept: dict[Role, Vectors] = {}
        if vectors is not None and 4 * vectors.dimension * sum(map(len, self.rows.values())) <= MOST_KEPT:
            self.kept = {role: vectors[rows] for role, rows in self.rows.items()}

    def sides(self, most: int | None = None, seed: int = 0) -> tuple[Vectors, Vectors]:
        """Return the base's pooled vectors of queries and documents: of all, or of `most` (1,000 if live) of each."""
        rows, random = self.rows, np.random.default_rng(seed)
        if most is not None:
            most = most if self.vectors is not None else min(most, self.sample_size // 2)
            rows = {role: np.sort(random.permutation(side)[:most]) for role, side in rows.items()}
        if self.vectors is not None:
            return self.vectors[rows["query"]], self.vectors[rows["document"]]
        queries, documents = (self._encoded([self.texts[role][i] for i in side], role) for role, side in rows.items())
        return queries, documents

    def _encoded(self, texts: list[str], role: Role) -> Vectors:
        with progress_bar(texts, role) as progress:
            return self.base.encode(texts, role, progress=progress)

    def sample(self, seed: int) -> Float[Tensor, "n base_dim"]:
        """Return what the head sees, before training, of a sample of up to `sample_size` queries and documents."""
        if self.vectors is None:
            vectors = np.concatenate(self.sides(self.sample_size // 2, seed))
        else:
            rows = np.random.default_rng(seed).permutation(np.concatenate([*self.rows.values()]))
            vectors = self.vectors[np.sort(rows[: self.sample_size])]
        return self.base(to_device(torch.from_numpy(vectors), self.device))

    def probe(self, seed: int) -> Rows:
        """Return the pairs by which a run is checked for collapse, the same at every call."""
        return np.sort(np.random.default_rng(seed).permutation(len(self.dataset))[: self.probe_size])

    def batch(self, rows: Rows) -> PairBatch:
        """Return the inputs of these pairs."""
        return self.parts(rows, range(1), 1)[0]

    def parts(self, rows: Rows, places: range, count: int) -> list[PairBatch]:
        """Return the parts at `places` of a batch whose pairs and pool are split in order into `count`.

        The masks of a part have a row for each of its queries and a column for each document of the whole batch.
        """
        drawn = np.empty(0, dtype=np.int64) if self.pools is None else self.pools.draw(self.dataset, rows)
        return [self._part(rows, drawn, place, count) for place in places]

    def _part(self, rows: Rows, drawn: Rows, place: int, count: int) -> PairBatch:
        data, own, pool = self.dataset, *(np.array_split(each, count)[place] for each in (rows, drawn))
        queries, positives = data.query_ids[own], data.positive_ids[own]
        negatives, present = data.negative_ids[own], bool((data.negative_ids[rows] >= 0).any())
        real = negatives >= 0
        candidates = [data.positive_ids[rows], data.negative_ids[rows if present else rows[:0]], drawn]
        return PairBatch(
            query=self._inputs(queries, "query"),
            positive=self._inputs(positives, "document"),
            negative=self._inputs(np.where(real, negatives, positives), "document") if present else None,
            negative_mask=self._mask(real) if present else None,
            relevant=None if data.all_distinct else self._mask(data.known(queries, data.positive_ids[rows])),
            pool=self._inputs(pool, "document") if len(pool) else None,
            pool_relevant=self._mask(data.known(queries, drawn)) if len(drawn) else None,
            teacher=None if self.teacher is None else self.teacher(queries, np.concatenate(candidates)),
        )

    def _inputs(self, texts: Rows, role: Role) -> Float[Tensor, "n base_dim"] | Features:
        if self.vectors is not None:
            vectors = self.kept[role][texts] if self.kept else self.vectors[self.rows[role][texts]]
            return to_device(torch.from_numpy(vectors), self.device)
        features = self.base.features([self.texts[role][i] for i in texts], role)
        sent = {name: to_device(value, self.device) for name, value in features.items() if isinstance(value, Tensor)}
        return {**features, **sent}

    def _mask(self, mask: NDArray[np.bool_]) -> Bool[Tensor, "rows ..."]:
        return to_device(torch.from_numpy(mask), self.device)


def mine_pools(config: TrainConfig, encoder: RetrievalEncoder, source: PairSource) -> Pools | None:
    """Mine hard negatives of every training query among all documents; None where none are asked for."""
    if not (config.mines and len(source.dataset)):
        return None
    queries, documents = source.sides()
    embedded = encoder.embed(queries, "query"), encoder.embed(documents, "document")
    return Pools(mine(*embedded, source.dataset, *config.mined_ranks, source.teacher), config.mines, config.seed)


@torch.no_grad()
def mine(
    queries: Vectors, documents: Vectors, data: PairDataset, first: int, last: int, teacher: Teacher | None = None
) -> Rows:
    """Return the documents at ranks `first` to `last` − 1 of each query by Euclidean distance, without its positives.

    With a `teacher` they are ranked by its scores; those without one are left out.

    Given embeddings of ``data.queries`` and ``data.documents``, these are indices ``(queries, last − first)`` into the
    latter, `NOTHING` where a query has fewer. The nearest documents (ranks from 0) may be unlabelled answers. Documents
    with the text of the query are left out.
    """
    mined = np.full((len(queries), last - first), NOTHING, dtype=np.int64)
    corpus, classes = torch.from_numpy(documents), text_classes([*data.queries, *data.documents])
    half_squares = corpus.square().sum(1) / 2
    block = max(1, BLOCK_ELEMENTS // max(1, len(documents)))
    for start in tqdm(range(0, len(queries), block), desc="mining negatives", unit="block", delay=2, leave=False):
        rows, every = np.arange(start, min(start + block, len(queries))), np.arange(len(documents))
        nearness = torch.from_numpy(queries[start : start + block]) @ corpus.T - half_squares
        nearness = nearness if teacher is None else teacher(rows, every).cpu().nan_to_num(-torch.inf)
        positives = data.known(rows, every)
        barred = positives | np.equal.outer(classes[: len(queries)][start : start + block], classes[len(queries) :])
        best = nearness.masked_fill_(torch.from_numpy(barred), -torch.inf).topk(min(last, len(documents)), dim=1)
        ranked = best.indices.masked_fill(best.values == -torch.inf, NOTHING)[:, first:].numpy()
        mined[start : start + block, : ranked.shape[1]] = ranked
    return mined


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
    values = np.array([np.nan, *chain.from_iterable(row.values() for row in found)])
    if (highest := np.abs(values[1:]).max(initial=0)) > LARGEST:
        raise InputError(f"teacher {source}: a score of size {highest:.0e} is too large for float32; scale the scores")
    values = values.astype(np.float32)
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
