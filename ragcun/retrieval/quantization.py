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


def restored(documents: NDArray[np.float32], precision: Precision) -> NDArray[np.float32]:
    """Return document vectors ``(n, dim)`` as an index of this precision restores them to compare them with queries.

    int8 divides each dimension's range among these documents into 255 steps and restores the middle of a value's step,
    so the error is at most half a step; a constant dimension comes back exactly. binary restores 1 where a value is
    above 0, else −1; with a float query the dot product is q·sign(d).

    Raises:
        ValueError: there are no documents to quantise, or they are not finite.
    """
    if precision == "float32":
        return documents
    if len(documents) == 0 or not np.isfinite(documents).all():
        raise ValueError(f"documents to quantise must be finite and at least 1, got shape {documents.shape}")
    if precision == "binary":
        return np.where(documents > 0, np.float32(1), np.float32(-1))
    low, high = documents.min(axis=0), documents.max(axis=0)
    step = (high - low) / np.float32(255)
    codes = np.floor((documents - low) / np.where(step == 0, np.float32(1), step)).clip(0, 255)
    return low + (codes + np.float32(0.5)) * step


@dataclass(frozen=True)
class VectorFormat:
    """How document vectors are stored (InputError: there is no such `truncate_dim`); queries stay float32."""

    dimension: int
    precision: Precision = "float32"
    truncate_dim: int | None = None  # None keeps all

    def __post_init__(self) -> None:
        if not 1 <= self.kept <= self.dimension:
            problem = f"the embeddings have {self.dimension} dimensions; give 1 to {self.dimension}"
            raise InputError(f"--truncate_dim {self.kept} is not possible: {problem}")

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

    def record(self) -> dict[str, Any]:
        """Return what results keep: precision, truncate_dim (None where nothing is cut) and bytes_per_vector.

        The bytes are without the ranges of int8, which are 8·dim bytes for a whole collection.

        >>> [VectorFormat(100, precision).record()["bytes_per_vector"] for precision in PRECISIONS]
        [400, 100, 13]
        """
        cut = None if self.kept == self.dimension else self.kept
        size = {"float32": 4 * self.kept, "int8": self.kept, "binary": -(-self.kept // 8)}[self.precision]
        return {"precision": self.precision, "truncate_dim": cut, "bytes_per_vector": size}
