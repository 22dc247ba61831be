"""Mined negatives against a double loop in float64, and the pools that batches draw from them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ragcun.data.pairs import PairDataset
from ragcun.training import initialization as mining
from ragcun.training.batches import NOTHING, Pools
from ragcun.training.initialization import mine

QUERIES, DOCUMENTS, DIM = 12, 30, 5


def some_pairs(seed: int = 0, documents: int = DOCUMENTS) -> PairDataset:
    """12 queries, each with one to four positives among the documents; every document is there."""
    drawn = np.random.default_rng(seed)
    rows = [
        (f"q{query}", f"d{document}", None)
        for query in range(QUERIES)
        for document in drawn.permutation(documents)[: drawn.integers(1, 5)]
    ]
    return PairDataset.from_rows(rows, "made", (f"d{i}" for i in range(documents)))


def some_vectors(seed: int, documents: int = DOCUMENTS) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Vectors of other lengths than 1, so that Euclidean and dot product rank differently."""
    drawn = np.random.default_rng(seed)
    return tuple(drawn.normal(size=(count, DIM)).astype(np.float32) for count in (QUERIES, documents))


def by_loop(queries: NDArray[np.float32], documents: NDArray[np.float32], data: PairDataset) -> list[list[int]]:
    """All documents that answer nothing, nearest first, of each query."""
    pairs = set(zip(data.query_ids.tolist(), data.positive_ids.tolist(), strict=True))
    ranked = []
    for i, query in enumerate(queries.astype(np.float64)):
        distances = {
            j: sum((a - b) ** 2 for a, b in zip(query, document, strict=True))
            for j, document in enumerate(documents.astype(np.float64))
            if (i, j) not in pairs
        }
        ranked.append(sorted(distances, key=distances.__getitem__))
    return ranked


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    data, vectors = some_pairs(), some_vectors(0)
    whole = mine(*vectors, data, 2, 9)
    monkeypatch.setattr(mining, "BLOCK_ELEMENTS", 5 * DOCUMENTS)
    np.testing.assert_array_equal(mine(*vectors, data, 2, 9), whole)


@given(st.integers(0, 10**6), st.integers(0, 20), st.integers(1, 40), st.integers(1, DOCUMENTS))
def test_mined_ranks_match_a_double_loop(seed: int, first: int, more: int, documents: int) -> None:
    """A positive is never mined; where there are fewer documents than `last`, or than `first`, nothing is."""
    data, vectors = some_pairs(seed, documents), some_vectors(seed, documents)
    mined = mine(*vectors, data, first, first + more)
    assert (mined.shape, mined.dtype) == ((QUERIES, more), np.int64)
    for row, ranked in zip(mined.tolist(), by_loop(*vectors, data), strict=True):
        expected = ranked[first : first + more]
        assert row == expected + [NOTHING] * (more - len(expected))


@pytest.mark.parametrize(("first", "last"), [(-1, 3), (3, 3), (4, 3)])
def test_ranks_out_of_order_are_refused(first: int, last: int) -> None:
    with pytest.raises(ValueError, match=f"first < last, got {first} and {last}"):
        mine(*some_vectors(0), some_pairs(), first, last)


@pytest.fixture
def pools() -> Pools:
    return Pools(mine(*some_vectors(0), some_pairs(), 0, 10), per_query=3, seed=5)


def batches(data: PairDataset) -> list[NDArray[np.int64]]:
    return [np.random.default_rng(i).permutation(len(data))[:7] for i in range(40)]


def test_a_pool_is_of_mined_documents_distinct_and_no_positive_of_the_batch(pools: Pools) -> None:
    data = some_pairs()
    for rows in batches(data):
        drawn = pools.draw(data, rows).tolist()
        assert len(drawn) == len(set(drawn))
        assert set(drawn).isdisjoint(data.positive_ids[rows].tolist())
        assert NOTHING not in drawn
        queries = set(data.query_ids[rows].tolist())
        assert set(drawn) <= {document for query in queries for document in pools.mined[query].tolist()}
        assert len(drawn) <= 3 * len(queries)


def test_each_query_shows_as_many_as_it_may(pools: Pools) -> None:
    data = some_pairs()
    for rows in batches(data):
        alone = rows[:1]
        assert 3 >= len(pools.draw(data, alone)) >= 3 - len(np.intersect1d(pools.mined, data.positive_ids[alone]))
        drawn = Pools(pools.mined, 100, 5).draw(data, rows)
        expected = np.setdiff1d(pools.mined[data.query_ids[rows]], data.positive_ids[rows])
        np.testing.assert_array_equal(np.sort(drawn), expected)


def test_draws_are_repeatable_and_differ_between_batches_and_seeds(pools: Pools) -> None:
    data = some_pairs()
    rows = batches(data)[0]
    np.random.seed(1)
    first = pools.draw(data, rows).tolist()
    np.random.seed(2)
    assert pools.draw(data, rows).tolist() == first
    assert pools.draw(data, rows[::-1].copy()).tolist() != first
    assert Pools(pools.mined, 3, 6).draw(data, rows).tolist() != first
    assert len({tuple(pools.draw(data, batch)) for batch in batches(data)}) > 35


def test_every_mined_document_is_drawn_in_time(pools: Pools) -> None:
    data = some_pairs()
    query_rows = [np.flatnonzero(data.query_ids == 0)[:1], *np.array_split(np.flatnonzero(data.query_ids > 0), 4)]
    companions = [np.concatenate([query_rows[0], np.roll(rows, i)[:3]]) for rows in query_rows[1:] for i in range(12)]
    drawn = np.concatenate([Pools(pools.mined[[0] * QUERIES], 3, 5).draw(data, rows) for rows in companions])
    assert set(pools.mined[0]) <= set(drawn)


def test_queries_without_mined_documents_show_none() -> None:
    data = some_pairs()
    mined = np.full((QUERIES, 6), NOTHING, dtype=np.int64)
    mined[3, :2] = [0, 1]
    pools = Pools(mined, 4, 0)
    rows = np.flatnonzero(data.query_ids == 3)
    expected = np.setdiff1d([0, 1], data.positive_ids[rows])
    np.testing.assert_array_equal(pools.draw(data, rows), expected)
    assert not len(pools.draw(data, np.flatnonzero(data.query_ids == 4)))
