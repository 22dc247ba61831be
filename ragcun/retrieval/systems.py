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
    """How texts become vectors, and how document vectors are stored.

    Attributes:
        cache_dir: where vectors of bases are cached; None takes the default place.
        device: where models compute; None takes a GPU where there is one.
        precision: of stored document vectors.
        truncate_dim: dimensions kept of them; None keeps all.
        vectors: of texts, for checkpoints without a text model.
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
    """A retriever, its distance, and what it has to be better than.

    Attributes:
        untouched_base: the untouched base of a checkpoint, or the model whose vectors are reduced at full size.
        companions: where a checkpoint's vectors are reduced, its base reduced in the same way.
    """

    retriever: Retriever
    distance: str
    untouched_base: DenseRetriever | None = None
    companions: tuple[System, ...] = ()

    @property
    def trained(self) -> bool:
        """Return whether this is a checkpoint, not an untouched model with its vectors reduced."""
        return self.untouched_base is not None and self.untouched_base.name != self.retriever.name


def open_system(spec: str, options: EncodingOptions, distance: Distance | None = None) -> System:
    """Open ``bm25``, a results file of an earlier evaluation, a checkpoint folder, or any embedding model.

    `distance` overrides the model's own: Euclidean for our checkpoints, else that of the untouched model.

    Raises:
        InputError: there is no such thing, it cannot be read, or it has no vectors of the size asked for.
    """
    if spec == "bm25" or spec.endswith(".json"):
        if options.precision != "float32" or options.truncate_dim is not None:
            raise InputError(
                f"--precision and --truncate_dim change vectors, and {spec} has none to change; leave them out, or "
                "evaluate a checkpoint or an embedding model"
            )
        return System(BM25Retriever(), "bm25") if spec == "bm25" else _stored(Path(spec))
    encoder = RetrievalEncoder.from_pretrained(spec, options.device) if is_checkpoint(spec) else None
    base = TextBase.load(spec, device=options.device) if encoder is None else encoder.base
    cache = _cache(base, options)
    vectors = VectorFormat((encoder or base).dimension, options.precision, options.truncate_dim)
    own: Distance = base.distance if encoder is None else "euclidean"
    model = DenseRetriever(spec, CachedEncoder(cache, encoder), distance or own, vectors=vectors)
    compared = vectors.compared(model.distance)
    if encoder is None and vectors.is_full:
        return System(model, compared)
    if isinstance(base, TextBase) and base.trained:
        base = _before_training(base, options)
        cache = _cache(base, options)
    small = VectorFormat(base.dimension, vectors.precision, min(vectors.kept, base.dimension))
    untouched, reduced = (
        DenseRetriever(base.name, CachedEncoder(cache), base.distance, vectors=each)
        for each in (VectorFormat(base.dimension), small)
    )
    is_alone = encoder is None or vectors.is_full or small.is_full
    return System(model, compared, untouched, () if is_alone else (System(reduced, small.compared(base.distance)),))


def _before_training(base: TextBase, options: EncodingOptions) -> Base:
    try:
        return TextBase.load(base.name, device=options.device)
    except InputError as error:
        raise InputError(f"the base of this checkpoint was trained, and cannot be shown untouched: {error}") from error


def _cache(base: Base, options: EncodingOptions) -> VectorSource:
    if options.vectors is not None and not base.reads_texts:
        options.vectors.require_fit(base)
        return options.vectors
    base.compute_in(options.base_dtype)
    return EmbeddingCache(base, options.cache_dir, options.batch_size)


def _stored(path: Path) -> System:
    results = Results.read(path)
    model, keys = results.model, ("precision", "truncate_dim", "bytes_per_vector")
    size = {} if model.precision is None else {key: getattr(model, key) for key in keys}
    return System(StoredRetriever(model.name, runs_folder(path), size), results.distance)
