"""Candidates for exact search in float32, and the bound on how wrong their keys can be.

A key is what candidates are ranked by, higher being better: minus the squared Euclidean distance, the dot product, or
the cosine. Documents that lie far from the origin are centred on their block's mean c before they are multiplied:
‖q − x‖ = ‖(q − c) − (x − c)‖ and q·x = q·(x − c) + q·c. Rounding errors are then relative to the spread of the
documents, not to how far from the origin they all lie. Where the mean is small the errors are, too, and c is 0.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from ragcun.distance import Distance
from ragcun.retrieval.blocks import ROUNDOFF, TINY, Block, norm_bound, row_norms

DOUBLE_ROUNDOFF = 2.0**-53
SAFE_NORMS = (1e-18, 1e18)
CENTRED_FROM = 0.5


@dataclass(frozen=True)
class Documents:
    """A block of documents as an engine multiplies them.

    Attributes:
        vectors: (rows, dim) float32; scaled to unit length for ``cosine``; less the centre.
        centre: (dim,) float32.
        reach: bound on the norms of the rows as given (1 for ``cosine``); infinite where float32 may overflow.
    """

    vectors: NDArray[np.float32]
    centre: NDArray[np.float32]
    reach: float

    @cached_property
    def largest_norm(self) -> float:
        """A bound on the norms of `vectors`."""
        return norm_bound(self.vectors)

    @cached_property
    def squares(self) -> NDArray[np.float32]:
        """Squared norms (rows,) of `vectors`."""
        with np.errstate(over="ignore"):
            return (row_norms(self.vectors) ** 2).astype(np.float32)


@dataclass(frozen=True)
class Queries:
    """Queries as an engine multiplies them.

    Attributes:
        vectors: (rows, dim) float32; scaled to unit length for ``cosine``; less the centre for ``euclidean``.
        norms: (rows,) float64 norms of `vectors`.
        offsets: (rows,) float64, what a query's product with the centre adds to its keys.
        reach: (rows,) float64, norms of the rows as they were given; infinite where float32 may overflow.
    """

    vectors: NDArray[np.float32]
    norms: NDArray[np.float64]
    offsets: NDArray[np.float64]
    reach: NDArray[np.float64]


FindCandidates = Callable[[Queries, int], tuple[NDArray[np.float64], NDArray[np.int64]]]


def centre_documents(distance: Distance, documents: Block) -> Documents:
    """Centre a block of documents on its mean c, where ‖c‖ is at least half of the largest norm."""
    with np.errstate(over="ignore", invalid="ignore"):
        vectors = _unit(documents) if distance == "cosine" else documents.vectors
        reach = _reach(distance, documents.norms).max() if distance == "cosine" else documents.largest_norm
        centre = vectors.mean(axis=0)
        if np.linalg.norm(centre.astype(np.float64)) < CENTRED_FROM * (1 if distance == "cosine" else reach):
            centre = np.zeros_like(centre)
        else:
            vectors = np.subtract(vectors, centre, out=vectors if distance == "cosine" else None)
        return Documents(vectors, centre, float(np.where(reach > SAFE_NORMS[1], np.inf, reach)))


def centre_queries(distance: Distance, queries: Block, centre: NDArray[np.float32]) -> Queries:
    """Express queries relative to a block's centre: q − c for ``euclidean``; q and its product with c otherwise."""
    with np.errstate(over="ignore", invalid="ignore"):
        vectors = _unit(queries) if distance == "cosine" else queries.vectors
        if distance == "euclidean":
            vectors, offsets = vectors - centre, np.zeros(len(vectors))
        else:
            offsets = vectors.astype(np.float64) @ centre.astype(np.float64)
        return Queries(vectors, row_norms(vectors), offsets, _reach(distance, queries.norms))


def faiss_candidates(distance: Distance, documents: Documents) -> FindCandidates:
    """Return a function that finds the best documents of a block by faiss' brute force, without building an index."""
    import faiss

    metric = faiss.METRIC_L2 if distance == "euclidean" else faiss.METRIC_INNER_PRODUCT
    sign = -1.0 if distance == "euclidean" else 1.0

    def find(queries: Queries, count: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        keys, rows = faiss.knn(queries.vectors, documents.vectors, count, metric)
        return sign * keys.astype(np.float64) + queries.offsets[:, None], rows

    return find


def torch_candidates(distance: Distance, documents: Documents, device: str) -> FindCandidates:
    """Return a function that finds the best documents of a block on `device`, Euclidean ones by 2q·x − ‖x‖²."""
    vectors = torch.tensor(documents.vectors, device=device)
    squares = torch.tensor(documents.squares, device=device) if distance == "euclidean" else None

    def find(queries: Queries, count: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        query_vectors = torch.tensor(queries.vectors, device=device)
        with _full_float32(vectors.device.type):
            if squares is not None:
                products = torch.addmm(squares, query_vectors, vectors.T, beta=-1, alpha=2)
            else:
                products = query_vectors @ vectors.T
        best = products.topk(count, dim=1)
        return _finish(distance, queries, best.values.cpu().numpy()), best.indices.cpu().numpy()

    return find


def all_keys(distance: Distance, queries: Queries, documents: Documents) -> NDArray[np.float64]:
    """Keys of every pair in float32, as good as an engine's. Shapes: (q, dim), (n, dim); returns (q, n)."""
    with np.errstate(over="ignore", invalid="ignore"):
        products = queries.vectors @ documents.vectors.T
        if distance == "euclidean":
            products = 2 * products - documents.squares
        return _finish(distance, queries, products)


def key_error_bound(distance: Distance, queries: Queries, documents: Documents) -> NDArray[np.float64]:
    """Bound |key in float32 − key| for each query over the documents of a block; infinite where float32 may overflow.

    A float32 inner product of length d is off by at most d·u‖q‖‖x‖ to first order in u = 2⁻²⁴, whatever the order of
    summation (Higham, Accuracy and Stability of Numerical Algorithms, §3.1); the squared distance by as much with
    (‖q‖ + ‖x‖)² in place of ‖q‖‖x‖. Sixteen more u pay for centring, for adding the norms and for the second order
    (d up to 10⁵), eight for unit lengths; the term with 2⁻¹²⁶ pays for devices that flush subnormal numbers to 0, the
    terms with 2⁻⁵³ for float64 itself.

    Shapes: queries (q, dim), documents (n, dim); returns (q,).
    """
    dim = documents.vectors.shape[1]
    reach = queries.reach + documents.reach
    with np.errstate(over="ignore", invalid="ignore"):
        largest = documents.largest_norm
        scale = (queries.norms + largest) ** 2 if distance == "euclidean" else queries.norms * largest
        error = 1.01 * (dim + 16) * ROUNDOFF * scale + 4 * dim * (TINY * (1 + reach) + DOUBLE_ROUNDOFF * scale)
        if distance != "euclidean":
            error += 4 * dim * DOUBLE_ROUNDOFF * queries.norms * documents.reach
        if distance == "cosine":
            error += 8 * ROUNDOFF
    return np.where(np.isfinite(reach) & np.isfinite(error), error, np.inf)


def largest_score(distance: Distance, keys: NDArray[np.float64], error: NDArray[np.float64]) -> NDArray[np.float32]:
    """Bound from above the scores of pairs whose keys are off by at most `error`, rounded to float32.

    The score is −√(squared distance) for ``euclidean``, else the key itself; NaN where nothing is known.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        keys = keys + error
        scores = -np.sqrt(np.maximum(-keys, 0)) if distance == "euclidean" else keys
        return scores.astype(np.float32)


def _reach(distance: Distance, norms: NDArray[np.float64]) -> NDArray[np.float64]:
    unsafe = norms > SAFE_NORMS[1]
    if distance == "cosine":
        unsafe |= (norms > 0) & (norms < SAFE_NORMS[0])
        return np.where(unsafe, np.inf, 1.0)
    return np.where(unsafe, np.inf, norms)


def _unit(block: Block) -> NDArray[np.float32]:
    inverse = (1 / np.where(block.norms == 0, 1, block.norms)).astype(np.float32)
    return block.vectors * inverse[:, None]


def _finish(distance: Distance, queries: Queries, products: NDArray[np.float32]) -> NDArray[np.float64]:
    keys = products.astype(np.float64)
    return keys - queries.norms[:, None] ** 2 if distance == "euclidean" else keys + queries.offsets[:, None]


@contextlib.contextmanager
def _full_float32(device_type: str) -> Iterator[None]:
    """Multiply in float32 proper: no TF32, no bfloat16, no autocast, whatever the process has chosen elsewhere."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device_type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
