"""An encoder on cached base vectors, and its embeddings of a corpus block by block."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ragcun.batch import Role
from ragcun.embeddings.base import Rows, Vectors, VectorSource
from ragcun.models.encoder import BLOCK, RetrievalEncoder


class CachedEncoder:
    """An encoder whose base vectors come from a cache or store; without an encoder, the untouched base itself."""

    def __init__(self, cache: VectorSource, encoder: RetrievalEncoder | None = None) -> None:
        self.cache = cache
        self.encoder = encoder

    def encode_query(self, texts: Sequence[str]) -> Vectors:
        """Encode queries to ``(n, dim)``."""
        return self.embed(self.cache.encode(texts, "query"), "query")

    def encode_document(self, texts: Sequence[str]) -> Vectors:
        """Encode documents to ``(n, dim)``."""
        return self.embed(self.cache.encode(texts, "document"), "document")

    @property
    def dimension(self) -> int:
        """Length of an embedding."""
        return self.cache.dimension if self.encoder is None else self.encoder.dimension

    def embed(self, vectors: Vectors, role: Role) -> Vectors:
        """Turn base vectors into embeddings."""
        if self.encoder is None:
            return self.cache.base.untouched_array(vectors)
        return self.encoder.embed(vectors, role)


class EmbeddedRows:
    """The embeddings of documents as a matrix that is read by contiguous slices; only base vectors lie on disk.

    Slices are computed in whole blocks of the encoder's size, as products of other shapes differ in their last bits.
    """

    def __init__(self, encoder: CachedEncoder, texts: Sequence[str]) -> None:
        self.encoder = encoder
        self.shape = (len(texts), encoder.dimension)
        self.dtype = np.dtype(np.float32)
        self._rows = encoder.cache.rows(texts, "document")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: slice) -> Vectors:
        start, stop, _ = rows.indices(len(self))
        out = np.empty((max(0, stop - start), self.shape[1]), dtype=np.float32)
        for first in range(start - start % BLOCK, stop, BLOCK):
            block = self.encoder.embed(self.encoder.cache[self._rows[first : first + BLOCK]], "document")
            low, high = max(first, start), min(first + BLOCK, stop)
            out[low - start : high - start] = block[low - first : high - first]
        return out

    def take(self, rows: Rows, axis: int = 0) -> Vectors:
        """Return some rows, as an array does."""
        return self.encoder.embed(self.encoder.cache[self._rows[rows]], "document")
