"""Batches: the pairs of an epoch, their order, what a batch holds, cached and live, and pools of mined negatives."""

import contextlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ragcun import EmbeddingCache, InputError, PairDataset, TextBase, TrainConfig
from ragcun.training import batches as batches_module
from ragcun.training.batches import NOTHING, PairSource, Pools, epoch_batches, epoch_pairs, mine, require_contrast

# Epochs


@given(pairs=st.integers(2, 300), size=st.integers(2, 64), epoch=st.none() | st.integers(0, 9))
def test_batches_are_a_partition_of_even_sizes(pairs, size, epoch):
    batches = epoch_batches(pairs, size, 7, epoch)
    assert sorted(np.concatenate(batches)) == list(range(pairs))
    sizes = [len(batch) for batch in batches]
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 2
    evenly = -(-pairs // size)
    assert max(sizes) <= size + (pairs // evenly < 2)
    assert len(batches) == evenly or pairs // evenly < 2
    assert epoch is not None or np.concatenate(batches).tolist() == list(range(pairs))


def drawn_pairs(seed: int) -> PairDataset:
    """Queries of one to eight pairs each, the pairs of one query not beside each other."""
    drawn = np.random.default_rng(seed)
    rows = [(f"q{i}", f"d{i}-{j}", None) for i in range(10) for j in range(drawn.integers(1, 9))]
    return PairDataset.from_rows([rows[i] for i in drawn.permutation(len(rows))], "made")


@given(seed=st.integers(0, 10**6), per_query=st.integers(0, 10), epoch=st.integers(1, 100))
def test_each_query_shows_as_many_pairs_as_it_has_or_may(seed, per_query, epoch):
    data = drawn_pairs(seed)
    pairs = epoch_pairs(data, per_query, seed, epoch)
    assert len(set(pairs.tolist())) == len(pairs)
    have = Counter(data.query_ids.tolist())
    assert Counter(data.query_ids[pairs].tolist()) == {query: min(n, per_query or n) for query, n in have.items()}


@pytest.mark.parametrize(
    ("pairs", "corpus", "settings", "possible"),
    [
        ("qa qb qc", "", {}, False),
        ("qa qb qc", "", {"positives_per_query": 0}, False),
        ("qa ra", "", {}, False),
        ("qa qb ra rb", "", {}, False),
        ("qa qb qc", "d", {}, True),
        ("qa qb qc", "d", {"mined_first": 1}, False),
        ("qan qbn", "", {"contrastive": "margin"}, True),
        ("qan qbn", "", {"contrastive": "in_batch_margin"}, False),
        ("qan qb", "", {"mined_negatives": 0}, False),
        ("qa qb qc rc", "", {"mined_negatives": 0}, True),
        ("qa qb", "", {"lambda_contrastive": 0.0, "lambda_isotropy": 1.0}, True),
        ("qa qb", "d", {"lambda_isotropy": 1.0, "isotropy_rows": "each"}, False),
    ],
)
def test_nothing_to_learn_from_is_refused(pairs, corpus, settings, possible):
    """Pairs are written as the letters of query, positive and negative."""
    data = PairDataset.from_rows(((pair[0], pair[1], pair[2:]) for pair in pairs.split()), "made", corpus)
    with contextlib.nullcontext() if possible else pytest.raises(InputError, match=r"made: .*quer"):
        require_contrast(TrainConfig("t", **settings), data)


@pytest.mark.parametrize(
    "draw",
    [
        lambda seed, epoch: np.concatenate(epoch_batches(100, 8, seed, epoch)),
        lambda seed, epoch: epoch_pairs(drawn_pairs(0), 2, seed, epoch),
    ],
    ids=["order", "pairs"],
)
def test_an_epoch_is_a_function_of_seed_and_epoch(draw):
    np.random.seed(1)
    first = draw(3, 1)
    np.random.seed(2)
    np.testing.assert_array_equal(draw(3, 1), first)
    assert len({tuple(draw(seed, epoch)) for seed in range(4) for epoch in range(4)}) == 16


def test_every_pair_of_a_query_is_shown_equally_often_in_the_long_run():
    """A query of 4 pairs, 2 shown in each of 2,000 epochs: each pair in half of them, within 5 standard deviations."""
    data = PairDataset.from_rows([("q", f"d{i}", None) for i in range(4)], "made")
    shown = np.bincount(np.concatenate([epoch_pairs(data, 2, 0, epoch) for epoch in range(2000)]), minlength=4)
    assert np.abs(shown - 1000).max() < 5 * np.sqrt(2000 * 0.25)


# Batches


@pytest.fixture
def dataset(texts: list[str]) -> PairDataset:
    """40 pairs of 20 queries with two answers each; every third has no hard negative; and 30 further documents."""
    rows = [(texts[i % 20], texts[100 + i], None if i % 3 == 0 else texts[200 + i]) for i in range(40)]
    return PairDataset.from_rows(rows, "made", texts[250:280])


@pytest.fixture(params=["cached", "live"])
def source(request: pytest.FixtureRequest, base: TextBase, dataset: PairDataset, tmp_path: Path) -> PairSource:
    cache = EmbeddingCache(base, tmp_path) if request.param == "cached" else None
    return PairSource(dataset, base, torch.device("cpu"), cache)


@pytest.fixture
def pools(dataset: PairDataset) -> Pools:
    """Mined documents at random among all, so that a query's other answer can be in the pool of its batch."""
    mined = np.random.default_rng(0).integers(0, len(dataset.documents), (len(dataset.queries), 12))
    mined[5] = NOTHING
    return Pools(mined, 4, 9)


@pytest.mark.parametrize("rows", [[3, 4, 0, 24, 7], [*range(40)], [*range(10, 30)], [0], [0, 3, 6]], ids=len)
@torch.no_grad()
def test_a_batch_holds_the_texts_of_its_pairs_and_what_answers_what(source, base, dataset, pools, rows):
    source.pools = pools
    batch, listed = source.batch(np.array(rows)), list(dataset.rows())
    chosen, answers = [listed[row] for row in rows], {(query, positive) for query, positive, _ in listed}
    positives = [positive for _, positive, _ in chosen]
    pool = [dataset.documents[i] for i in pools.draw(dataset, np.array(rows))]
    present = [negative is not None for _, _, negative in chosen]
    shown = {"positive": positives, "pool": pool, "query": [query for query, _, _ in chosen]}
    if any(present):
        shown["negative"] = [negative or positive for _, positive, negative in chosen]
        assert batch.negative_mask.tolist() == present
    else:
        assert batch.negative is batch.negative_mask is None
    for name, words in shown.items():
        expected = base(torch.from_numpy(base.encode(words, "query" if name == "query" else "document")))
        torch.testing.assert_close(base(getattr(batch, name)), expected, atol=1e-5, rtol=0, msg=name)
    for relevant, documents in ((batch.relevant, positives), (batch.pool_relevant, pool)):
        assert relevant.tolist() == [[(query, each) in answers for each in documents] for query, _, _ in chosen]
    assert len(rows) != 20 or batch.pool_relevant.any()


def test_without_pools_or_with_nothing_mined_a_batch_has_none(source, pools):
    empty = Pools(np.full_like(pools.mined, NOTHING), 4, 0)
    for each in (None, empty, Pools(pools.mined, 0, 0)):
        source.pools = each
        batch = source.batch(np.arange(5))
        assert batch.pool is batch.pool_relevant is None


def test_sides_are_the_vectors_of_all_texts_in_order_and_samples_are_a_part_of_them(source, base, dataset):
    whole = source.sides()
    np.testing.assert_allclose(whole[0], base.encode(dataset.queries, "query"), atol=1e-6)
    np.testing.assert_allclose(whole[1], base.encode(dataset.documents, "document"), atol=1e-6)
    for most in (7, 25, 1000):
        for part, side, again in zip(source.sides(most, 3), whole, source.sides(most, 3), strict=True):
            np.testing.assert_array_equal(part, again)
            assert len(part) == min(most, len(side))
            place = np.abs(part[:, None] - side[None]).max(2).argmin(1)
            assert len(set(place.tolist())) == len(part)
            np.testing.assert_allclose(part, side[place], atol=1e-6)
    assert not np.array_equal(source.sides(7, 3)[1], source.sides(7, 4)[1])
    sample, seen = source.sample(3), base(torch.from_numpy(np.concatenate(whole)))
    assert sample.shape == seen.shape
    assert torch.equal(sample, source.sample(3))
    torch.testing.assert_close(sample.sum(1).sort().values, seen.sum(1).sort().values, atol=1e-5, rtol=0)


# Mined negatives, against all distances in float64

QUERIES, DOCUMENTS, DIM = 12, 30, 5


def some_pairs(seed: int = 0, documents: int = DOCUMENTS) -> PairDataset:
    """12 queries, each with one to four positives among the documents; every document is there."""
    drawn = np.random.default_rng(seed)
    answers = [drawn.permutation(documents)[: drawn.integers(1, 5)] for _ in range(QUERIES)]
    rows = [(f"q{query}", f"d{document}", None) for query, some in enumerate(answers) for document in some]
    return PairDataset.from_rows(rows, "made", (f"d{i}" for i in range(documents)))


def some_vectors(seed: int, documents: int = DOCUMENTS) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Vectors of other lengths than 1, so that Euclidean and dot product rank differently."""
    drawn = np.random.default_rng(seed)
    return tuple(drawn.normal(size=(count, DIM)).astype(np.float32) for count in (QUERIES, documents))


@given(st.integers(0, 10**6), st.integers(0, 20), st.integers(1, 40), st.integers(1, DOCUMENTS), st.booleans())
def test_mined_ranks_are_those_of_all_distances(seed, first, more, documents, blocks):
    """A positive is never mined; where there are fewer documents than `last`, or than `first`, nothing is."""
    data, vectors = some_pairs(seed, documents), some_vectors(seed, documents)
    with pytest.MonkeyPatch.context() as patch:
        if blocks:
            patch.setattr(batches_module, "BLOCK_ELEMENTS", 5 * documents)
        mined = mine(*vectors, data, first, first + more)
    assert (mined.shape, mined.dtype) == ((QUERIES, more), np.int64)
    distances = ((vectors[0][:, None].astype(np.float64) - vectors[1][None]) ** 2).sum(2)
    distances[data.query_ids, data.positive_ids] = np.inf
    for row, distance in zip(mined.tolist(), distances, strict=True):
        expected = [j for j in np.argsort(distance).tolist() if np.isfinite(distance[j])][first : first + more]
        assert row == expected + [NOTHING] * (more - len(expected))


def some_batches(data: PairDataset, count: int = 40) -> list[NDArray[np.int64]]:
    return [np.random.default_rng(i).permutation(len(data))[:7] for i in range(count)]


def test_a_pool_is_of_each_query_s_mined_documents_and_no_positive_of_the_batch():
    data, mined = some_pairs(), mine(*some_vectors(0), some_pairs(), 0, 10)
    pools = Pools(mined, 3, 5)
    for rows in some_batches(data):
        possible = np.setdiff1d(mined[data.query_ids[rows]], data.positive_ids[rows])
        drawn = pools.draw(data, rows).tolist()
        assert len(drawn) == len(set(drawn)) <= 3 * len(set(data.query_ids[rows].tolist()))
        assert set(drawn) <= set(possible.tolist())
        assert 3 >= len(pools.draw(data, rows[:1])) >= 3 - len(np.intersect1d(mined, data.positive_ids[rows[:1]]))
        np.testing.assert_array_equal(np.sort(Pools(mined, 100, 5).draw(data, rows)), possible)


def test_draws_are_repeatable_and_differ_between_batches_and_seeds():
    data, mined = some_pairs(), mine(*some_vectors(0), some_pairs(), 0, 10)
    pools, rows = Pools(mined, 3, 5), some_batches(data)[0]
    np.random.seed(1)
    first = pools.draw(data, rows).tolist()
    np.random.seed(2)
    assert pools.draw(data, rows).tolist() == first
    assert pools.draw(data, rows[::-1].copy()).tolist() != first
    assert Pools(mined, 3, 6).draw(data, rows).tolist() != first
    assert len({tuple(pools.draw(data, batch)) for batch in some_batches(data)}) > 35


def test_every_mined_document_of_a_query_is_drawn_in_time_and_other_queries_show_none():
    data, mined = some_pairs(), np.full((QUERIES, 10), NOTHING)
    mined[3, :6] = mine(*some_vectors(0), data, 0, 6)[3]
    pools = Pools(mined, 4, 5)
    drawn = [pools.draw(data, rows) for rows in some_batches(data, 400)]
    assert set(np.concatenate(drawn).tolist()) == set(mined[3, :6].tolist())
    alone = [len(pools.draw(data, np.flatnonzero(data.query_ids == query))) for query in range(QUERIES)]
    assert alone == [4 if query == 3 else 0 for query in range(QUERIES)]
