"""Batches: the pairs of an epoch, their order, and the vectors, masks and pool of a batch, cached and live."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ragcun.data.pairs import PairDataset
from ragcun.embeddings.cache import EmbeddingCache
from ragcun.embeddings.text_base import TextBase
from ragcun.training.batches import (
    NOTHING,
    LivePairs,
    PairSource,
    Pools,
    epoch_batches,
    epoch_pairs,
    make_source,
)

CPU = torch.device("cpu")


@given(pairs=st.integers(2, 300), size=st.integers(2, 64), epoch=st.none() | st.integers(0, 9))
def test_batches_are_a_partition_of_even_sizes(pairs: int, size: int, epoch: int | None) -> None:
    batches = epoch_batches(pairs, size, 7, epoch)
    assert sorted(np.concatenate(batches)) == list(range(pairs))
    sizes = [len(batch) for batch in batches]
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 2
    evenly = -(-pairs // size)
    if pairs // evenly >= 2:
        assert max(sizes) <= size
        assert len(batches) == evenly
    else:
        assert max(sizes) <= size + 1


@pytest.fixture
def dataset(texts: list[str]) -> PairDataset:
    """40 pairs; every third has no hard negative, and two share a query."""
    rows = [(texts[i], texts[100 + i], None if i % 3 == 0 else texts[200 + i]) for i in range(39)]
    return PairDataset.from_rows([*rows, (texts[4], texts[190], texts[191])], "made")


def test_cached_and_live_pairs_show_the_same(base: TextBase, dataset: PairDataset, tmp_path: Path) -> None:
    cached, live = make_source(dataset, base, EmbeddingCache(base, tmp_path), CPU), LivePairs(dataset, base, CPU)
    for rows in (np.array([5, 3, 4, 39]), np.arange(40), np.array([0]), np.array([0, 3])):
        first, second = cached.batch(rows), live.batch(rows)
        for name in ("query", "positive", "negative"):
            one, other = getattr(first, name), getattr(second, name)
            assert (one is None) == (other is None)
            if one is not None:
                with torch.no_grad():
                    torch.testing.assert_close(base(one), base(other), atol=1e-5, rtol=0)
        for name in ("negative_mask", "relevant"):
            one, other = getattr(first, name), getattr(second, name)
            assert (one is None and other is None) or torch.equal(one, other)


def test_rows_are_the_texts_of_their_pairs(base: TextBase, dataset: PairDataset, tmp_path: Path) -> None:
    rows = np.array([3, 4, 0, 39, 7])
    batch = make_source(dataset, base, EmbeddingCache(base, tmp_path), CPU).batch(rows)
    pairs = list(dataset.rows())
    chosen = [pairs[row] for row in rows]
    for vectors, column, role in ((batch.query, 0, "query"), (batch.positive, 1, "document")):
        expected = base.encode([pair[column] for pair in chosen], role)  # type: ignore[arg-type, misc]
        np.testing.assert_allclose(vectors.numpy(), expected, atol=1e-6)
    assert batch.negative_mask.tolist() == [pair[2] is not None for pair in chosen] == [False, True, False, True, True]
    assert len(batch.negative) == len(rows)
    expected = base.encode([pair[2] or pair[1] for pair in chosen], "document")
    np.testing.assert_allclose(batch.negative.numpy(), expected, atol=1e-6)
    expected_relevant = np.eye(5, dtype=bool)
    expected_relevant[1, 3] = expected_relevant[3, 1] = True
    np.testing.assert_array_equal(batch.relevant.numpy(), expected_relevant)


@pytest.mark.parametrize("rows", [[0], [0, 3, 6]])
def test_a_batch_without_negatives_shows_none(
    base: TextBase, dataset: PairDataset, tmp_path: Path, rows: list[int]
) -> None:
    for source in (make_source(dataset, base, EmbeddingCache(base, tmp_path), CPU), LivePairs(dataset, base, CPU)):
        batch = source.batch(np.array(rows))
        assert batch.negative is None
        assert batch.negative_mask is None


def test_sample_is_what_the_head_sees(base: TextBase, dataset: PairDataset, tmp_path: Path) -> None:
    cache = EmbeddingCache(base, tmp_path)
    cached, live = make_source(dataset, base, cache, CPU), LivePairs(dataset, base, CPU)
    count = len(dataset.queries) + len(dataset.documents)
    for source in (cached, live):
        sample = source.sample(3)
        assert sample.shape == (count, 16)
        assert torch.equal(sample, source.sample(3))
        torch.testing.assert_close(sample.norm(dim=1), torch.ones(count))
    np.testing.assert_allclose(np.sort(cached.sample(0).sum(1)), np.sort(live.sample(0).sum(1)), atol=1e-5)


def drawn_pairs(seed: int) -> PairDataset:
    """Queries of one to eight pairs each, the pairs of one query not beside each other."""
    drawn = np.random.default_rng(seed)
    rows = [(f"q{i}", f"d{i}-{j}", None) for i in range(10) for j in range(drawn.integers(1, 9))]
    return PairDataset.from_rows([rows[i] for i in drawn.permutation(len(rows))], "made")


@given(seed=st.integers(0, 10**6), per_query=st.integers(0, 10), epoch=st.integers(1, 100))
def test_each_query_shows_as_many_pairs_as_it_has_or_may(seed: int, per_query: int, epoch: int) -> None:
    data = drawn_pairs(seed)
    pairs = epoch_pairs(data, per_query, seed, epoch)
    assert len(set(pairs.tolist())) == len(pairs)
    have = Counter(data.query_ids.tolist())
    assert Counter(data.query_ids[pairs].tolist()) == {query: min(n, per_query or n) for query, n in have.items()}


@pytest.mark.parametrize(
    "draw",
    [
        lambda seed, epoch: np.concatenate(epoch_batches(100, 8, seed, epoch)),
        lambda seed, epoch: epoch_pairs(drawn_pairs(0), 2, seed, epoch),
    ],
    ids=["order", "pairs"],
)
def test_an_epoch_is_a_function_of_seed_and_epoch(draw: Callable[[int, int], NDArray[np.int64]]) -> None:
    np.random.seed(1)
    first = draw(3, 1)
    np.random.seed(2)
    np.testing.assert_array_equal(draw(3, 1), first)
    assert len({tuple(draw(seed, epoch)) for seed in range(4) for epoch in range(4)}) == 16


def test_without_an_epoch_batches_are_in_order() -> None:
    assert np.concatenate(epoch_batches(100, 8, 3, None)).tolist() == list(range(100))


def test_every_pair_of_a_query_is_shown_equally_often_in_the_long_run() -> None:
    """A query of 4 pairs, 2 shown in each of 2,000 epochs: each pair in half of them, within 5 standard deviations."""
    data = PairDataset.from_rows([("q", f"d{i}", None) for i in range(4)], "made")
    shown = np.bincount(np.concatenate([epoch_pairs(data, 2, 0, epoch) for epoch in range(2000)]), minlength=4)
    assert np.abs(shown - 1000).max() < 5 * np.sqrt(2000 * 0.25)


@pytest.fixture
def several(texts: list[str]) -> PairDataset:
    """40 pairs of 20 queries with two answers each, and 30 further documents."""
    rows = [(texts[i % 20], texts[100 + i], None) for i in range(40)]
    return PairDataset.from_rows(rows, "made", texts[200:230])


@pytest.fixture
def sources(base: TextBase, several: PairDataset, tmp_path: Path) -> dict[str, PairSource]:
    cached = make_source(several, base, EmbeddingCache(base, tmp_path), CPU)
    return {"cached": cached, "live": LivePairs(several, base, CPU)}


@pytest.mark.parametrize("kind", ["cached", "live"])
def test_sides_are_the_vectors_of_all_texts_in_order(
    sources: dict[str, PairSource], base: TextBase, several: PairDataset, kind: str
) -> None:
    queries, documents = sources[kind].sides()
    np.testing.assert_allclose(queries, base.encode(several.queries, "query"), atol=1e-6)
    np.testing.assert_allclose(documents, base.encode(several.documents, "document"), atol=1e-6)


@pytest.mark.parametrize("kind", ["cached", "live"])
def test_a_sample_of_the_sides_is_a_part_of_them(sources: dict[str, PairSource], kind: str) -> None:
    whole = sources[kind].sides()
    for most in (7, 25, 1000):
        sample = sources[kind].sides(most, 3)
        for part, side, again in zip(sample, whole, sources[kind].sides(most, 3), strict=True):
            np.testing.assert_array_equal(part, again)
            assert len(part) == min(most, len(side))
            place = np.abs(part[:, None] - side[None]).max(2).argmin(1)
            assert len(set(place.tolist())) == len(part)
            np.testing.assert_allclose(part, side[place], atol=1e-6)
    assert not np.array_equal(sources[kind].sides(7, 3)[1], sources[kind].sides(7, 4)[1])


def made_pools(several: PairDataset) -> Pools:
    """Mined documents at random among all, so that a query's other answer can be in the pool of its batch."""
    mined = np.random.default_rng(0).integers(0, len(several.documents), (len(several.queries), 12))
    mined[5] = NOTHING
    return Pools(mined, 4, 9)


def test_cached_and_live_batches_show_the_same_pool(
    sources: dict[str, PairSource], base: TextBase, several: PairDataset
) -> None:
    pairs = {(query, positive) for query, positive, _ in several.rows()}
    listed, marked = list(several.rows()), 0
    for source in sources.values():
        source.pools = made_pools(several)
    for start in range(0, 40, 8):
        rows = np.arange(start, start + 8)
        drawn = made_pools(several).draw(several, rows)
        pool = [several.documents[i] for i in drawn]
        expected = [[(listed[row][0], document) in pairs for document in pool] for row in rows]
        marked += sum(map(sum, expected))
        vectors = base(torch.from_numpy(base.encode(pool, "document")))
        for source in sources.values():
            batch = source.batch(rows)
            assert batch.pool is not None
            with torch.no_grad():
                torch.testing.assert_close(base(batch.pool), vectors, atol=1e-5, rtol=0)
            assert batch.pool_relevant is not None
            assert batch.pool_relevant.tolist() == expected
    assert marked > 0


@pytest.mark.parametrize("kind", ["cached", "live"])
def test_without_pools_or_with_nothing_mined_a_batch_has_none(
    sources: dict[str, PairSource], several: PairDataset, kind: str
) -> None:
    source = sources[kind]
    assert source.pools is None
    empty = Pools(np.full((len(several.queries), 3), NOTHING), 4, 0)
    for pools in (None, empty, Pools(made_pools(several).mined, 0, 0)):
        source.pools = pools
        batch = source.batch(np.arange(5))
        assert batch.pool is None
        assert batch.pool_relevant is None
