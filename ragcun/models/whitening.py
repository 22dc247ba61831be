"""Soft whitening: a linear head in closed form, from vectors of the corpus and of queries alone, without training."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ragcun.embeddings.base import Base
from ragcun.models.heads import principal_axes
from ragcun.models.systems import AsymmetricProjectionModel

Vectors = NDArray[np.float64]
EXPONENT = 0.15
TINY = 1e-12
"""Smallest eps, length of a row and total variance."""


@dataclass(frozen=True)
class Calibration:
    """The maps of vectors of length 1, W x of documents and W(x − g) of queries, scaled to length 1.

    `weight` is W, ``(output_dim, dim)``; `query_shift` is g, ``(dim,)``.
    """

    weight: Vectors
    query_shift: Vectors

    def embed_documents(self, vectors: ArrayLike) -> Vectors:
        """Map base vectors ``(n, dim)``, of any length, to embeddings ``(n, output_dim)`` of length 1."""
        return _unit_rows(_unit_rows(_as_matrix(vectors, "vectors")) @ self.weight.T)

    def embed_queries(self, vectors: ArrayLike) -> Vectors:
        """Map base vectors ``(n, dim)``, of any length, to embeddings ``(n, output_dim)`` of length 1."""
        return _unit_rows((_unit_rows(_as_matrix(vectors, "vectors")) - self.query_shift) @ self.weight.T)

    def encoder(self, base: Base | str | Path) -> AsymmetricProjectionModel:
        """Return the same maps as an encoder on a base that normalises its vectors; embeddings have length 1."""
        model = AsymmetricProjectionModel(base, output_dim=len(self.weight), head="linear", normalize_output=True)
        model.start_as(self.weight, self.query_shift)
        return model.to(model.base.text_model.device).eval()


def calibrate(
    document_vectors: ArrayLike,
    query_vectors: ArrayLike | None = None,
    exponent: float = EXPONENT,
    eps: float = 1e-3,
    shrinkage: float = 5,
    output_dim: int | None = None,
    ordered: bool = False,
) -> Calibration:
    """Return the soft whitening of base vectors ``(n, dim)`` of a corpus, and the shift of its queries; in float64.

    With vectors scaled to length 1 and ``C = V Λ Vᵀ`` the documents' covariance, the head is

        W = s · V (Λ + eps)^(−exponent) Vᵀ,

    or, for fewer dimensions or `ordered` ones (of falling variance), ``s · (Λ_k + eps)^(−exponent) V_kᵀ`` of the k
    directions of largest variance; s keeps their variance in sum. Exponent 0 keeps the base, 1/2 whitens. Queries are
    moved by the shrunk gap of the means of n queries and of the documents, ``g = f · n/(n + shrinkage) · (mean_q −
    mean_d)``, f = max(0, 1 − t/(n·‖mean_q − mean_d‖²)), t being the trace of the queries' covariance.

    Source: exponent 1/2 and eps → 0 is the whitening of Su et al. 2021, arXiv:2103.15316, but for the rotation back and
    the mean, which is taken off there; f: James & Stein 1961, positive part, there with (dim − 2)·σ².

    >>> calibrate([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]], [[0.8, -0.6], [1.0, 0.0]]).query_shift.round(3).tolist()
    [0.094, -0.23]
    """
    documents = _as_matrix(document_vectors, "document_vectors")
    dim = documents.shape[1]
    check_settings(exponent, eps, shrinkage, output_dim, dim)
    if len(documents) < 2:
        raise ValueError(f"document_vectors must hold at least 2 vectors, got {len(documents)}")
    documents = _unit_rows(documents)
    weight = _weight(documents, exponent, eps, dim if output_dim is None else output_dim, ordered)
    queries = np.empty((0, dim)) if query_vectors is None else _as_matrix(query_vectors, "query_vectors")
    if queries.shape[1] != dim:
        raise ValueError(f"query_vectors have length {queries.shape[1]}, document_vectors have {dim}")
    return Calibration(weight, _query_shift(_unit_rows(queries), documents, shrinkage))


def _weight(documents: Vectors, exponent: float, eps: float, kept: int, ordered: bool) -> Vectors:
    variances, axes = (tensor.numpy() for tensor in principal_axes(torch.from_numpy(documents)))
    if variances.sum() < TINY:
        raise ValueError("document_vectors are all the same, so they have no covariance to whiten by")
    variances, axes = np.maximum(variances[:kept], 0), axes[:kept]
    scales = ((variances + eps) / (variances[0] + eps)) ** -exponent
    scales *= np.sqrt(variances.sum() / (variances * scales**2).sum())
    weight = scales[:, None] * axes
    if ordered or kept < documents.shape[1]:
        return weight
    return axes.T @ weight if exponent else np.eye(kept)


def check_settings(exponent: float, eps: float, shrinkage: float, output_dim: int | None, dim: int) -> None:
    """Raise ValueError if a setting of `calibrate` is out of range for vectors of length `dim`."""
    if not 0 <= exponent <= 1:
        raise ValueError(f"exponent must be 0 to 1, got {exponent}")
    for name, value, least in (("eps", eps, TINY), ("shrinkage", shrinkage, 0)):
        if not least <= value < inf:
            raise ValueError(f"{name} must be at least {least} and finite, got {value}")
    if output_dim is not None and not 1 <= output_dim <= dim:
        raise ValueError(f"output_dim must be 1 to {dim}, the length of the vectors, got {output_dim}")


def _query_shift(queries: Vectors, documents: Vectors, shrinkage: float) -> Vectors:
    count = len(queries)
    if count == 0:
        return np.zeros(documents.shape[1])
    gap = queries.mean(axis=0) - documents.mean(axis=0)
    sample = queries if count > 1 else documents
    chance, squared = float(sample.var(axis=0, ddof=1).sum()) / count, float(gap @ gap)
    factor = 1 - chance / squared if squared > chance else 0.0
    return factor * count / (count + shrinkage) * gap


def _as_matrix(vectors: ArrayLike, name: str) -> Vectors:
    matrix = np.asarray(vectors, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[1] == 0:
        raise ValueError(f"{name} must have the shape (n, dim), got {matrix.shape}")
    finite = np.isfinite(matrix).all(axis=1)
    if not finite.all():
        raise ValueError(f"{name} must be finite, row {finite.argmin()} is not")
    return matrix


def _unit_rows(rows: Vectors) -> Vectors:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), TINY)
