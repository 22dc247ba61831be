"""Systems that rank a collection, and how one is opened: a checkpoint, a model's name, bm25, an earlier result."""

from __future__ import annotations

import functools
import json
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ragcun.config import Distance, Precision
from ragcun.data.beir import Collection
from ragcun.embeddings.analysis import K1, B
from ragcun.embeddings.base import Base, VectorSource
from ragcun.embeddings.cache import vector_source
from ragcun.embeddings.encode import ROWS, cache_folder
from ragcun.embeddings.hub import CONFIG, model_folder
from ragcun.embeddings.precomputed import VectorStore, read_vectors
from ragcun.embeddings.text_base import TextBase
from ragcun.errors import InputError, as_input_error
from ragcun.io import existing_file, file_digest
from ragcun.isotropy.measures import isotropy_score
from ragcun.isotropy.moments import MeasureSettings, sample_rows
from ragcun.isotropy.spectrum import defined
from ragcun.models.cached_encoder import CachedEncoder, EmbeddedRows
from ragcun.models.checkpoint import has_text_model, is_checkpoint
from ragcun.models.encoder import RetrievalEncoder
from ragcun.models.projection import ProjectionEncoder
from ragcun.results import DocumentSpace, Results
from ragcun.retrieval.bm25 import BM25
from ragcun.retrieval.metrics import CUTOFFS, evaluate_run, mean
from ragcun.retrieval.quantization import VectorFormat, restored, truncate
from ragcun.retrieval.runs import Run, StoredRetriever, make_run, runs_folder
from ragcun.retrieval.search import id_order, top_k

Method = TypeVar("Method", bound=Callable[..., Any])


def once(method: Method) -> Method:
    """Make a method of a collection keep what it returns for as long as the collection is in memory."""
    kept: dict[Any, Any] = {}

    @functools.wraps(method)
    def known(self: Any, collection: Collection, *rest: Any, **named: Any) -> Any:
        key = (id(self), id(collection), *rest, *sorted(named.items()))
        if key not in kept:
            kept[key] = method(self, collection, *rest, **named)
            for owner in (self, collection):
                weakref.finalize(owner, kept.pop, key, None).atexit = False
        return kept[key]

    return known  # type: ignore[return-value]


class Retriever(Protocol):
    """A system that ranks a collection's documents for its queries; one with a `fingerprint` is told apart by it."""

    @property
    def name(self) -> str:
        """What tables call it."""

    @property
    def size(self) -> Mapping[str, Any]:
        """The `VectorFormat.record` of its document vectors; empty where there are none or nothing is known."""

    def retrieve(self, collection: Collection, k: int) -> Run:
        """Return up to `k` documents a query, without the query itself (`Collection.own_ids`)."""


class Embedded(NamedTuple):
    """The vectors of queries and documents, and the distance by which they are compared."""

    queries: NDArray[np.float32]
    documents: Any  # an array, or rows that are embedded when they are read
    distance: Distance


@dataclass
class DenseRetriever:
    """Exact search among embeddings under a distance; with `vectors`, among documents as that format stores them."""

    name: str
    encoder: Any
    distance: Distance = "euclidean"
    vectors: VectorFormat | None = None
    changed: str = ""  # how the encoder differs from its checkpoint

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
        return f"{self.encoder.cache.fingerprint} {own}{self.changed} {self.distance} {json.dumps(self.size)}"

    @once
    def retrieve(self, collection: Collection, k: int) -> Run:
        """Encode the collection and search; equal scores rank by id."""
        return self.search(collection, self.embedded(collection), k)

    def embedded(self, collection: Collection, documents: Any = None) -> Embedded:
        """Encode a collection, or its queries where `documents` are given, into what is compared."""
        documents = self.documents(collection) if documents is None else documents
        queries = self.encoder.encode_query(list(collection.queries.values()))
        if (stored := self.vectors) is None or stored.is_full:
            return Embedded(queries, documents, self.distance)
        small = restored(truncate(documents[:], stored.kept), stored.precision)
        return Embedded(truncate(queries, stored.kept), small, stored.compared(self.distance))

    @once
    def documents(self, collection: Collection) -> Any:
        """Return the embeddings of documents, an array or `EmbeddedRows`."""
        texts = [document.content for document in collection.documents.values()]
        cached = isinstance(self.encoder, CachedEncoder)
        return EmbeddedRows(self.encoder, texts) if cached else self.encoder.encode_document(texts)

    def space(self, collection: Collection) -> DocumentSpace | None:
        """Measure the embeddings of a random sample of the documents; None of fewer than two."""
        if len(collection.documents) < 2:
            return None
        # the same rows for all systems and evaluations
        rows = sample_rows(len(collection.documents), MeasureSettings.sample, seed=0)
        vectors = self.documents(collection).take(rows, axis=0).astype(np.float64)
        if self.vectors is not None:
            vectors = vectors[:, : self.vectors.kept]
        norms = np.linalg.norm(vectors, axis=1)
        return DocumentSpace(defined(isotropy_score, vectors), float(norms.mean()), float(norms.std()))

    def search(self, collection: Collection, embedded: Embedded, k: int) -> Run:
        """Search among embedded documents."""
        ids = list(collection.documents)
        found = top_k(*embedded[:2], k + 1, embedded.distance, order=id_order(ids))
        return make_run(list(collection.queries), ids, found.scores, found.indices, k, collection.own_ids)


@dataclass
class BM25Retriever:
    """BM25 over title and text."""

    name: str = "bm25"
    size: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = f"bm25 k1={K1} b={B}"

    @once
    def retrieve(self, collection: Collection, k: int) -> Run:
        """Rank by BM25."""
        return BM25(self.texts(collection)).run(collection.queries, k, collection.own_ids)

    def texts(self, collection: Collection) -> dict[str, str]:
        """Return the texts of documents that are indexed."""
        return {name: document.content for name, document in collection.documents.items()}


class Evaluation(NamedTuple):
    """Rankings of one system on one collection, and its metrics for each judged query and on average."""

    run: Run
    per_query: dict[str, dict[str, float]]
    mean: dict[str, float]


def evaluate_retriever(retriever: Retriever, collection: Collection, cutoffs: Sequence[int] = CUTOFFS) -> Evaluation:
    """Rank as many documents as the largest cut-off asks for, and measure."""
    run = retriever.retrieve(collection, max(cutoffs))
    per_query = evaluate_run(run, collection.qrels, cutoffs)
    return Evaluation(run, per_query, mean(per_query))


@dataclass(frozen=True)
class EncodingOptions:
    """How texts become vectors, and how document vectors are stored."""

    cache_dir: str | None = None  # None takes the default place
    batch_size: int = ROWS
    device: str | None = None  # None takes a GPU where there is one
    precision: Precision = "float32"
    truncate_dim: int | None = None  # None keeps all dimensions
    vectors: VectorStore | None = None  # of texts, for checkpoints without a text model
    base_dtype: str = "float32"
    base_backend: str = "torch"
    use_predictor: bool | None = None  # whether a checkpoint's predictor embeds queries; None as it was trained


@dataclass(frozen=True)
class System:
    """A retriever, its distance, and what it has to be better than."""

    retriever: Retriever
    distance: str
    untouched_base: DenseRetriever | None = None  # of a checkpoint, or a model at full size whose vectors are reduced
    companions: tuple[System, ...] = ()  # where a checkpoint's vectors are reduced, its base reduced in the same way

    @property
    def trained(self) -> bool:
        """Return whether this is a checkpoint, not an untouched model with its vectors reduced."""
        return self.untouched_base is not None and self.untouched_base.name != self.retriever.name


def open_system(spec: str, options: EncodingOptions, distance: Distance | None = None) -> System:
    """Open ``bm25``, a results file of an earlier evaluation, a TREC run, a checkpoint, or any embedding model.

    `distance` overrides the model's own: Euclidean for our checkpoints, else that of the untouched model.

    Raises:
        InputError: there is no such thing, it cannot be read, or it has no vectors of the size asked for.
    """
    if spec == "bm25" or spec.endswith((".json", ".trec")):
        return _without_vectors(spec, options)
    spec = model_folder(spec)
    how: dict[str, Any] = {"device": options.device, "cache": cache_folder(options.cache_dir)}
    encoder = RetrievalEncoder.from_pretrained(spec, **how) if is_checkpoint(spec) else None
    base: Base = TextBase.load(spec, **how) if encoder is None else encoder.base
    cache = _vectors(base, options)
    vectors = VectorFormat((encoder or base).dimension, options.precision, options.truncate_dim)
    own: Distance = base.distance if encoder is None else "euclidean"
    changed = "" if options.use_predictor is None else _query_embedding(encoder, spec, options.use_predictor)
    model = DenseRetriever(spec, CachedEncoder(cache, encoder), distance or own, vectors=vectors, changed=changed)
    compared = vectors.compared(model.distance)
    if encoder is None and vectors.is_full:
        return System(model, compared)
    base, cache = base.untouched, cache.untouched
    if isinstance(base, TextBase) and base.trained:
        with as_input_error("this checkpoint's base was trained and cannot be shown untouched"):
            base = TextBase.load(base.name, **how)
        cache = _vectors(base, options)
    small = VectorFormat(base.dimension, vectors.precision, min(vectors.kept, base.dimension))
    untouched, reduced = (
        DenseRetriever(base.name, CachedEncoder(cache), base.distance, vectors=each)
        for each in (VectorFormat(base.dimension), small)
    )
    is_alone = encoder is None or vectors.is_full or small.is_full
    return System(model, compared, untouched, () if is_alone else (System(reduced, small.compared(base.distance)),))


def given_vectors(
    folder: str, spec: str, collections: Sequence[Collection], others: Mapping[str, Mapping[str, str]] | None = None
) -> VectorStore:
    """Read the vectors of collections for a checkpoint (InputError: they are missing, or it has a text model)."""
    if is_checkpoint(spec) and has_text_model(spec):
        raise InputError(f"--vectors: checkpoint {spec} has a text model; leave the flag out")
    return read_vectors(folder, collections, others=others)


def _query_embedding(encoder: RetrievalEncoder | None, spec: str, predicted: bool) -> str:
    """Let queries be embedded with the predictor, or without; return what changes by that."""
    if not isinstance(encoder, ProjectionEncoder) or encoder.predictor is None:
        what = "is not a checkpoint of ragcun train" if encoder is None else "has no predictor"
        raise InputError(f"--{'' if predicted else 'no_'}use_predictor: {spec} {what}; leave the flag out")
    before, encoder.query_embedding = encoder.query_embedding, "prediction" if predicted else "projection"
    return "" if before == encoder.query_embedding else f" {encoder.query_embedding}"


def _vectors(base: Base, options: EncodingOptions) -> VectorSource:
    if base.reads_texts or options.vectors is None:
        base.compute_in(options.base_dtype, options.base_backend)
    return vector_source(base, options.cache_dir, options.batch_size, None if base.reads_texts else options.vectors)


def _without_vectors(spec: str, options: EncodingOptions) -> System:
    if options.precision != "float32" or options.truncate_dim is not None:
        raise InputError(f"--precision and --truncate_dim change vectors, and {spec} has none; leave them out")
    if spec == "bm25":
        return System(BM25Retriever(), "bm25")
    if spec.endswith(".trec"):
        return System(StoredRetriever(Path(spec).stem, existing_file(spec)), "run")
    results = Results.read(spec)
    model, keys = results.model, ("precision", "truncate_dim", "bytes_per_vector")
    size = {} if model.precision is None else {key: getattr(model, key) for key in keys}
    return System(StoredRetriever(model.name, runs_folder(Path(spec)), size), results.distance)
