"""From what a user types (a checkpoint, a model's name, bm25, an earlier result) to a system that retrieves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ragcun.distance import Distance
from ragcun.errors import InputError
from ragcun.files import read_json
from ragcun.models.base import TextBase
from ragcun.models.cache import CachedEncoder, EmbeddingCache
from ragcun.models.encoder import RetrievalEncoder
from ragcun.models.folder import is_checkpoint
from ragcun.retrieval.evaluate import BM25Retriever, DenseRetriever, Retriever, StoredRetriever


@dataclass(frozen=True)
class EncodingOptions:
    """How texts are encoded: where vectors are cached, how many texts at a time, on which device."""

    cache_dir: str | None = None
    batch_size: int = 32
    device: str | None = None


@dataclass(frozen=True)
class System:
    """A retriever and, for a checkpoint of ours, its untouched base as a retriever of its own."""

    retriever: Retriever
    distance: str
    untouched_base: DenseRetriever | None = None


def open_system(spec: str, options: EncodingOptions, distance: Distance | None = None) -> System:
    """Open ``bm25``, a results file of an earlier evaluation, a checkpoint folder, or any embedding model.

    Args:
        spec: what the user typed.
        options: how texts are encoded.
        distance: overrides the model's own: Euclidean for our checkpoints, else what the model was published with.

    Raises:
        InputError: there is no such thing, or it cannot be read.
    """
    if spec == "bm25":
        return System(BM25Retriever(), "bm25")
    if spec.endswith(".json"):
        return _stored(Path(spec))
    if is_checkpoint(spec):
        encoder = RetrievalEncoder.from_pretrained(spec, options.device)
        base, cache = encoder.base, _cache(encoder.base, options)
        chosen = distance or "euclidean"
        untouched = DenseRetriever(base.name, CachedEncoder(cache), base.distance)
        return System(DenseRetriever(spec, CachedEncoder(cache, encoder), chosen), chosen, untouched)
    base = TextBase.load(spec, device=options.device)
    chosen = distance or base.distance
    return System(DenseRetriever(spec, CachedEncoder(_cache(base, options)), chosen), chosen)


def _cache(base: TextBase, options: EncodingOptions) -> EmbeddingCache:
    return EmbeddingCache(base, options.cache_dir, options.batch_size)


def _stored(path: Path) -> System:
    results = read_json(path)
    if not isinstance(results, dict) or "model" not in results or "datasets" not in results:
        raise InputError(f"{path} is not a results file of evaluate_beir.py; give one, a folder, a model name, or bm25")
    return System(StoredRetriever(str(results["model"]), runs_folder(path)), str(results.get("distance")))


def runs_folder(output_file: Path) -> Path:
    """Return the folder beside a results file that holds its run files and per-query values."""
    return output_file.with_suffix(".runs")
