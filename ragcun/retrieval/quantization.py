"""Small document vectors: fewer dimensions, fewer bits. Queries keep float32, so the search is asymmetric."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from ragcun.config import Distance, Precision
from ragcun.errors import InputError

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
UNIT_TOLERANCE = 1e-3
"""How far a length may be from 1 and still count as 1; encoders in half precision miss it by 5e-4."""


def truncate(embeddings: NDArray[np.float32], dim: int) -> NDArray[np.float32]:
    """Keep the first `dim` dimensions of ``(n, dimension)``, normalised again where all rows had length 1 (or 0)."""
    if dim == embeddings.shape[1]:
        return embeddings
    cut, lengths = np.ascontiguousarray(embeddings[:, :dim]), np.linalg.norm(embeddings, axis=1)
    if not lengths.any() or (np.abs(lengths[lengths > 0] - 1) > UNIT_TOLERANCE).any():
        return cut
    lengths = np.linalg.norm(cut, axis=1, keepdims=True)
    return np.asarray(cut / np.where(lengths == 0, 1, lengths), dtype=np.float32)


@dataclass(frozen=True)
class StoredVectors:
    """Document vectors of `dim` dimensions as an index stores them."""

    codes: NDArray[Any]  # (n, dim) float32 or int8; for binary (n, ⌈dim/8⌉) int8, eight signs a byte
    precision: Precision
    dim: int
    ranges: NDArray[np.float32] | None = None  # for int8, (2, dim): smallest and largest value of each dimension

    def restored(self) -> NDArray[np.float32]:
        """Return the vectors ``(n, dim)`` that queries are compared with.

        int8: the middle of a value's step, so the error is at most half a step; a constant dimension comes back
        exactly. binary: 1 where a value is above 0, else −1; with a float query the dot product is q·sign(d).
        """
        if self.precision == "binary":
            signs = np.unpackbits(self.codes.view(np.uint8) ^ np.uint8(0x80), axis=1, count=self.dim)
            return signs.astype(np.float32) * 2 - 1
        if self.ranges is None:
            return self.codes
        low, high = self.ranges
        return low + (self.codes.astype(np.float32) + np.float32(128.5)) * ((high - low) / np.float32(255))


def store(documents: NDArray[np.float32], precision: Precision) -> StoredVectors:
    """Quantise document vectors ``(n, dim)`` (ValueError: none, or not finite) by sentence-transformers.

    int8 divides each dimension's range among these documents into 255 steps; binary packs eight signs to a byte.
    """
    if precision == "float32":
        return StoredVectors(documents, precision, documents.shape[1])
    if len(documents) == 0 or not np.isfinite(documents).all():
        raise ValueError(f"documents to quantise must be finite and at least 1, got shape {documents.shape}")
    from sentence_transformers.util import quantize_embeddings

    ranges = np.stack([documents.min(axis=0), documents.max(axis=0)]) if precision == "int8" else None
    codes = quantize_embeddings(documents, precision, ranges=ranges)
    return StoredVectors(np.asarray(codes), precision, documents.shape[1], ranges)


@dataclass(frozen=True)
class VectorFormat:
    """How document vectors are stored (InputError: there is no such `truncate_dim`); queries stay float32."""

    dimension: int
    precision: Precision = "float32"
    truncate_dim: int | None = None  # None keeps all

    def __post_init__(self) -> None:
        if not 1 <= self.kept <= self.dimension:
            raise InputError(
                f"--truncate_dim {self.kept} is not possible: the embeddings have {self.dimension} dimensions; "
                f"give 1 to {self.dimension}"
            )

    @property
    def kept(self) -> int:
        """Return how many dimensions are stored."""
        return self.dimension if self.truncate_dim is None else self.truncate_dim

    @property
    def is_full(self) -> bool:
        """Return whether vectors stay as the encoder gives them."""
        return self.kept == self.dimension and self.precision == "float32"

    def compared(self, distance: Distance) -> Distance:
        """Return the distance that is searched by: signs (±1) by dot product, which ranks them as any other does."""
        return "dot" if self.precision == "binary" else distance

    def prepared(
        self, queries: NDArray[np.float32], documents: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return queries and documents as they are compared: both truncated, documents stored and restored."""
        documents = store(truncate(documents, self.kept), self.precision).restored()
        return truncate(queries, self.kept), documents

    def record(self) -> dict[str, Any]:
        """Return what results keep: precision, truncate_dim (None where nothing is cut) and bytes_per_vector.

        The bytes are without the ranges of int8, which are 8·dim bytes for a whole collection.

        >>> [VectorFormat(100, precision).record()["bytes_per_vector"] for precision in PRECISIONS]
        [400, 100, 13]
        """
        cut = None if self.kept == self.dimension else self.kept
        size = {"float32": 4 * self.kept, "int8": self.kept, "binary": -(-self.kept // 8)}[self.precision]
        return {"precision": self.precision, "truncate_dim": cut, "bytes_per_vector": size}
