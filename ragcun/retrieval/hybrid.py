"""Fusion of rankings, and a retriever that fuses those of several systems."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ragcun.data.beir import Collection
from ragcun.results import METRIC
from ragcun.retrieval.choice import choose, reason
from ragcun.retrieval.metrics import evaluate_run
from ragcun.retrieval.runs import Run
from ragcun.retrieval.systems import Retriever, is_stored

logger = logging.getLogger(__name__)
Fusion = Literal["minmax", "zscore", "rrf"]
DEPTH = 100
"""Documents of each ranking that are fused."""
RRF_K = 60
WEIGHT = 0.3
"""The share of the other rankings where no dev queries choose it: the largest that lost on none of our dev sets."""
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


@dataclass
class HybridRetriever:
    """The ranking of a first system fused with those of others, which share `weight` equally.

    `weight` None is chosen for each collection by its dev queries (`WEIGHTS`, with a paired test against the first
    system alone), or `WEIGHT` where `dev` has none; `chosen` keeps what was chosen and why, by collection.
    """

    parts: tuple[Retriever, ...]
    weight: float | None = None
    method: Fusion = "minmax"
    dev: Callable[[Collection], Collection | None] = lambda _: None
    chosen: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return the names of the parts."""
        return " + ".join(part.name for part in self.parts)

    @property
    def size(self) -> Mapping[str, Any]:
        """Return the size of the first part's vectors."""
        return self.parts[0].size

    @property
    def fingerprint(self) -> str:
        """Return the fingerprints of the parts, and how they are fused."""
        return json.dumps([[getattr(each, "fingerprint", each.name) for each in self.parts], self.weight, self.method])

    def retrieve(self, collection: Collection, k: int) -> Run:
        """Rank by every part and fuse."""
        if collection.name not in self.chosen:
            self.chosen[collection.name] = {"weight": self._weight(collection, k)}
            logger.info("%s, %s: weight %s", collection.name, self.name, reason(self.chosen[collection.name]["weight"]))
        return self.fused(collection, k, self.chosen[collection.name]["weight"]["chosen"])

    def fused(self, collection: Collection, k: int, weight: float) -> Run:
        """Fuse by a given weight."""
        runs, others = [part.retrieve(collection, max(k, DEPTH)) for part in self.parts], len(self.parts) - 1
        return fuse(runs, [1 - weight, *[weight / others] * others], self.method, k)

    def _weight(self, collection: Collection, k: int) -> dict[str, Any]:
        dev = None if self.weight is not None or is_stored(self) else self.dev(collection)
        if dev is None:
            given = {"chosen": self.weight, "why": "as given"}
            return {"chosen": WEIGHT, "why": "no dev queries to choose by"} if self.weight is None else given
        scores = {each: evaluate_run(self.fused(dev, k, each), dev.qrels, (10,))[METRIC] for each in WEIGHTS}
        return choose(scores, 0.0, dev.split)[1]
