"""Which pairs an epoch shows, the vectors of both sides, and the pool of a batch, cached and live."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ragcun.data.pairs import PairDataset
from ragcun.embeddings.cache import EmbeddingCache
from ragcun.embeddings.text_base import TextBase
from ragcun.training.batches import NOTHING, LivePairs, PairSource, Pools, epoch_pairs, make_source

CPU = torch.device("cpu")


def drawn_pairs(seed: int) -> PairDataset:
    """Queries of one to eight pairs each, the pairs of one query not beside each other."""
    drawn = np.random.default_rng(seed)
    rows = [(f"q{i}", f"d{i}-{j}", None) for i in range(10) for j in range(drawn.integers(1, 9))]
    return PairDataset.from_rows([rows[i] for i in drawn.permutation(len(rows))], "made")


@given(seed=st.integers(0, 10**6), per_query=st.integers(1, 10), epoch=st.integers(1, 100))
def test_each_query_shows_as_many_pairs_as_it_has_or_may(seed: int, per_query: int, epoch: int) -> None:
    data = drawn_pairs(seed)
    pairs = epoch_pairs(data, per_query, seed, epoch)
    assert len(set(pairs.tolist())) == len(pairs)
    have = Counter(data.query_ids.tolist())
    assert Counter(data.query_ids[pairs].tolist()) == {query: min(n, per_query) for query, n in have.items()}


def test_0_shows_all_pairs() -> None:
    data = drawn_pairs(0)
    for epoch in (1, 2):
        assert epoch_pairs(data, 0, 7, epoch).tolist() == list(range(len(data)))


def test_it_is_a_function_of_seed_and_epoch_and_differs_between_them() -> None:
    data = drawn_pairs(0)
    np.random.seed(1)
    first = epoch_pairs(data, 2, 3, 4).tolist()
    np.random.seed(2)
    assert epoch_pairs(data, 2, 3, 4).tolist() == first
    assert len({tuple(epoch_pairs(data, 2, seed, epoch)) for seed in range(4) for epoch in range(4)}) == 16


def test_every_pair_of_a_query_is_shown_equally_often_in_the_long_run() -> None:
    """A query of 4 pairs, 2 shown in each of 2,000 epochs: each pair in half of them, within 5 standard deviations."""
    data = PairDataset.from_rows([("q", f"d{i}", None) for i in range(4)], "made")
    shown = np.bincount(np.concatenate([epoch_pairs(data, 2, 0, epoch) for epoch in range(2000)]), minlength=4)
    assert np.abs(shown - 1000).max() < 5 * np.sqrt(2000 * 0.25)


@pytest.fixture
def dataset(texts: list[str]) -> PairDataset:
    """40 pairs of 20 queries with two answers each, and 30 further documents."""
    rows = [(texts[i % 20], texts[100 + i], None) for i in range(40)]
    return PairDataset.from_rows(rows, "made", texts[200:230])


@pytest.fixture
def sources(base: TextBase, dataset: PairDataset, tmp_path: Path) -> dict[str, PairSource]:
    cached = make_source(dataset, base, EmbeddingCache(base, tmp_path), CPU)
    return {"cached": cached, "live": LivePairs(dataset, base, CPU)}


@pytest.mark.parametrize("kind", ["cached", "live"])
def test_sides_are_the_vectors_of_all_texts_in_order(
    sources: dict[str, PairSource], base: TextBase, dataset: PairDataset, kind: str
) -> None:
    queries, documents = sources[kind].sides()
    np.testing.assert_allclose(queries, base.encode(dataset.queries, "query"), atol=1e-6)
    np.testing.assert_allclose(documents, base.encode(dataset.documents, "document"), atol=1e-6)


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


def made_pools(dataset: PairDataset) -> Pools:
    """Mined documents at random among all, so that a query's other answer can be in the pool of its batch."""
    mined = np.random.default_rng(0).integers(0, len(dataset.documents), (len(dataset.queries), 12))
    mined[5] = NOTHING
    return Pools(mined, 4, 9)


def test_cached_and_live_batches_show_the_same_pool(
    sources: dict[str, PairSource], base: TextBase, dataset: PairDataset
) -> None:
    pairs = {(query, positive) for query, positive, _ in dataset.rows()}
    listed, marked = list(dataset.rows()), 0
    for source in sources.values():
        source.pools = made_pools(dataset)
    for start in range(0, 40, 8):
        rows = np.arange(start, start + 8)
        drawn = made_pools(dataset).draw(dataset, rows)
        pool = [dataset.documents[i] for i in drawn]
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
    sources: dict[str, PairSource], dataset: PairDataset, kind: str
) -> None:
    source = sources[kind]
    assert source.pools is None
    empty = Pools(np.full((len(dataset.queries), 3), NOTHING), 4, 0)
    for pools in (None, empty, Pools(made_pools(dataset).mined, 0, 0)):
        source.pools = pools
        batch = source.batch(np.arange(5))
        assert batch.pool is None
        assert batch.pool_relevant is None
