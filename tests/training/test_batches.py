"""Batches: every pair once, in an order that is a function of seed and epoch, cached or live."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ragcun.data.pairs import PairDataset
from ragcun.embeddings.cache import EmbeddingCache
from ragcun.embeddings.text_base import TextBase
from ragcun.training.batches import CachedPairs, LivePairs, epoch_batches, make_source, share

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


def test_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int | None) -> list[int]:
        return np.concatenate(epoch_batches(100, 8, seed, epoch)).tolist()

    np.random.seed(1)
    first = order(3, 1)
    np.random.seed(2)
    assert order(3, 1) == first
    assert len({tuple(order(seed, epoch)) for seed in range(4) for epoch in range(4)}) == 16
    assert order(3, None) == list(range(100))


@given(rows=st.integers(0, 50), world=st.integers(1, 8))
def test_shares_are_a_partition(rows: int, world: int) -> None:
    batch = np.arange(rows) * 3
    shares = [share(batch, rank, world) for rank in range(world)]
    np.testing.assert_array_equal(np.concatenate(shares), batch)
    sizes = [len(each) for each in shares]
    assert max(sizes) - min(sizes) <= 1


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


def test_source_follows_the_cache(base: TextBase, dataset: PairDataset, tmp_path: Path) -> None:
    assert isinstance(make_source(dataset, base, EmbeddingCache(base, tmp_path), CPU), CachedPairs)
    assert isinstance(make_source(dataset, base, None, CPU), LivePairs)
