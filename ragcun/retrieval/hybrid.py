"""Fusion of rankings, and a retriever that fuses those of several systems."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ragcun.config import Fusion
from ragcun.data.beir import Collection
from ragcun.errors import InputError
from ragcun.results import reason
from ragcun.retrieval.metrics import choose
from ragcun.retrieval.runs import Run, is_stored
from ragcun.retrieval.systems import Embedded, Retriever, once
from ragcun.tensors import normalize

logger = logging.getLogger(__name__)
DEPTH = 100
"""Documents of each ranking that are fused."""
RRF_K = 60
WEIGHT, TRAINED_WEIGHT = 0.3, 0.1
"""The share of the other rankings where no dev queries choose it; the second of a trained system beside others without
memory. Chosen on dev queries, or by cross-validation (`benchmarks/hybrid_fixed.py`), where they lost on no collection.
"""
FEEDBACK_DOCUMENTS, FEEDBACK_WEIGHTS = (2, 1, 3), (0.3, 0.4)
"""Of these the first are taken where no dev queries choose, by the same figures."""
WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


def fuse(
    runs: Sequence[Run],
    weights: Sequence[float] | None = None,
    method: Fusion = "minmax",
    k: int = DEPTH,
    depth: int = DEPTH,
) -> Run:
    """Fuse the first `depth` documents of each run into the `k` best by (weighted sum descending, document id).

    Scores of a query are scaled by ``minmax``, (s − min) / (max − min), by ``zscore``, (s − min) / standard deviation,
    or become ``rrf``, 1 / (60 + rank) (Cormack et al., SIGIR 2009). A document that a run lacks has 0 in it, which is
    the lowest scaled score; documents of one score all have 1. `weights` None weights runs alike.

    >>> fuse([{"q": {"a": 9.0, "b": 5.0, "c": 1.0}}, {"q": {"b": 2.0, "d": 1.0}}])
    {'q': {'b': 0.75, 'a': 0.5, 'c': 0.0, 'd': 0.0}}
    """
    weights = [1 / len(runs)] * len(runs) if weights is None else weights
    fused: Run = {}
    for query in dict.fromkeys(chain.from_iterable(runs)):
        found = [dict(islice(run.get(query, {}).items(), depth)) for run in runs]
        names = sorted(set().union(*found))
        row_of, total = {name: row for row, name in enumerate(names)}, np.zeros(len(names))
        for part, weight in zip(found, weights, strict=True):
            rows = np.fromiter(map(row_of.__getitem__, part), np.int64, len(part))
            total[rows] += weight * _scaled(np.fromiter(part.values(), np.float64, len(part)), method)
        best = np.argsort(-total, kind="stable")[:k]
        fused[query] = {names[row]: score for row, score in zip(best.tolist(), total[best].tolist(), strict=True)}
    return fused


def _scaled(scores: NDArray[np.float64], method: Fusion) -> NDArray[np.float64]:
    if method == "rrf":
        return 1 / (RRF_K + 1 + np.arange(len(scores)))
    if len(scores) == 0 or scores.min() == scores.max():
        return np.ones(len(scores))
    scores = scores - scores.min()
    return np.asarray(scores / (scores.max() if method == "minmax" else scores.std()))


def move_queries(embedded: Embedded, collection: Collection, run: Run, k: int, weight: float) -> NDArray[np.float32]:
    """Move queries towards the first `k` documents of a run: q ← ‖q‖ unit((1 − b) unit(q) + b d̄), b being `weight`.

    d̄ is the mean of the unit document vectors, weighted by their scores (Rocchio 1971, without negatives). A query
    without documents, or whose first ones score 0, stays as it is.
    """
    row_of = {name: row for row, name in enumerate(collection.documents)}
    firsts = [list(islice(run.get(query, {}).items(), k)) for query in collection.queries]
    found = [(query, row_of[name], score) for query, first in enumerate(firsts) for name, score in first if score > 0]
    if not found:
        return embedded.queries
    owners, rows, scores = (np.array(column) for column in zip(*found, strict=True))
    sums = np.zeros(embedded.queries.shape)
    np.add.at(sums, owners, scores[:, None] * normalize(embedded.documents.take(rows, axis=0)))
    own, totals = np.unique(owners), np.bincount(owners, scores, len(sums))[:, None]
    moved = (1 - weight) * normalize(embedded.queries[own]) + weight * sums[own] / totals[own]
    queries = np.array(embedded.queries)
    queries[own] = np.linalg.norm(queries[own], axis=1, keepdims=True) * normalize(moved)
    return queries


class Feedback(NamedTuple):
    """How many documents move a query, how far, and the share of the other rankings in the second fusion."""

    documents: int
    weight: float
    share: float

    def __str__(self) -> str:
        """Say it in words."""
        return f"{self.documents} documents by {self.weight}, then weight {self.share}" if self.documents else "off"


@dataclass
class HybridRetriever:
    """The ranking of a first system fused with those of others, which share `weight` equally.

    With `feedback`, the number of documents and the weight of `move_queries`, the moved queries search the first
    system again, and this ranking is fused again. What is None is chosen for each collection by its dev queries
    (`choose`); where `dev` has none, it is `WEIGHT`, or of a `trained` system beside others without memory
    `TRAINED_WEIGHT`, and the first of `FEEDBACK_DOCUMENTS` and `FEEDBACK_WEIGHTS`. `chosen` keeps what was chosen and
    why.
    """

    parts: tuple[Retriever, ...]
    weight: float | None = None
    method: Fusion = "minmax"
    dev: Callable[[Collection], Collection | None] = lambda _: None
    feedback: tuple[int | None, float | None] | None = None
    trained: bool = False
    chosen: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return the names of the parts."""
        return " + ".join([part.name for part in self.parts] + ["feedback"] * (self.feedback is not None))

    @property
    def size(self) -> Mapping[str, Any]:
        """Return the size of the first part's vectors."""
        return self.parts[0].size

    @property
    def fingerprint(self) -> str:
        """Return the fingerprints of the parts, and how they are fused."""
        parts = [getattr(each, "fingerprint", each.name) for each in self.parts]
        return json.dumps([parts, self.weight, self.method, self.feedback])

    def retrieve(self, collection: Collection, k: int) -> Run:
        """Rank by every part and fuse; with feedback, search and fuse again."""
        for part in self.parts:  # one with memory makes its own choice first
            part.retrieve(collection, max(k, DEPTH))
        if collection.name not in self.chosen:
            self.chosen[collection.name] = self._choose(collection, k)
            for what, record in self.chosen[collection.name].items():
                logger.info("%s, %s: %s %s", collection.name, self.name, what, reason(record))
        chosen = {what: record["chosen"] for what, record in self.chosen[collection.name].items()}
        return self.fused(collection, k, chosen["weight"], chosen.get("feedback"))

    def fused(self, collection: Collection, k: int, weight: float, feedback: Feedback | None = None) -> Run:
        """Fuse by a given weight, and by given feedback."""
        depth = max(k, DEPTH)
        runs, others = [part.retrieve(collection, depth) for part in self.parts], len(self.parts) - 1
        if feedback is not None and feedback[0]:
            runs[0], weight = self._again(collection, k, weight, *feedback[:2]), feedback[2]
        return fuse(runs, [1 - weight, *[weight / others] * others], self.method, k, depth)

    @once
    def _again(self, collection: Collection, k: int, weight: float, documents: int, move: float) -> Run:
        first: Any = self.parts[0]
        if not hasattr(first, "embedded"):
            raise InputError(f"--feedback moves vectors of queries, and {first.name} has none; leave it out")
        embedded, fused = first.embedded(collection), self.fused(collection, max(k, DEPTH), weight)
        moved = embedded._replace(queries=move_queries(embedded, collection, fused, documents, move))
        return first.search(collection, moved, max(k, DEPTH))

    def _choose(self, collection: Collection, k: int) -> dict[str, Any]:
        dev = None if is_stored(self) else self.dev(collection)

        def chosen(given: Any, default: Any, settings: Sequence[Any], fused: Callable[..., Run]) -> dict[str, Any]:
            if given is not None:
                return {"chosen": given, "why": "as given"}
            if dev is None:
                return {"chosen": default, "why": "no dev queries to choose by"}
            return choose(partial(fused, dev), settings, dev.qrels, dev.split)

        remembers = any(part.strength(collection) for part in self.parts[1:] if hasattr(part, "strength"))
        share = TRAINED_WEIGHT if self.trained and not remembers else WEIGHT
        records = {"weight": chosen(self.weight, share, WEIGHTS, lambda on, weight: self.fused(on, k, weight))}
        if self.feedback is None:
            return records
        weight, (documents, move) = records["weight"]["chosen"], self.feedback
        several = (documents,) if documents is not None else FEEDBACK_DOCUMENTS
        moves = (move,) if move is not None else FEEDBACK_WEIGHTS
        shares = [weight, *(each for each in WEIGHTS if 0 < each < weight)]
        grid = [Feedback(0, 0.0, weight), *map(Feedback._make, itertools.product(several, moves, shares))]
        given = None if None in self.feedback else grid[1]
        records["feedback"] = chosen(given, grid[1], grid, lambda on, each: self.fused(on, k, weight, each))
        return records
