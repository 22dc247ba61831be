"""Splitting what training and evaluation use, so that nothing of one is in the other."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, compress
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm.auto import tqdm

from ragcun.data.beir import Document
from ragcun.data.dedup import first_of_near_duplicates, text_classes, text_key
from ragcun.data.pairs import PairDataset, Row
from ragcun.data.synthetic_queries import PairMaker, document_digest, pairs_of_document
from ragcun.errors import InputError

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
SPLITS = ("train", "dev", "test")


def split_by_shares(items: Sequence[Item], shares: Sequence[float]) -> dict[str, Sequence[Item]]:
    """Return the first items as ``train``, the next as ``dev`` and the last as ``test``, by their shares of all.

    Raises:
        InputError: `shares` is not three fractions that sum to 1.
    """
    if len(shares) != len(SPLITS) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise InputError(f"the split must be three fractions that sum to 1 (train, dev, test), got {tuple(shares)}")
    ends = [round(len(items) * sum(shares[:i])) for i in range(len(shares) + 1)]
    return {name: items[start:end] for name, start, end in zip(SPLITS, ends, ends[1:], strict=False)}


class GeneratedPairs(NamedTuple):
    """Pairs made from documents.

    Attributes:
        by_document: split → for each document that made pairs, its pairs.
        documents: how many documents were `read`, and how many of these were `repeated`, `near_duplicates`, `too_short`
            for a pair, made only pairs that share a text with an earlier document's (`shared`), `unused` and `used`.
    """

    by_document: dict[str, list[list[Row]]]
    documents: dict[str, int]

    def rows(self, split: str) -> list[Row]:
        """Return the pairs of one split, document after document."""
        return list(chain.from_iterable(self.by_document[split]))


def generate_pairs(
    documents: Iterable[Document],
    maker: PairMaker,
    seed: int,
    shares: Sequence[float],
    num_pairs: int | None = None,
    near_duplicates: float | None = None,
) -> GeneratedPairs:
    """Make pairs from documents and split them by document, so that no text is in two splits.

    Documents are taken in the order of a hash of seed and content, each content once. A pair that shares a text (but
    for case and blanks) with a pair of an earlier document is left out: its query would have two answers, one of them
    perhaps in another split.

    Args:
        documents: what pairs are made from.
        maker: makes a pair of a document.
        seed: of the order and of all that the maker draws.
        shares: fractions of the documents that make pairs in train, dev and test.
        num_pairs: how many pairs: of the first documents, or several of each where there are too few; None draws one
            from each document.
        near_duplicates: similarity from which a document is dropped that nearly repeats an earlier one in that order
            (see `first_of_near_duplicates`); None keeps all.

    Raises:
        InputError: `shares` or `num_pairs` is not possible.
    """
    split_by_shares([], shares)
    if num_pairs is not None and num_pairs < 1:
        raise InputError(f"at least 1 pair must be asked for, got {num_pairs}")
    read = list(documents)
    distinct = [document for _, document in sorted({document_digest(item, seed): item for item in read}.items())]
    fresh = distinct
    if near_duplicates is not None:
        contents = [document.content for document in distinct]
        fresh = list(compress(distinct, first_of_near_duplicates(contents, near_duplicates, seed).tolist()))
    limit = len(fresh) if num_pairs is None else num_pairs
    by_document, counts = _unshared_pairs(fresh, maker, seed, limit)
    drawn = sorted((draw, place) for place, pairs in enumerate(by_document) for draw in range(len(pairs)))[:limit]
    kept = Counter(place for _, place in drawn)
    rows: list[list[Row]] = [[(*pair, None) for pair in made[: kept[place]]] for place, made in enumerate(by_document)]
    logger.info("%d pairs from %d of %d distinct documents", len(drawn), len(kept), len(distinct))
    if num_pairs is not None and len(drawn) < num_pairs:
        logger.warning("%d pairs were asked for, the documents give %d", num_pairs, len(drawn))
    before = {"repeated": len(read) - len(distinct), "near_duplicates": len(distinct) - len(fresh)}
    splits = {name: list(part) for name, part in split_by_shares(rows, shares).items()}
    return GeneratedPairs(splits, {"read": len(read), **before, **counts})


def split_pairs(data: PairDataset, shares: Sequence[float], seed: int) -> dict[str, NDArray[np.int64]]:
    """Split pairs so that no query and no positive is in two splits, also but for case and blanks.

    Pairs that share a query or a positive, directly or through others, stay together: such groups are taken in a random
    order, and go whole to where the share of their first pair lies. Hard negatives are left to `without_leaks`.

    Returns:
        Rows of `data`, ascending, by split.

    Raises:
        InputError: `shares` is not three fractions that sum to 1.
    """
    split_by_shares([], shares)
    queries, documents = text_classes(data.queries), text_classes(data.documents)
    size = len(data.queries) + len(data.documents)
    edges = (queries[data.query_ids], len(data.queries) + documents[data.positive_ids])
    graph = coo_array((np.ones(len(data), dtype=np.bool_), edges), shape=(size, size))
    _, group_of_node = connected_components(graph, directed=False)
    _, group, counts = np.unique(group_of_node[edges[0]], return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(counts))
    starts = np.empty(len(counts), dtype=np.int64)
    starts[order] = np.cumsum(counts[order]) - counts[order]
    ends = [round(len(data) * sum(shares[: i + 1])) for i in range(len(SPLITS))]
    split_of = np.minimum(np.searchsorted(ends, starts, side="right"), len(SPLITS) - 1)[group]
    return {name: np.flatnonzero(split_of == place) for place, name in enumerate(SPLITS)}


def without_leaks(data: PairDataset, splits: Mapping[str, NDArray[np.int64]]) -> tuple[PairDataset, int]:
    """Return the pairs without the hard negatives that are positives of another split, and how many these were.

    A pair that loses its negative stays as one without; pairs keep their places.
    """
    documents = text_classes(data.documents)
    split_of_row = np.full(len(data), -1)
    split_of_class = np.full(len(data.documents), -1)
    for place, rows in enumerate(splits.values()):
        split_of_row[rows] = place
        split_of_class[documents[data.positive_ids[rows]]] = place
    owner = np.where(data.negative_ids >= 0, split_of_class[documents[data.negative_ids]], -1)
    leaks = (owner >= 0) & (owner != split_of_row)
    return replace(data, negative_ids=np.where(leaks, -1, data.negative_ids)), int(leaks.sum())


def _unshared_pairs(
    documents: list[Document], maker: PairMaker, seed: int, limit: int
) -> tuple[list[list[tuple[str, str]]], dict[str, int]]:
    """Return the pairs of each document that makes some, without those that share a text with an earlier document."""
    times = max(1, -(-limit // max(1, len(documents))))
    seen: set[bytes] = set()
    by_document: list[list[tuple[str, str]]] = []
    counts = {"too_short": 0, "shared": 0, "unused": len(documents), "used": 0}
    shared = 0
    for document in tqdm(documents, desc="make pairs", unit=" documents", delay=2, leave=False):
        pairs = pairs_of_document(document, maker, seed, times)
        fresh = [pair for pair in pairs if not any(text_key(text) in seen for text in pair)]
        seen.update(text_key(text) for pair in fresh for text in pair)
        shared += len(pairs) - len(fresh)
        counts["unused"] -= 1
        counts["used" if fresh else "shared" if pairs else "too_short"] += 1
        if fresh:
            by_document.append(fresh)
        if len(by_document) == limit:
            break
    if shared:
        logger.info("%d pairs left out because another document has the same query or positive", shared)
    return by_document, counts
