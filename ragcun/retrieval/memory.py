"""Memory of documents: vectors moved towards their training queries, and texts with these appended for BM25.

It serves questions that were asked before, or ask for the same documents; it says nothing about other documents.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ragcun.data.beir import Collection, hold_out_queries, load_collection
from ragcun.data.overlap import seen_queries, text_hashes
from ragcun.embeddings.precomputed import check_vectors
from ragcun.results import reason
from ragcun.retrieval.bm25 import BM25
from ragcun.retrieval.metrics import choose
from ragcun.retrieval.runs import Run, make_run
from ragcun.retrieval.search import top_k
from ragcun.retrieval.systems import BM25Retriever, DenseRetriever, once
from ragcun.tensors import normalize

logger = logging.getLogger(__name__)
HELD_OUT, MOST, FEWEST = 0.3, 1500, 50
"""Share of the training queries that is held out for choices, at most and at least this many."""
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
        record = choose_strength(documents, queries, rows)
        strength = record["chosen"]
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
) -> dict[str, Any]:
    """Choose the strength that held-out queries support; a record as of `choose`."""
    asked = np.random.default_rng(0).permutation(np.unique(pairs[:, 0]))
    held = asked[: min(MOST, int(HELD_OUT * len(asked)))]
    if len(held) < FEWEST:
        return NO_DEV
    is_held = np.isin(pairs[:, 0], held)
    qrels: dict[str, dict[str, int]] = {}
    for query, document in pairs[is_held].tolist():
        qrels.setdefault(str(query), {})[f"d{document}"] = 1
    ids, names = [f"d{row}" for row in range(len(documents))], [str(query) for query in held.tolist()]

    def search(strength: float) -> Run:
        moved = move_documents(documents, queries, pairs[~is_held], strength)
        found = top_k(queries[held], moved, 10, "cosine")
        return make_run(names, ids, found.scores, found.indices, 10)

    return choose(search, STRENGTHS, qrels, "training (held out)")


@dataclass
class Labels:
    """The training and the dev queries of collections, for memory and for choices; `folders` are by name."""

    folders: Mapping[str, Path] = field(default_factory=dict)

    @once
    def dev(self, collection: Collection, seen: frozenset[str] | None = frozenset()) -> Collection | None:
        """Return the dev queries for a model that was trained on the documents `seen` (None: on unknown ones).

        These are the split ``dev``, else a sample of the training queries without those that have a relevant document
        that the model was trained on; None where there are too few.
        """
        if (dev := self._split(collection, "dev", FEWEST)) is not None:
            return dev
        training = self._split(collection, "train", 1)
        if seen is None or training is None or len(training.qrels) * HELD_OUT < FEWEST:
            return None
        dev = hold_out_queries(training, min(HELD_OUT, MOST / len(training.qrels)), seed=0)[1]
        unseen = dev.of_queries(dev.qrels.keys() - seen_queries(dev, seen)) if seen else dev
        return unseen if not seen or len(unseen.qrels) >= FEWEST else None

    def pairs(self, collection: Collection) -> list[tuple[str, str]]:
        """Return the texts of training queries, without those of `collection`, and the ids of their documents."""
        if (training := self._split(collection, "train", 1)) is None:
            return []
        return [
            (training.queries[query], document)
            for query, judged in training.qrels.items()
            for document, score in judged.items()
            if score > 0 and document in collection.documents
        ]

    def seen(self, collection: Collection) -> frozenset[str]:
        """Return the hashes of the documents that training queries ask for."""
        return text_hashes(collection.documents[document].content for _, document in self.pairs(collection))

    @once
    def _split(self, collection: Collection, split: str, fewest: int) -> Collection | None:
        folder = self.folders.get(collection.name)
        if folder is None or collection.split == split or not (folder / "qrels" / f"{split}.tsv").is_file():
            return None
        found = load_collection(folder, split, collection.documents, collection.drop_own_ids)
        others = replace(found, name=collection.name).of_queries(found.qrels.keys() - collection.qrels.keys())
        return others if len(others.qrels) >= fewest else None


@dataclass
class Remembering:
    """What the systems with memory share: the labels, and for each collection the strength and why it was chosen."""

    strengths: ClassVar[tuple[float, ...]]
    search_with: ClassVar[Callable[..., Run]]  # ranks 10 documents of a collection with memory of a given strength
    labels: Labels = field(default_factory=Labels)
    seen: frozenset[str] | None = frozenset()  # documents that the model was trained on; None where that is unknown
    chosen: dict[str, dict[str, Any]] = field(default_factory=dict)

    def strength(self, collection: Collection) -> float:
        """Return what was chosen for a collection of this name, or choose now."""
        if collection.name not in self.chosen:
            dev, record = self.labels.dev(collection, seen=self.seen), NO_DEV
            if dev is not None:
                record = choose(partial(self.search_with, dev), self.strengths, dev.qrels, dev.split)
            self.chosen[collection.name] = {"memory": record}
            logger.info("%s: memory %s", collection.name, reason(record))
        return float(self.chosen[collection.name]["memory"]["chosen"])


@dataclass
class MovedDocuments(Remembering, DenseRetriever):
    """A dense system whose documents are moved towards their training queries."""

    strengths = STRENGTHS

    @classmethod
    def of(cls, dense: DenseRetriever, labels: Labels, seen: frozenset[str] | None = frozenset()) -> MovedDocuments:
        """Give a system memory."""
        return cls(**{**vars(dense), "name": f"{dense.name} (memory)"}, labels=labels, seen=seen)

    @once
    def documents(self, collection: Collection) -> NDArray[np.float32]:
        """Return the embeddings of documents after the move."""
        return self.moved(collection, self.strength(collection))

    def search_with(self, collection: Collection, strength: float) -> Run:
        """Rank among documents moved by a given strength."""
        return self.search(collection, self.embedded(collection, self.moved(collection, strength)), 10)

    def moved(self, collection: Collection, strength: float) -> NDArray[np.float32]:
        """Move by a given strength."""
        documents, pairs = np.asarray(super().documents(collection)[:]), self.labels.pairs(collection)
        if not pairs or strength == 0:
            return documents
        texts = {text: row for row, text in enumerate(dict.fromkeys(text for text, _ in pairs))}
        rows = {name: row for row, name in enumerate(collection.documents)}
        numbered = [(texts[text], rows[document]) for text, document in pairs]
        return move_documents(documents, self.encoder.encode_query(list(texts)), numbered, strength)


@dataclass
class AppendedQueries(Remembering, BM25Retriever):
    """BM25 over documents with their training queries appended, where held-out queries support it."""

    strengths = (0.0, 1.0)
    name: str = "bm25 (memory)"
    fingerprint: str = f"{BM25Retriever.fingerprint} appended"

    def search_with(self, collection: Collection, strength: float) -> Run:
        """Rank among the texts with queries appended or without."""
        return BM25(self.texts(collection, strength)).run(collection.queries, 10, collection.own_ids)

    def texts(self, collection: Collection, strength: float | None = None) -> dict[str, str]:
        """Return the texts that are indexed; queries are appended where the strength (None: as chosen) is 1."""
        texts, strength = super().texts(collection), self.strength(collection) if strength is None else strength
        for query, document in self.labels.pairs(collection) if strength else ():
            texts[document] += f" {query}"
        return texts
