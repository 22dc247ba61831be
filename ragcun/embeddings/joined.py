"""JoinedBase: dense vectors with a lexical channel beside them, and JoinedSource, which keeps the dense ones cached."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from sklearn.preprocessing import normalize
from torch import Tensor, nn

from ragcun.batch import Features, Role
from ragcun.config import LEXICAL_DIM
from ragcun.embeddings.base import Base, Rows, Vectors, VectorSource
from ragcun.embeddings.cache import EmbeddingCache
from ragcun.embeddings.encode import ROWS
from ragcun.embeddings.lexical import LexicalChannel
from ragcun.embeddings.lexical_export import joined_modules, piece_tokenizer
from ragcun.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from sentence_transformers import SentenceTransformer
    from tqdm.auto import tqdm

    from ragcun.config import Distance, LexicalConfig

logger = logging.getLogger(__name__)

SLOPE, OFFSET, LEAST, MOST = 2.0, 0.15, 0.1, 0.5
"""Of `lexical_weight`, chosen on dev queries of five collections with MiniLM and MPNet: docs/lexical.md."""
WEIGHED = 10_000
"""Documents, evenly spaced, whose dense vectors choose the weight."""
LEXICAL = "lexical"


def lexical_weight(documents: Vectors) -> float:
    """Return the weight a of a channel, without labels: 2 (‖mean of the unit document vectors‖ − 0.15), in [0.1, 0.5].

    The more of their direction documents have in common, the less dense vectors tell them apart.
    """
    shared = float(np.linalg.norm(normalize(documents).mean(axis=0)))
    return min(MOST, max(LEAST, SLOPE * (shared - OFFSET)))


class JoinedBase(Base):
    """A text model and a lexical channel, whose vectors are ``[unit(dense) ; √a · lexical]``.

    Args:
        dense: the text model.
        channel: fitted on the corpus.
        weight: a, the weight of the channel's similarity beside the dense one's.
        normalize: whether `forward` scales the whole vector to length 1.
    """

    reads_texts: ClassVar[bool] = True

    def __init__(self, dense: Base, channel: LexicalChannel, weight: float, normalize: bool = True) -> None:
        if not (weight > 0 and math.isfinite(weight)):
            raise ValueError(f"the channel's weight must be above 0 and finite, got {weight}; or use the base alone")
        super().__init__()
        self.dense, self.channel, self.weight = dense, channel, weight
        self.name, self.normalize = dense.name, normalize

    @property
    def untouched(self) -> Base:
        """The text model without the channel."""
        return self.dense

    @property
    def text_model(self) -> SentenceTransformer:
        """The text model's."""
        return self.dense.text_model

    @property
    def dimension(self) -> int:
        """Length of the vectors."""
        return self.dense.dimension + self.channel.dimension

    @property
    def distance(self) -> Distance:
        """The text model's own distance."""
        return self.dense.distance

    @property
    def routes_roles(self) -> bool:
        """Whether queries and documents go through different modules; here they may have different vectors."""
        return True

    def prompt(self, role: Role) -> str:
        """Return the text that the text model puts before a query or a document."""
        return self.dense.prompt(role)

    def lexical(self, texts: Sequence[str], role: Role) -> Vectors:
        """Return the channel's vectors of texts ``(len(texts), channel.dimension)``; pieces are of prompted texts."""
        prompt = self.prompt(role) if self.channel.pieces else ""
        return self.channel.encode([prompt + text for text in texts] if prompt else texts, role)

    def join(self, dense: Vectors, lexical: Vectors) -> Vectors:
        """Return the joined vectors ``(n, dimension)`` of pooled dense vectors and the channel's."""
        unit = normalize(dense) if len(dense) else dense
        return np.hstack([unit, np.float32(math.sqrt(self.weight)) * lexical])

    def encode(
        self, texts: list[str], role: Role, batch_size: int = ROWS, progress: tqdm[Any] | None = None
    ) -> Vectors:
        """Encode texts into joined vectors ``(len(texts), dimension)``, without gradient."""
        return self.join(self.dense.encode(texts, role, batch_size, progress), self.lexical(texts, role))

    def first_modules(self) -> list[nn.Module]:
        """Return built-in modules of a channel of word pieces, else one module that cannot be saved."""
        if self.channel.pieces:
            return joined_modules(self.dense, self.channel, self.weight)
        return [JoinedModule(self)]

    def features(self, texts: list[str], role: Role) -> Features:
        """Tokenise texts into what `forward` takes, with the channel's vectors beside the tokens."""
        return {**self.dense.features(texts, role), LEXICAL: torch.from_numpy(self.lexical(texts, role))}

    def forward(self, inputs: Float[Tensor, "batch dim"] | Features) -> Float[Tensor, "batch dim"]:
        """Return what the head sees: joined vectors, or texts as `features` gives them, normalised if asked."""
        if isinstance(inputs, Tensor):
            return self.finish(inputs, self.normalize)
        tokens = dict(inputs)
        lexical = tokens.pop(LEXICAL)
        dense = nn.functional.normalize(self.dense(tokens), dim=-1)
        joined = torch.cat([dense, math.sqrt(self.weight) * lexical.to(dense)], dim=-1)
        return self.finish(joined, self.normalize)

    def freeze(self, whole: bool = True, early_layers: int = 0) -> None:
        """Freeze the text model as `TextBase.freeze` does; the channel is never trained."""
        self.dense.freeze(whole, early_layers)

    def checkpoint_activations(self) -> None:
        """Recompute the transformer's activations in the backward pass instead of keeping them."""
        self.dense.checkpoint_activations()

    def compute_in(self, dtype: str) -> None:
        """Compute dense vectors with this dtype from now on."""
        self.dense.compute_in(dtype)

    def fingerprint(self) -> str:
        """Digest of the text model, the channel and its weight."""
        parts = f"{self.dense.fingerprint()} {self.channel.fingerprint()} {self.weight!r}"
        return hashlib.sha256(parts.encode()).hexdigest()

    def to_config(self) -> dict[str, Any]:
        """Return what is needed, beside the text model and the channel's folder, to make it again."""
        return {"dense": self.dense.to_config(), "weight": self.weight, "normalize": self.normalize}


class JoinedModule(nn.Module):
    """A joined base as the first module of a sentence-transformers model, in memory alone."""

    def __init__(self, base: JoinedBase) -> None:
        super().__init__()
        self.base, self.tokenizer = base, base.text_model.tokenizer
        self.max_seq_length, self.modalities = base.text_model.max_seq_length, ["text"]

    def preprocess(self, texts: list[str], prompt: str | None = None, task: Role | None = None, **_: Any) -> Features:
        """Return what `forward` takes; the prompt is that of the task."""
        return self.base.features(list(texts), task or "document")

    def forward(self, features: Features, **_: Any) -> Features:
        """Return the joined vectors as the embeddings of sentences."""
        return {"sentence_embedding": self.base(features)}

    def get_embedding_dimension(self) -> int:
        """Length of the vectors."""
        return self.base.dimension

    def get_config_dict(self) -> dict[str, Any]:
        """Return what decides the vectors, beside weights."""
        return {"channel": self.base.channel.fingerprint(), "weight": self.base.weight}


class JoinedSource(VectorSource):
    """Joined vectors of texts: dense ones from a cache or store, lexical ones made once and kept in memory.

    Raises:
        InputError: `dense` is of another text model than `base`.
    """

    base: JoinedBase

    def __init__(self, dense: VectorSource, base: JoinedBase) -> None:
        if dense.fingerprint != base.dense.fingerprint():
            raise InputError(f"the cached vectors are not those of {base.name!r}; cache those of the joined base's own")
        self.dense, self.base, self.vectors = dense, base, self
        self.dimension, self.fingerprint = base.dimension, base.fingerprint()
        self._row_of: dict[tuple[Role, str], int] = {}
        self._dense_rows = np.empty(0, dtype=np.int64)
        self._lexical = np.empty((0, base.channel.dimension), dtype=np.float32)

    @property
    def untouched(self) -> VectorSource:
        """The dense vectors."""
        return self.dense

    def __getitem__(self, rows: Rows) -> Vectors:
        return self.base.join(np.asarray(self.dense.vectors[self._dense_rows[rows]]), self._lexical[rows])

    def rows(self, texts: Sequence[str], role: Role) -> Rows:
        """Return the row of each text, after encoding those that are not there yet."""
        new = list(dict.fromkeys(text for text in texts if (role, text) not in self._row_of))
        if new:
            self._dense_rows = np.append(self._dense_rows, self.dense.rows(new, role))
            self._lexical = np.vstack([self._lexical, self.base.lexical(new, role)])
            self._row_of.update({(role, text): row for row, text in enumerate(new, len(self._row_of))})
        return np.fromiter((self._row_of[role, text] for text in texts), dtype=np.int64, count=len(texts))


def vector_source(base: Base, cache_dir: str | Path | None = None, batch_size: int = ROWS) -> VectorSource:
    """Return the vectors of a base's texts, dense ones from the cache in `cache_dir` (None: `default_cache_dir`)."""
    if isinstance(base, JoinedBase):
        return JoinedSource(EmbeddingCache(base.dense, cache_dir, batch_size), base)
    return EmbeddingCache(base, cache_dir, batch_size)


def fit_channel(
    dense: VectorSource, documents: Sequence[str], settings: LexicalConfig, channel: LexicalChannel | None = None
) -> tuple[LexicalChannel, float]:
    """Return a channel of documents (the one given, if any) and its weight beside the dense vectors of a text model."""
    base: Any = dense.base
    if channel is None:
        dim, terms = settings.lexical_dim or LEXICAL_DIM, settings.lexical_terms
        tokenizer = piece_tokenizer(base) if terms == "pieces" else None
        prompts = [base.prompt("query"), base.prompt("document")]
        channel = LexicalChannel.fit(
            documents, dim, terms, settings.lexical_language, tokenizer=tokenizer, prompts=prompts
        )
    weight = settings.lexical_weight
    if weight is None:
        weight = lexical_weight(dense.encode(documents[:: -(-len(documents) // WEIGHED)], "document"))
        logger.info("weight of the lexical channel: %.2f, chosen from the documents", weight)
    return channel, weight
