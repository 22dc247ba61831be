"""One system on one collection: retrieve, and measure every judged query."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ragcun.data.beir import Collection
from ragcun.distance import Distance
from ragcun.io import file_digest, read_json
from ragcun.models.cached_encoder import CachedEncoder, document_rows
from ragcun.models.checkpoint import CONFIG, is_checkpoint
from ragcun.retrieval.bm25 import K1, B, bm25_run
from ragcun.retrieval.metrics import evaluate_run, mean
from ragcun.retrieval.quantization import VectorFormat
from ragcun.retrieval.runs import Run, make_run, read_run
from ragcun.retrieval.search import id_order, top_k

CUTOFFS = (1, 3, 5, 10, 100)


class TextEncoder(Protocol):
    """What turns texts into embeddings: our encoders, cached ones, and sentence-transformers models."""

    def encode_query(self, texts: list[str]) -> NDArray[np.float32]:
        """Encode queries to ``(n, dim)``."""

    def encode_document(self, texts: list[str]) -> NDArray[np.float32]:
        """Encode documents to ``(n, dim)``."""


class Retriever(Protocol):
    """A system that ranks a collection's documents for its queries."""

    name: str

    @property
    def size(self) -> Mapping[str, Any]:
        """The `VectorFormat.record` of its document vectors; empty where there are none or nothing is known."""

    def retrieve(self, collection: Collection, k: int) -> Run:
        """Return up to `k` documents a query, without a document of the query's own id (as BEIR does)."""


@dataclass
class DenseRetriever:
    """Exact search among embeddings under a distance; with `vectors`, among documents as that format stores them."""

    name: str
    encoder: Any
    distance: Distance = "euclidean"
    memory_budget_bytes: int = 1 << 30
    vectors: VectorFormat | None = None

    @property
    def size(self) -> Mapping[str, Any]:
        """Return the record of `vectors`."""
        return {} if self.vectors is None else self.vectors.record()

    @property
    def fingerprint(self) -> str:
        """Return a digest of the base and, of a checkpoint, of the file with the checksums of all others."""
        if not isinstance(self.encoder, CachedEncoder):
            return f"{type(self).__name__} {self.name} {json.dumps(self.size)}"
        own = file_digest(Path(self.name) / CONFIG) if is_checkpoint(self.name) else ""
        return f"{self.encoder.cache.fingerprint} {own} {self.distance} {json.dumps(self.size)}"

    def retrieve(self, collection: Collection, k: int) -> Run:
        """Encode the collection and search; equal scores rank by id."""
        documents = document_rows(self.encoder, [document.content for document in collection.documents.values()])
        queries = self.encoder.encode_query(list(collection.queries.values()))
        distance = self.distance
        if self.vectors is not None and not self.vectors.is_full:
            queries, documents = self.vectors.prepared(queries, documents[:])
            distance = self.vectors.compared(distance)
        ids = list(collection.documents)
        found = top_k(queries, documents, k + 1, distance, self.memory_budget_bytes, order=id_order(ids))
        return make_run(list(collection.queries), ids, found.scores, found.indices, k)


@dataclass
class BM25Retriever:
    """BM25 over title and text."""

    name: str = "bm25"
    size: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Return the parameters."""
        return f"bm25 k1={K1} b={B}"

    def retrieve(self, collection: Collection, k: int) -> Run:
        """Rank by BM25."""
        texts = {name: document.content for name, document in collection.documents.items()}
        return bm25_run(texts, collection.queries, k)


@dataclass
class StoredRetriever:
    """The rankings of an earlier evaluation, read from its TREC run files."""

    name: str
    folder: Path
    size: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Return what the earlier evaluation recorded of its model."""
        manifest = read_json(self.folder.with_suffix(".json")).get("manifest") or {}
        recorded = (manifest.get("settings") or {}).get("system model", "")
        return f"earlier evaluation of {self.name} {recorded} {json.dumps(self.size)}"

    def retrieve(self, collection: Collection, k: int) -> Run:
        """Read the run of this collection."""
        return read_run(self.folder / collection.name / "model.trec")


@dataclass(frozen=True)
class Evaluation:
    """Rankings of one system on one collection, and its metrics for each judged query and on average."""

    run: Run
    per_query: Mapping[str, Mapping[str, float]]
    mean: Mapping[str, float]


def evaluate_retriever(retriever: Retriever, collection: Collection, cutoffs: Sequence[int] = CUTOFFS) -> Evaluation:
    """Rank as many documents as the largest cut-off asks for, and measure."""
    run = retriever.retrieve(collection, max(cutoffs))
    per_query = evaluate_run(run, collection.qrels, cutoffs)
    return Evaluation(run, per_query, mean(per_query))
