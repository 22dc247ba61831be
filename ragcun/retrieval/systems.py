"""From what a user types (a checkpoint, a model's name, bm25, an earlier result) to a system that retrieves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ragcun.distance import Distance
from ragcun.embeddings.base import Base, VectorSource
from ragcun.embeddings.cache import EmbeddingCache
from ragcun.embeddings.encode import ROWS
from ragcun.embeddings.precomputed import VectorStore
from ragcun.embeddings.text_base import TextBase
from ragcun.errors import InputError
from ragcun.models.cached_encoder import CachedEncoder
from ragcun.models.checkpoint import is_checkpoint
from ragcun.models.encoder import RetrievalEncoder
from ragcun.results import Results
from ragcun.retrieval.evaluate import BM25Retriever, DenseRetriever, Retriever, StoredRetriever
from ragcun.retrieval.quantization import Precision, VectorFormat
from ragcun.retrieval.runs import runs_folder


@dataclass(frozen=True)
class EncodingOptions:
    """How texts become vectors: where those of the base are cached, how many at a time at most, on which device.

    And how document vectors are stored: with what precision, and how many of their dimensions (None keeps all). And
    the vectors of texts, for checkpoints without a text model; and in which arithmetic a base computes.
    """

    cache_dir: str | None = None
    batch_size: int = ROWS
    device: str | None = None
    precision: Precision = "float32"
    truncate_dim: int | None = None
    vectors: VectorStore | None = None
    base_dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"--batch_size must be at least 1, got {self.batch_size}; give a larger number")


@dataclass(frozen=True)
class System:
    """A retriever, what it compares by, and what it has to be better than.

    Attributes:
        retriever: what ranks documents.
        distance: what it compares by.
        untouched_base: for a checkpoint of ours, or a model of which vectors are made small, the model as published.
        companions: further rows; where a checkpoint's vectors are made small, its base made small in the same way.
    """

    retriever: Retriever
    distance: str
    untouched_base: DenseRetriever | None = None
    companions: tuple[System, ...] = ()

    @property
    def trained(self) -> bool:
        """Whether this is a checkpoint of ours, and no published model with its vectors made small."""
        return self.untouched_base is not None and self.untouched_base.name != self.retriever.name


def open_system(spec: str, options: EncodingOptions, distance: Distance | None = None) -> System:
    """Open ``bm25``, a results file of an earlier evaluation, a checkpoint folder, or any embedding model.

    Args:
        spec: what the user typed.
        options: how texts are encoded and vectors stored.
        distance: overrides the model's own: Euclidean for our checkpoints, else what the model was published with.

    Raises:
        InputError: there is no such thing, it cannot be read, or it has no vectors of the size asked for.
    """
    if spec == "bm25" or spec.endswith(".json"):
        _require_full_size(spec, options)
        return System(BM25Retriever(), "bm25") if spec == "bm25" else _stored(Path(spec))
    if is_checkpoint(spec):
        encoder = RetrievalEncoder.from_pretrained(spec, options.device)
        cache = _cache(encoder.base, options)
        vectors = VectorFormat(encoder.dimension, options.precision, options.truncate_dim)
        model = _dense(spec, CachedEncoder(cache, encoder), distance or "euclidean", vectors)
        base = _published(encoder.base, options)
        before = cache if base is encoder.base else _cache(base, options)
        return System(model, vectors.compared(model.distance), *_bases(base, before, vectors))
    base = TextBase.load(spec, device=options.device)
    cache = _cache(base, options)
    vectors = VectorFormat(base.dimension, options.precision, options.truncate_dim)
    model = _dense(spec, CachedEncoder(cache), distance or base.distance, vectors)
    untouched = None if vectors.is_full else _bases(base, cache, vectors)[0]
    return System(model, vectors.compared(model.distance), untouched)


def _published(base: Base, options: EncodingOptions) -> Base:
    """Return a base as it was before any training: itself, or where training changed it, the model of its name."""
    if not (isinstance(base, TextBase) and base.trained):
        return base
    try:
        return TextBase.load(base.name, device=options.device)
    except InputError as error:
        raise InputError(f"the base of this checkpoint was trained, and cannot be shown untouched: {error}") from error


def _dense(name: str, encoder: CachedEncoder, distance: Distance, vectors: VectorFormat) -> DenseRetriever:
    return DenseRetriever(name, encoder, distance, vectors=vectors)


def _bases(base: Base, cache: VectorSource, vectors: VectorFormat) -> tuple[DenseRetriever, tuple[System, ...]]:
    """Return a base as published, and made small as the model's `vectors` are; nothing where that is the same.

    A base of fewer dimensions than the model's vectors keep, keeps all it has.
    """
    small = VectorFormat(base.dimension, vectors.precision, min(vectors.kept, base.dimension))
    full = VectorFormat(base.dimension)
    untouched, reduced = (_dense(base.name, CachedEncoder(cache), base.distance, each) for each in (full, small))
    if vectors.is_full or small.is_full:
        return untouched, ()
    return untouched, (System(reduced, small.compared(base.distance)),)


def _require_full_size(spec: str, options: EncodingOptions) -> None:
    if options.precision != "float32" or options.truncate_dim is not None:
        raise InputError(
            f"--precision and --truncate_dim change vectors, and {spec} has none to change; leave them out, or "
            "evaluate a checkpoint or an embedding model"
        )


def _cache(base: Base, options: EncodingOptions) -> VectorSource:
    if options.vectors is not None and not base.reads_texts:
        options.vectors.require_fit(base)
        return options.vectors
    base.compute_in(options.base_dtype)
    return EmbeddingCache(base, options.cache_dir, options.batch_size)


def _stored(path: Path) -> System:
    results = Results.read(path)
    model = results.model
    size = {
        "precision": model.precision,
        "truncate_dim": model.truncate_dim,
        "bytes_per_vector": model.bytes_per_vector,
    }
    size = {} if model.precision is None else size
    return System(StoredRetriever(model.name, runs_folder(path), size), results.distance)
