"""Groups of flags that several commands share: the model, the collections, encoding, and mining hard negatives."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from ragcun.config import (
    BASE_BACKEND_HELP,
    BASE_BACKENDS,
    BASE_DTYPE_HELP,
    BASE_DTYPES,
    CACHE_HELP,
    DEVICE_HELP,
    Fusion,
)
from ragcun.errors import InputError, as_input_error
from ragcun.options import flag

if TYPE_CHECKING:
    from ragcun.data.beir_sets import CollectionFolder
    from ragcun.data.prepare import Miner
    from ragcun.retrieval.systems import EncodingOptions


@dataclass
class ModelFlags:
    """The model that a command is about: a checkpoint or a published model."""

    title: ClassVar[str] = "model"
    model_path: str | None = flag(None, "checkpoint folder; its untouched base is measured beside it")
    model: str | None = flag(None, "or a model: hub name, folder, minilm or contriever; for evaluate also bm25")

    @property
    def spec(self) -> str:
        """What names the model."""
        return self.model_path or self.model or ""

    def require_embeddings(self) -> None:
        """Refuse BM25 and results of an earlier evaluation, which have no embeddings."""
        if self.spec == "bm25" or self.spec.endswith(".json"):
            raise InputError(f"{self.spec} has no embeddings; name a checkpoint or an embedding model")


@dataclass
class SetFlags:
    """BEIR sets by name, where they lie, and where they are downloaded from."""

    title: ClassVar[str] = "data"
    datasets: tuple[str, ...] = flag(("all",), "folders in --data_dir, sets of BEIR, quick (5 small sets), or all")
    data_dir: str = flag("data", "folder of BEIR collections")
    mirror: str | None = flag(None, "download NAME.zip from (default: $RAGCUN_BEIR_MIRROR, or the hub)", metavar="URL")


@dataclass
class CollectionFlags(SetFlags):
    """Collections that a command reads, downloaded where that is asked for."""

    split: str | None = flag(None, "qrels to use (default: test; dev of msmarco, as in BEIR)")
    download: bool = flag(False, "download sets that are not in --data_dir; with all, every downloadable set")

    def collections(self) -> list[CollectionFolder]:
        """Return where the collections lie, after downloading missing ones where that is asked for."""
        from ragcun.data.beir_sets import find_sets

        return find_sets(self.data_dir, self.datasets, self.split, self.download or bool(self.mirror), self.mirror)


@dataclass
class RankedFlags(CollectionFlags):
    """Collections whose documents are ranked."""

    drop_own_ids: bool = flag(False, "do not rank a document of the query's id, even if it is not the query (as BEIR)")

    def collections(self) -> list[CollectionFolder]:
        """Return where the collections lie, each with the rule for documents of a query's id."""
        return [replace(each, drop_own_ids=self.drop_own_ids) for each in super().collections()]


@dataclass
class HybridFlags:
    """What a ranking is fused with, and how."""

    title: ClassVar[str] = "hybrid search"
    hybrid: tuple[str, ...] = flag((), "fuse with the rankings of bm25, models, results files or TREC runs (.trec)")
    hybrid_weight: float | None = flag(
        None,
        "weight of these rankings, 0 to 1 (default: evaluate chooses, else 0.3; trained on labels: 0.1)",
        at_least=0,
        at_most=1,
    )
    fusion: Fusion = flag("minmax", "how each query's scores are scaled; rrf uses ranks instead", choices=Fusion)
    feedback: int | None = flag(
        None,
        "top documents that move the query vector; 0 is off (default: evaluate chooses, else 2; search: 0)",
        at_least=0,
    )
    feedback_weight: float | None = flag(
        None, "weight of these documents in the query (default: evaluate chooses, else 0.3)", at_least=0, at_most=1
    )

    def require_hybrid(self) -> None:
        """Refuse flags of a fusion where nothing is fused."""
        for name in ("hybrid_weight", "fusion", "feedback", "feedback_weight"):
            if not self.hybrid and getattr(self, name) not in (None, "minmax"):
                raise InputError(f"--{name} needs --hybrid; add it with what to fuse, such as --hybrid bm25")


@dataclass
class ComputeFlags:
    """How texts become vectors."""

    title: ClassVar[str] = "encoding"
    batch_size: int = flag(1024, "maximum batch size (smaller for long texts)", at_least=1)
    base_dtype: str = flag("float32", BASE_DTYPE_HELP, choices=BASE_DTYPES)
    base_backend: str = flag("torch", BASE_BACKEND_HELP, choices=BASE_BACKENDS)
    device: str | None = flag(None, DEVICE_HELP)

    def encoding(self) -> EncodingOptions:
        """Return how systems encode (InputError: there is no such device, even if nothing is encoded)."""
        from ragcun.embeddings.encode import resolve_device
        from ragcun.retrieval.systems import EncodingOptions

        how = {name: getattr(self, name) for name in ("batch_size", "base_dtype", "base_backend")}
        return EncodingOptions(device=resolve_device(self.device), **how)


@dataclass
class EncodingFlags(ComputeFlags):
    """How texts become vectors, and where these are cached."""

    cache_dir: str | None = flag(None, CACHE_HELP)

    def encoding(self) -> EncodingOptions:
        """Return how systems encode, with the cache."""
        return replace(super().encoding(), cache_dir=self.cache_dir)


@dataclass
class MiningFlags:
    """How hard negatives are mined."""

    title: ClassVar[str] = "hard negatives"
    negatives_per_query: int = flag(1, "negatives per pair, one row each", at_least=1)
    negative_ranks: tuple[int, int] = flag(
        (0, 100), "bm25, dense: ranks A to B - 1, without known positives", at_least=0
    )
    negative_margin: str = flag(
        "auto",
        "bm25, dense: keep candidates up to (1 - X) of the positive's score; auto: 0.05 dense, 0 bm25; none: all",
        metavar="{X,auto,none}",
    )
    negative_choice: str = flag("drawn", "bm25, dense: draw, or take the hardest", choices="retrieval.negatives:Choice")
    base_model: str = flag("minilm", "dense: ranking model; hub name, folder or minilm")
    cache_dir: str | None = flag(None, f"dense: {CACHE_HELP}")
    device: str | None = flag(None, f"dense: {DEVICE_HELP}")

    def miner(self, method: str, seed: int) -> Miner:
        """Return what adds negatives to pairs; ranks or a margin that are not possible raise `InputError`."""
        from ragcun.embeddings.cache import EmbeddingCache
        from ragcun.embeddings.text_base import TextBase
        from ragcun.models.cached_encoder import CachedEncoder
        from ragcun.retrieval.negatives import MiningSettings, mine_negatives

        words, word = {"auto": None, "none": -math.inf}, self.negative_margin.lower()
        with as_input_error("negatives cannot be mined"):
            margin = words[word] if word in words else float(word)
            chosen: Any = (method, self.negatives_per_query, *self.negative_ranks, margin, self.negative_choice, seed)
            settings = MiningSettings(*chosen)
        encoder = None
        if method == "dense":
            encoder = CachedEncoder(EmbeddingCache(TextBase.load(self.base_model, device=self.device), self.cache_dir))
        return functools.partial(mine_negatives, settings=settings, encoder=encoder)
