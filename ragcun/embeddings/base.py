"""What an encoder asks of its base, and what training and evaluation ask of a place that holds base vectors."""

from __future__ import annotations

import abc
import contextlib
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

    from ragcun.batch import Features, Role
    from ragcun.distance import Distance

Rows = NDArray[np.int64]
Vectors = NDArray[np.float32]


class Base(nn.Module, abc.ABC):
    """What an encoder's heads stand on: something that gives a vector of `dimension` numbers for a text.

    Attributes:
        name: what the user called it.
        normalize: whether `forward` scales vectors to length 1.
        ends_normalized: whether the vectors untouched have length 1.
        reads_texts: whether it can encode texts itself.
    """

    name: str
    normalize: bool
    ends_normalized: bool
    reads_texts: ClassVar[bool] = True

    @property
    @abc.abstractmethod
    def dimension(self) -> int:
        """Length of the vectors."""

    @property
    @abc.abstractmethod
    def distance(self) -> Distance:
        """The distance by which the vectors untouched are compared."""

    @property
    @abc.abstractmethod
    def frozen(self) -> bool:
        """Whether nothing of it is trained."""

    @property
    @abc.abstractmethod
    def text_model(self) -> SentenceTransformer:
        """The sentence-transformers model that encodes texts."""

    @abc.abstractmethod
    def require_texts(self) -> None:
        """Raise InputError where it cannot encode texts."""

    @property
    @abc.abstractmethod
    def routes_roles(self) -> bool:
        """Whether queries and documents take different ways through the model."""

    @abc.abstractmethod
    def prompt(self, role: Role) -> str:
        """Return the text that is put before a query or a document."""

    @abc.abstractmethod
    def encode(
        self, texts: list[str], role: Role, batch_size: int = 32, show_progress_bar: bool = False
    ) -> NDArray[np.float32]:
        """Encode texts into vectors ``(len(texts), dimension)``."""

    def compute_in(self, dtype: str) -> None:
        """Compute vectors in this arithmetic from now on.

        Raises:
            InputError: it is not possible.
        """
        if dtype != "float32":
            raise InputError(f"--base_dtype {dtype} is of a text model, and {self.name!r} has none; leave it out")

    def token_bar(self, texts: Sequence[str], role: Role) -> contextlib.AbstractContextManager[None]:
        """Show how far `encode` is with these texts, in however many calls; nothing where none are encoded."""
        return contextlib.nullcontext()

    @abc.abstractmethod
    def features(self, texts: list[str], role: Role) -> Features:
        """Tokenise texts into what `forward` takes."""

    @abc.abstractmethod
    def freeze(self, whole: bool = True, early_layers: int = 0) -> None:
        """Freeze all of it, or a part, or nothing."""

    @abc.abstractmethod
    def checkpoint_activations(self) -> None:
        """Recompute activations in the backward pass instead of keeping them."""

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """Digest of all that decides the vectors."""

    @abc.abstractmethod
    def to_config(self) -> dict[str, Any]:
        """Return what is needed, beside a text model, to make it again."""

    def untouched(self, vectors: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """Return the embeddings of the base as published, from its pooled vectors."""
        return self.finish(vectors, self.ends_normalized)

    def untouched_array(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return `untouched` of a numpy array."""
        return self.untouched(torch.from_numpy(np.ascontiguousarray(vectors))).numpy()

    @staticmethod
    def finish(vectors: Float[Tensor, "batch dim"], normalize: bool) -> Float[Tensor, "batch dim"]:
        """Scale rows to length 1 where asked."""
        return nn.functional.normalize(vectors, dim=-1) if normalize else vectors


class Gatherable(Protocol):
    """Rows of float32 that are gathered by index."""

    def __getitem__(self, rows: Rows, /) -> Vectors:
        """Return a copy of these rows."""


class VectorSource(Protocol):
    """Where base vectors of texts come from: a cache that encodes what is missing, or a store that has them all."""

    @property
    def base(self) -> Base:
        """The base whose vectors these are."""

    @property
    def dimension(self) -> int:
        """Length of the vectors."""

    @property
    def fingerprint(self) -> str:
        """Digest of what decides the vectors."""

    @property
    def vectors(self) -> Gatherable:
        """All rows there are."""

    def rows(self, texts: Sequence[str], role: Role) -> Rows:
        """Return the row of each text."""

    def encode(self, texts: Sequence[str], role: Role) -> Vectors:
        """Return the vectors of texts ``(len(texts), dimension)``."""
