"""Base, which gives the vectors that heads stand on, and VectorSource, a place that holds them."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from ragcun.errors import InputError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from tqdm.auto import tqdm

    from ragcun.batch import Features, Role
    from ragcun.distance import Distance

Rows = NDArray[np.int64]
Vectors = NDArray[np.float32]
NO_TEXTS = (
    "this head was trained on vectors alone and there is no text model to encode texts with; give vectors "
    "(--vectors DIR, or load_head(folder).embed_queries)"
)


class Base(nn.Module, abc.ABC):
    """Gives the vectors that heads stand on; without a text model, whatever needs one raises InputError.

    `normalize` says whether `forward` scales vectors to length 1, `ends_normalized` whether the untouched base does.
    """

    name: str
    normalize: bool
    ends_normalized: bool = False
    reads_texts: ClassVar[bool] = False

    @property
    @abc.abstractmethod
    def dimension(self) -> int:
        """Length of the vectors."""

    @property
    def distance(self) -> Distance:
        """The distance by which the untouched base's embeddings are compared."""
        return "cosine"

    @property
    def frozen(self) -> bool:
        """Whether no parameter is trained, so that every text need be encoded only once."""
        return not any(parameter.requires_grad for parameter in self.parameters())

    def require_texts(self) -> None:
        """Raise InputError where there is no text model."""
        if not self.reads_texts:
            raise InputError(NO_TEXTS)

    @property
    def text_model(self) -> SentenceTransformer:
        """The sentence-transformers model, without a closing ``Normalize``."""
        raise InputError(NO_TEXTS)

    @property
    def routes_roles(self) -> bool:
        """Whether queries and documents go through different modules."""
        return False

    def prompt(self, role: Role) -> str:
        """Return the text that is put before a query or a document."""
        raise InputError(NO_TEXTS)

    def encode(
        self, texts: list[str], role: Role, batch_size: int = 32, progress: tqdm[Any] | None = None
    ) -> NDArray[np.float32]:
        """Encode texts into vectors ``(len(texts), dimension)``, and count their characters on a progress bar."""
        raise InputError(NO_TEXTS)

    def features(self, texts: list[str], role: Role) -> Features:
        """Tokenise texts into what `forward` takes."""
        raise InputError(NO_TEXTS)

    def checkpoint_activations(self) -> None:
        """Recompute activations in the backward pass instead of keeping them."""
        raise InputError(NO_TEXTS)

    def compute_in(self, dtype: str) -> None:
        """Compute vectors with this dtype from now on, or raise InputError where that is not possible."""
        if dtype != "float32":
            raise InputError(f"--base_dtype {dtype} is of a text model, and {self.name!r} has none; leave it out")

    @abc.abstractmethod
    def freeze(self, whole: bool = True, early_layers: int = 0) -> None:
        """Freeze all of it, or its first layers, or nothing."""

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """Digest of all that decides the vectors."""

    @abc.abstractmethod
    def to_config(self) -> dict[str, Any]:
        """Return what is needed, beside a text model, to make it again."""

    def untouched_array(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the embeddings of the untouched base, from its pooled vectors."""
        return self.finish(torch.from_numpy(np.ascontiguousarray(vectors)), self.ends_normalized).numpy()

    @staticmethod
    def finish(vectors: Float[Tensor, "batch dim"], normalize: bool) -> Float[Tensor, "batch dim"]:
        """Scale rows to length 1 where asked."""
        return nn.functional.normalize(vectors, dim=-1) if normalize else vectors


class Gatherable(Protocol):
    """Rows of float32 that are gathered by index."""

    def __getitem__(self, rows: Rows, /) -> Vectors:
        """Return a copy of these rows."""


class VectorSource(abc.ABC):
    """Base vectors of texts: a cache that encodes what is missing, or a store that holds them all.

    `fingerprint` is a digest of all that decides the vectors.
    """

    base: Base
    dimension: int
    fingerprint: str

    @property
    @abc.abstractmethod
    def vectors(self) -> Gatherable:
        """All rows there are."""

    @abc.abstractmethod
    def rows(self, texts: Sequence[str], role: Role) -> Rows:
        """Return the row of each text."""

    def encode(self, texts: Sequence[str], role: Role) -> Vectors:
        """Return the vectors of texts ``(len(texts), dimension)``."""
        rows = self.rows(texts, role)
        return np.asarray(self.vectors[rows])
