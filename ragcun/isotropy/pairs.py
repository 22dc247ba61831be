"""Distributions of distances, and what judged pairs of queries and documents show: gap, alignment, a plane."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ragcun.isotropy.moments import GroupedMoments, MeasureSettings, Moments, Rows, random_groups, squared_gaps
from ragcun.isotropy.spectrum import Measure, interval, join
from ragcun.results import Count, Number

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
BINS = 40
LEAST_RELATIVE_WIDTH = 1e-6
SHOWN_QUERIES = 60
SHOWN_DOCUMENTS = 3
Pairs = NDArray[np.int64]


@dataclass(frozen=True)
class Distribution:
    """Population standard deviation, quantiles by share (``"0.5"``) and a histogram of 40 equal bins of values."""

    n: Count
    mean: Number
    std: Number
    min: Number
    max: Number
    quantiles: dict[str, Number]
    edges: list[Number]
    counts: list[Count]

    def __post_init__(self) -> None:
        if len(self.edges) != len(self.counts) + 1:
            raise ValueError(f"has {len(self.edges)} edges for {len(self.counts)} counts, one more is expected")


def distribution(values: ArrayLike) -> Distribution:
    """Describe at least one finite value ``(n,)``; bins go from the smallest to the largest.

    Around (nearly) equal values they reach 5 % of their size to either side, and 0.5 around 0, so that edges increase.
    """
    array = np.asarray(values, dtype=np.float64)
    low, high = float(array.min()), float(array.max())
    size = max(abs(low), abs(high))
    half = (size / 20 or 0.5) if high - low <= LEAST_RELATIVE_WIDTH * size else 0
    counts, edges = np.histogram(array, bins=BINS, range=(low - half, high + half))
    quantiles = dict(zip(map(str, QUANTILES), np.quantile(array, QUANTILES).tolist(), strict=True))
    mean = min(max(float(array.mean()), low), high)
    std = float((array - low).std())
    return Distribution(len(array), mean, std, low, high, quantiles, edges.tolist(), counts.tolist())


def random_pairs(n: int, size: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw `size` pairs of different ones of `n` rows, with replacement of pairs; all pairs where there are no more."""
    if n * (n - 1) // 2 <= size:
        left, right = np.triu_indices(n, 1)
        return left, right
    generator = np.random.default_rng(seed)
    left = generator.integers(0, n, size)
    return left, (left + generator.integers(1, n, size)) % n


def distances_of(x: Rows, y: Rows, left: NDArray[np.int64], right: NDArray[np.int64]) -> Distribution:
    """Describe the Euclidean distances of rows `left` of `x` to rows `right` of `y`."""
    return distribution(np.sqrt(squared_gaps(x, y, left, right)))


@dataclass(frozen=True)
class Plane:
    """Queries and documents in a plane; ValueError where a link names a row that is not there."""

    queries: list[list[Number]]
    documents: list[list[Number]]
    links: list[list[Count]]  # place of a query and of a document relevant to it
    explained: list[Number]  # share of the documents' variance along either axis

    def __post_init__(self) -> None:
        widths = {len(self.explained), *map(len, self.queries), *map(len, self.documents), *map(len, self.links)}
        if widths != {2}:
            raise ValueError("has a row without exactly 2 numbers")
        if any(query >= len(self.queries) or document >= len(self.documents) for query, document in self.links):
            raise ValueError("links a row that does not exist")


@dataclass(frozen=True)
class PairsReport:
    """What was measured of queries and their relevant documents; the fields are those of ``isotropy.json``."""

    measures: dict[str, Measure]  # gap, relative_gap and alignment
    distances: dict[str, Distribution]  # Euclidean, of a query to a document: relevant and random
    pca: Plane  # some of both, in the plane of the documents' two largest variances


def gaps(queries: Moments, documents: Moments) -> dict[str, float | None]:
    """‖mean q − mean d‖, and its square over the sum of the total variances (None where that is 0)."""
    gap = float(np.linalg.norm(queries.mean - documents.mean))
    within = sum(float(side.scatter.trace()) / (side.count - 1) for side in (queries, documents))
    return {"gap": gap, "relative_gap": gap**2 / within if within else None}


def measure_pairs(
    queries: GroupedMoments, documents: GroupedMoments, pairs: ArrayLike, settings: MeasureSettings
) -> PairsReport:
    """Measure queries against documents and those relevant to them: `pairs` (m, 2) of a query's and a document's row.

    The interval of the gaps leaves out groups of queries and of documents, that of alignment groups of queries.

    Raises:
        ValueError: no pairs, another shape, or a row that is not there.
    """
    q, d = queries.rows, documents.rows
    relevant = checked_pairs(pairs, "pairs", len(q), len(d))
    generator = np.random.default_rng(settings.seed)
    size = min(settings.sample, len(q) * len(d))
    drawn = np.stack([generator.integers(0, len(rows), size) for rows in (q, d)])
    places = {"relevant": relevant.T, "random": drawn}
    distances = {name: distances_of(q, d, *rows) for name, rows in places.items()}
    left_queries = [gaps(one, documents.total) for one in queries.without_each()]
    left_documents = [gaps(queries.total, one) for one in documents.without_each()]
    whole = gaps(queries.total, documents.total)
    measures = join(whole, [left_queries, left_documents], len(q) + len(d), {})
    measures["alignment"] = _alignment(q, d, relevant, settings)
    return PairsReport(measures, distances, _plane(q, d, relevant, documents.total, generator))


def checked_pairs(pairs: ArrayLike, name: str, queries: int, documents: int) -> Pairs:
    """Return pairs of the rows of a query and a document ``(m, 2)``; ValueError: there are none, or a row is not."""
    array = np.asarray(pairs)
    if array.ndim != 2 or array.shape[1] != 2 or not len(array) or array.dtype.kind not in "iu":
        raise ValueError(f"{name} must be pairs of integers (query, document), got {array.dtype} {array.shape}")
    wrong = ((array < 0) | (array >= (queries, documents))).any(axis=1)
    if wrong.any():
        ours, row = f"{queries} queries and {documents} documents", int(np.argmax(wrong))
        raise ValueError(f"{name} must index {ours}, pair {row} is {array[row].tolist()}")
    return array.astype(np.int64)


def _alignment(queries: Rows, documents: Rows, pairs: Pairs, settings: MeasureSettings) -> Measure:
    values = squared_gaps(queries, documents, pairs[:, 0], pairs[:, 1], unit=True)
    _, query_of = np.unique(pairs[:, 0], return_inverse=True)
    group_of = random_groups(int(query_of.max()) + 1, settings.groups, settings.seed)[query_of]
    sums, counts = np.bincount(group_of, values), np.bincount(group_of)
    left = (sums.sum() - sums) / (len(values) - counts) if len(counts) > 1 else np.empty(0)
    value = float(values.mean())
    return Measure(value, *interval(value, left.tolist()), len(pairs), None)


def _plane(queries: Rows, documents: Rows, pairs: Pairs, moments: Moments, generator: np.random.Generator) -> Plane:
    judged = np.unique(pairs[:, 0])
    shown = np.sort(generator.permutation(judged)[:SHOWN_QUERIES])
    chosen = []
    for query in shown:
        relevant = np.unique(pairs[pairs[:, 0] == query, 1])
        chosen += [(query, document) for document in generator.permutation(relevant)[:SHOWN_DOCUMENTS]]
    query_rows, document_rows = np.array(chosen).T
    kept, place = np.unique(document_rows, return_inverse=True)
    axes, explained = principal_plane(moments)
    links = np.stack([np.searchsorted(shown, query_rows), place], axis=1)
    of_queries, of_documents = ((taken - moments.mean) @ axes for taken in (queries.take(shown), documents.take(kept)))
    return Plane(of_queries.tolist(), of_documents.tolist(), links.tolist(), explained)


def principal_plane(moments: Moments) -> tuple[NDArray[np.float64], list[float]]:
    """Return the two axes of largest variance ``(dim, 2)``, largest component positive, and its share along each."""
    values, vectors = np.linalg.eigh(moments.scatter)
    axes, along = np.zeros((len(values), 2)), np.zeros(2)
    count = min(2, len(values))
    axes[:, :count], along[:count] = vectors[:, : -count - 1 : -1], np.maximum(values[: -count - 1 : -1], 0)
    largest = axes[np.abs(axes).argmax(axis=0), [0, 1]]
    total = float(moments.scatter.trace())
    return axes * np.where(largest < 0, -1, 1), (along / (total or 1)).tolist()
