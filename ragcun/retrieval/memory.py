"""Memory of documents: vectors moved towards their training queries, and texts with these appended for BM25.

It serves questions that were asked before, or ask for the same documents; it says nothing about other documents.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.preprocessing import normalize

from ragcun.data.beir import Collection
from ragcun.embeddings.precomputed import check_vectors
from ragcun.results import METRIC
from ragcun.retrieval.bm25 import BM25
from ragcun.retrieval.choice import FEWEST, HELD_OUT, MOST, Labels, choose, once, reason
from ragcun.retrieval.metrics import evaluate_run
from ragcun.retrieval.runs import Run, make_run
from ragcun.retrieval.search import top_k
from ragcun.retrieval.systems import BM25Retriever, DenseRetriever

logger = logging.getLogger(__name__)
STRENGTHS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0)
NO_DEV: dict[str, Any] = {"chosen": 0.0, "why": "no training queries, or too few unseen ones to choose by"}


def move_documents(
    document_vectors: ArrayLike,
    query_vectors: ArrayLike,
    pairs: Sequence[tuple[int, int]] | NDArray[np.int64],
    strength: float | None = None,
) -> NDArray[np.float32]:
    """Move documents towards the training queries that they answer: d ← ‖d‖ unit(unit(d) + γ unit(Σ unit(q))).

    `pairs` are (row of a query, row of a document); other documents stay as they are. The rule is that of NUDGE
    (Zeighami et al., arXiv 2409.02343) with one step for all documents. `strength` γ None is chosen among `STRENGTHS`
    by 30 % of the queries, at most 1,500, held out: 0 unless a paired test on them supports another.

    >>> move_documents([[0.0, 2.0], [1.0, 0.0]], [[3.0, 0.0]], [(0, 0)], strength=1.0).astype(float).round(3)
    array([[1.414, 1.414],
           [1.   , 0.   ]])

    Raises:
        ValueError: vectors are not finite or differ in length, or a pair names a row that is not there.
    """
    documents = check_vectors(document_vectors, "document_vectors")
    queries = normalize(check_vectors(query_vectors, "query_vectors", documents.shape[1]))
    rows = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
    if len(rows) and (rows.min() < 0 or (rows.max(axis=0) >= (len(queries), len(documents))).any()):
        raise ValueError(f"pairs go up to {rows.max(axis=0)} of {len(queries)} queries and {len(documents)} documents")
    if strength is None:
        strength, record = choose_strength(documents, queries, rows)
        logger.info("memory: strength %s", reason(record))
    moved = np.array(documents, dtype=np.float32)
    if strength == 0 or not len(rows):
        return moved
    own, places = np.unique(rows[:, 1], return_inverse=True)
    sums = np.zeros((len(own), queries.shape[1]), dtype=np.float32)
    np.add.at(sums, places.ravel(), queries[rows[:, 0]])
    lengths = np.linalg.norm(moved[own], axis=1, keepdims=True)
    moved[own] = lengths * normalize(normalize(moved[own]) + np.float32(strength) * normalize(sums))
    return moved


def choose_strength(
    documents: NDArray[np.float32], queries: NDArray[np.float32], pairs: NDArray[np.int64]
) -> tuple[float, dict[str, Any]]:
    """Return the strength that held-out queries support, and what was measured."""
    asked = np.random.default_rng(0).permutation(np.unique(pairs[:, 0]))
    held = asked[: min(MOST, int(HELD_OUT * len(asked)))]
    if len(held) < FEWEST:
        return 0.0, NO_DEV
    is_held = np.isin(pairs[:, 0], held)
    qrels: dict[str, dict[str, int]] = {}
    for query, document in pairs[is_held].tolist():
        qrels.setdefault(str(query), {})[f"d{document}"] = 1
    ids, names = [f"d{row}" for row in range(len(documents))], [str(query) for query in held.tolist()]

    def search(strength: float) -> Run:
        moved = move_documents(documents, queries, pairs[~is_held], strength)
        found = top_k(queries[held], moved, 10, "cosine")
        return make_run(names, ids, found.scores, found.indices, 10)

    return _chosen(search, qrels, STRENGTHS, "training (held out)")


def _chosen(
    search: Callable[[float], Run], qrels: Mapping[str, Mapping[str, int]], settings: Sequence[float], split: str
) -> tuple[float, dict[str, Any]]:
    scores = {each: evaluate_run(search(each), qrels, (10,))[METRIC] for each in settings}
    return choose(scores, 0.0, split)


@dataclass
class Remembering:
    """What the systems with memory share: the labels, and for each collection the strength and why it was chosen."""

    labels: Labels = field(default_factory=Labels)
    seen: frozenset[str] | None = frozenset()  # documents that the model was trained on; None where that is unknown
    chosen: dict[str, dict[str, Any]] = field(default_factory=dict)

    def strength(self, collection: Collection, search: Callable[[Collection, float], Run], *settings: float) -> float:
        """Return what was chosen for a collection of this name, or choose now."""
        if collection.name not in self.chosen:
            record = NO_DEV
            if (dev := self.labels.dev(collection, seen=self.seen)) is not None:
                record = _chosen(lambda strength: search(dev, strength), dev.qrels, settings, dev.split)[1]
            self.chosen[collection.name] = {"memory": record}
            logger.info("%s: memory %s", collection.name, reason(record))
        return float(self.chosen[collection.name]["memory"]["chosen"])

    def pairs(self, collection: Collection) -> list[tuple[str, str]]:
        """Return the texts of training queries, without those of `collection`, and the ids of their documents."""
        training = self.labels.training(collection)
        if training is None:
            return []
        return [
            (training.queries[query], document)
            for query, judged in training.qrels.items()
            for document, score in judged.items()
            if score > 0 and document in collection.documents
        ]


@dataclass
class MovedDocuments(Remembering, DenseRetriever):
    """A dense system whose documents are moved towards their training queries."""

    name: str = ""
    encoder: Any = None

    @classmethod
    def of(cls, dense: DenseRetriever, labels: Labels, seen: frozenset[str] | None = frozenset()) -> MovedDocuments:
        """Give a system memory."""
        own = {each.name: getattr(dense, each.name) for each in fields(dense)}
        return cls(labels=labels, seen=seen, **{**own, "name": f"{dense.name} (memory)"})

    @once
    def documents(self, collection: Collection) -> NDArray[np.float32]:
        """Return the embeddings of documents after the move."""

        def search(dev: Collection, strength: float) -> Run:
            return self.search(dev, self.embedded(dev, self.moved(dev, strength)), 10)

        return self.moved(collection, self.strength(collection, search, *STRENGTHS))

    def moved(self, collection: Collection, strength: float) -> NDArray[np.float32]:
        """Move by a given strength."""
        documents, pairs = np.asarray(super().documents(collection)[:]), self.pairs(collection)
        if not pairs or strength == 0:
            return documents
        texts = {text: row for row, text in enumerate(dict.fromkeys(text for text, _ in pairs))}
        rows = {name: row for row, name in enumerate(collection.documents)}
        numbered = [(texts[text], rows[document]) for text, document in pairs]
        return move_documents(documents, self.encoder.encode_query(list(texts)), numbered, strength)


@dataclass
class AppendedQueries(Remembering, BM25Retriever):
    """BM25 over documents with their training queries appended, where held-out queries support it."""

    name: str = "bm25 (memory)"
    fingerprint: str = f"{BM25Retriever.fingerprint} appended"

    def texts(self, collection: Collection) -> dict[str, str]:
        """Return the texts of documents that are indexed."""

        def search(dev: Collection, strength: float) -> Run:
            return BM25(self.appended(dev, strength)).run(dev.queries, 10)

        return self.appended(collection, self.strength(collection, search, 0.0, 1.0))

    def appended(self, collection: Collection, strength: float) -> dict[str, str]:
        """Append where the strength is 1."""
        texts = super().texts(collection)
        for query, document in self.pairs(collection) if strength else ():
            texts[document] += f" {query}"
        return texts
