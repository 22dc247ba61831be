from __future__ import annotations

import resource
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from ragcun.distance import DISTANCES
from ragcun.retrieval.blocks import Block, norm_bound, read_block, release, row_norms
from ragcun.retrieval.candidates import all_keys, centre_documents, centre_queries, key_error_bound
from ragcun.retrieval.search import top_k
from ragcun.retrieval.top_k import id_order

ENGINES = ("faiss", "torch")
SMALL_BUDGETS = (1, 3_000, 100_000, 1 << 30)


def brute_force(queries, documents, k, distance):
    """Reference: all scores in float64, rounded to float32, sorted by (score descending, row ascending)."""
    scores = np.empty((len(queries), len(documents)), dtype=np.float32)
    for i, query in enumerate(queries.astype(np.float32).astype(np.float64)):
        for j, document in enumerate(documents.astype(np.float32).astype(np.float64)):
            if distance == "euclidean":
                scores[i, j] = -np.sqrt(((query - document) ** 2).sum())
            else:
                norm = np.linalg.norm(query) * np.linalg.norm(document) if distance == "cosine" else 1.0
                scores[i, j] = (query * document).sum() / (norm or 1.0)
    order = np.lexsort((np.broadcast_to(np.arange(len(documents)), scores.shape), -scores))[:, :k]
    return np.take_along_axis(scores, order, axis=1), order


def random_embeddings(seed, q=5, n=90, dim=7, mean=0.0):
    rng = np.random.default_rng(seed)
    return tuple((mean + rng.standard_normal((rows, dim))).astype(np.float32) for rows in (q, n))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("budget", SMALL_BUDGETS)
@pytest.mark.parametrize("k", [1, 10, 60])
def test_matches_brute_force_in_float64(engine, distance, budget, k):
    queries, documents = random_embeddings(0)
    scores, indices = brute_force(queries, documents, k, distance)
    found = top_k(queries, documents, k, distance, budget, "cpu", engine)
    assert_array_equal(found.indices, indices)
    np.testing.assert_allclose(found.scores, scores, rtol=2e-7)
    assert found.scores.dtype == np.float32
    assert found.indices.dtype == np.int64


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    distance=st.sampled_from(("euclidean", "dot")),
    engine=st.sampled_from(ENGINES),
    budget=st.integers(1, 20_000),
    k=st.integers(1, 80),
)
def test_ties_go_to_the_lower_row_for_every_block_size(data, distance, engine, budget, k):
    rows = st.lists(st.tuples(st.integers(-1, 1), st.integers(-1, 1)), min_size=1, max_size=120)
    queries, documents = (np.array(data.draw(rows), dtype=np.float32) for _ in range(2))
    scores, indices = brute_force(queries, documents, k, distance)
    found = top_k(queries, documents, k, distance, budget, "cpu", engine)
    assert_array_equal(found.indices, indices)
    assert_array_equal(found.scores, scores)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("mean", [0.0, 100.0])
def test_bits_do_not_depend_on_engine_or_budget(distance, mean):
    queries, documents = random_embeddings(1, q=20, n=1500, dim=48, mean=mean)
    documents[500:1000] = documents[:500]
    reference = top_k(queries, documents, 20, distance, engine="faiss", device="cpu")
    for engine in ENGINES:
        for budget in (200_000, 1_000_003, 1 << 28):
            found = top_k(queries, documents, 20, distance, budget, "cpu", engine)
            assert_array_equal(found.indices, reference.indices)
            assert_array_equal(found.scores, reference.scores)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("budget", [50_000, 1 << 30])
@pytest.mark.parametrize("distinct", [1, 3])
def test_equal_documents_come_back_in_row_order(engine, distance, budget, distinct):
    """More ties than candidates, so that those an engine happens to return are not enough."""
    queries, kinds = random_embeddings(2, n=distinct, dim=33)
    documents = kinds[np.random.default_rng(3).integers(0, distinct, 1500)]
    _, indices = brute_force(queries, documents, 9, distance)
    assert_array_equal(top_k(queries, documents, 9, distance, budget, "cpu", engine).indices, indices)


@pytest.mark.parametrize("engine", ENGINES)
def test_close_neighbours_far_from_the_origin_are_told_apart(engine):
    """Squared distances by ‖q‖² + ‖x‖² − 2q·x in float32 are worth nothing here: 1e8 has no digits below 8."""
    documents = np.full((300, 64), 1000.0, dtype=np.float32)
    documents[:, 0] += np.random.default_rng(4).permutation(300).astype(np.float32) / 100
    query = np.full((1, 64), 1000.0, dtype=np.float32)
    found = top_k(query, documents, 300, engine=engine, device="cpu")
    assert_array_equal(documents[found.indices[0], 0], np.sort(documents[:, 0]))
    np.testing.assert_allclose(found.scores[0], 1000.0 - np.sort(documents[:, 0]), atol=1e-6)


def test_euclidean_score_is_minus_the_plain_distance():
    found = top_k(np.zeros((1, 2), np.float32), np.array([[3, 4], [0, 1]], np.float32), 2)
    assert found.scores.tolist() == [[-1.0, -5.0]]
    assert found.indices.tolist() == [[1, 0]]


@pytest.mark.parametrize("engine", ENGINES)
def test_cosine_of_a_zero_vector_is_zero(engine):
    documents = np.array([[0, 0], [-1, 0], [2, 0]], np.float32)
    found = top_k(np.array([[1, 0], [0, 0]], np.float32), documents, 3, "cosine", device="cpu", engine=engine)
    assert found.indices.tolist() == [[2, 0, 1], [0, 1, 2]]
    assert found.scores.tolist() == [[1.0, 0.0, -1.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e17, 1e22])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_scale_of_the_embeddings_does_not_matter(scale, engine, distance):
    """Squares of these overflow or vanish in float32."""
    queries, documents = random_embeddings(5)
    queries, documents = queries * np.float32(scale), documents * np.float32(scale)
    _, indices = brute_force(queries, documents, 6, distance)
    assert_array_equal(top_k(queries, documents, 6, distance, 4_000, "cpu", engine).indices, indices)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_memory_map_gives_the_same_as_an_array(tmp_path, engine, dtype):
    queries, documents = random_embeddings(6, n=200)
    np.save(tmp_path / "corpus.npy", documents.astype(dtype))
    mapped = np.load(tmp_path / "corpus.npy", mmap_mode="r")
    found = top_k(queries, mapped, 10, "dot", 5_000, "cpu", engine)
    expected = top_k(queries, documents.astype(dtype), 10, "dot", device="cpu", engine=engine)
    assert_array_equal(found.indices, expected.indices)
    assert_array_equal(found.scores, expected.scores)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_working_memory_stays_within_the_budget(tmp_path, distance):
    budget, dim = 2 << 20, 64
    queries, documents = random_embeddings(7, q=100, n=50_000, dim=dim)
    np.save(tmp_path / "corpus.npy", documents.astype(np.float16))
    mapped = np.load(tmp_path / "corpus.npy", mmap_mode="r")
    top_k(queries[:1], documents[:1], 1)
    tracemalloc.start()
    found = top_k(queries, mapped, 20, distance, budget, "cpu", "faiss")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < budget + found.scores.nbytes + found.indices.nbytes
    assert budget < mapped.nbytes / 3


@pytest.mark.parametrize("engine", ENGINES)
def test_k_beyond_the_corpus_ranks_all_of_it(engine):
    queries, documents = random_embeddings(8, n=4)
    found = top_k(queries, documents, 10, device="cpu", engine=engine)
    assert found.scores.shape == found.indices.shape == (5, 4)
    assert_array_equal(np.sort(found.indices, axis=1), np.tile(np.arange(4), (5, 1)))


@pytest.mark.parametrize("engine", ENGINES)
def test_one_query_gives_what_many_give(engine):
    queries, documents = random_embeddings(9, q=30, n=500, dim=40)
    together = top_k(queries, documents, 15, device="cpu", engine=engine)
    alone = [top_k(queries[i : i + 1], documents, 15, device="cpu", engine=engine) for i in range(30)]
    assert_array_equal(together.scores, np.concatenate([one.scores for one in alone]))
    assert_array_equal(together.indices, np.concatenate([one.indices for one in alone]))


def test_no_queries_give_no_results():
    found = top_k(np.empty((0, 3), np.float32), np.ones((4, 3), np.float32), 2)
    assert found.indices.shape == (0, 2)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("budget", [1, 1 << 30])
def test_rows_that_are_not_finite_are_refused_with_their_number(bad, budget):
    queries, documents = random_embeddings(10)
    spoilt = documents.copy()
    spoilt[[2, 50, 51], [0, 1, 2]] = bad
    with pytest.raises(ValueError, match="3 of 90 rows of documents"):
        top_k(queries, spoilt, 3, memory_budget_bytes=budget)
    spoilt = queries.copy()
    spoilt[4, 0] = bad
    with pytest.raises(ValueError, match="1 of 5 rows of queries"):
        top_k(spoilt, documents, 3)


def test_wrong_calls_are_refused():
    queries, documents = random_embeddings(11)
    with pytest.raises(ValueError, match="7 dimensions and documents 6"):
        top_k(queries, documents[:, :6], 3)
    with pytest.raises(ValueError, match="at least 1 row, got 0"):
        top_k(queries, documents[:0], 3)
    with pytest.raises(ValueError, match="got 0 and"):
        top_k(queries, documents, 0)
    with pytest.raises(ValueError, match="'manhattan'"):
        top_k(queries, documents, 3, "manhattan")
    with pytest.raises(ValueError, match="floating-point matrix"):
        top_k(queries[0], documents, 3)
    with pytest.raises(ValueError, match="does not run on device 'cuda'"):
        top_k(queries, documents, 3, device="cuda", engine="faiss")
    with pytest.raises(ValueError, match="exceed float32"):
        top_k(queries * np.float32(1e30), documents * np.float32(1e30), 3, "dot")


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("dim", [1, 16, 768])
@pytest.mark.parametrize("mean", [0.0, 1.0, 1e4])
def test_error_of_float32_keys_stays_within_its_bound(distance, dim, mean):
    queries, documents = (
        read_block(part, 0, len(part), "rows") for part in random_embeddings(12, q=20, n=400, dim=dim, mean=mean)
    )
    centred = centre_documents(distance, documents)
    query_vectors = centre_queries(distance, queries, centred.centre)
    q, x = queries.vectors.astype(np.float64), documents.vectors.astype(np.float64)
    if distance == "cosine":
        q, x = q / queries.norms[:, None], x / documents.norms[:, None]
    true = -((q[:, None] - x) ** 2).sum(-1) if distance == "euclidean" else q @ x.T
    error = np.abs(all_keys(distance, query_vectors, centred) - true)
    bound = key_error_bound(distance, query_vectors, centred)
    assert (error <= bound[:, None]).all()
    assert error.max() > 0


@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA"))]
)
def test_torch_multiplies_in_full_float32_whatever_the_process_prefers(device):
    queries, documents = random_embeddings(13, q=30, n=2000, dim=64)
    expected = top_k(queries, documents, 10, engine="faiss")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast(device, dtype=torch.bfloat16):
            found = top_k(queries, documents, 10, device=device, engine="torch")
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert_array_equal(found.indices, expected.indices)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("distance", DISTANCES)
def test_gpu_gives_what_the_cpu_gives(distance):
    queries, documents = random_embeddings(14, q=100, n=50_000, dim=96, mean=1.0)
    expected = top_k(queries, documents, 50, distance, engine="faiss")
    found = top_k(queries, documents, 50, distance, 1 << 24, "cuda")
    assert_array_equal(found.indices, expected.indices)
    assert_array_equal(found.scores, expected.scores)


def test_norm_of_a_row_does_not_depend_on_its_neighbours():
    rows = random_embeddings(15, n=1000, dim=37)[1]
    whole = row_norms(rows)
    assert_array_equal(whole[333:777], row_norms(rows[333:777]))
    part = Block(0, rows).rows(333, 777)
    assert part.start == 333
    assert_array_equal(part.norms, row_norms(part.vectors))


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-20, 1.0, 1e18, 1e25])
@pytest.mark.parametrize("dim", [1, 33, 768])
def test_bound_on_norms_holds_and_is_close(scale, dim):
    rows = random_embeddings(16, n=300, dim=dim)[1] * np.float32(scale)
    largest = row_norms(rows).max()
    bound = norm_bound(rows)
    assert largest <= bound <= largest * 1.001 + 1e-17


def test_bound_on_norms_is_not_finite_where_a_row_is_not():
    for bad in (np.nan, np.inf):
        rows = random_embeddings(17)[1]
        rows[3, 2] = bad
        assert not np.isfinite(norm_bound(rows))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("budget", [3_000, 1 << 30])
def test_equal_documents_rank_by_the_order_that_is_given(engine, budget):
    queries, kinds = random_embeddings(18, n=3)
    documents = kinds[np.random.default_rng(19).integers(0, 3, 700)]
    order = np.random.default_rng(20).permutation(700)
    scores, _ = brute_force(queries, documents, 700, "euclidean")
    exact = -np.sqrt(((queries[:, None].astype(np.float64) - documents) ** 2).sum(-1)).astype(np.float32)
    expected = np.lexsort((np.broadcast_to(order, exact.shape), -exact))[:, :40]
    found = top_k(queries, documents, 40, memory_budget_bytes=budget, engine=engine, device="cpu", order=order)
    assert_array_equal(found.indices, expected)
    assert_array_equal(found.scores, scores[:, :40])


def test_a_shuffled_corpus_gives_the_same_ids_when_ranked_by_id():
    queries, kinds = random_embeddings(21, n=4)
    documents, ids = kinds[np.random.default_rng(22).integers(0, 4, 300)], [f"d{i}" for i in range(300)]
    shuffled = np.random.default_rng(23).permutation(300)
    first = top_k(queries, documents, 20, order=id_order(ids))
    moved = [ids[row] for row in shuffled]
    second = top_k(queries, documents[shuffled], 20, order=id_order(moved))
    names = [
        [[names[row] for row in line] for line in found.indices] for names, found in ((ids, first), (moved, second))
    ]
    assert names[0] == names[1]


def test_threads_do_not_change_a_bit():
    queries, documents = random_embeddings(24, q=40, n=3000, dim=50)
    before = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(top_k(queries, documents, 30, memory_budget_bytes=1 << 20))
    finally:
        torch.set_num_threads(before)
    for found in results[1:]:
        assert_array_equal(found.indices, results[0].indices)
        assert_array_equal(found.scores, results[0].scores)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
@pytest.mark.parametrize("mode", ["r", "r+"])
def test_pages_of_a_memory_map_are_given_back(tmp_path, mode):
    np.save(tmp_path / "rows.npy", np.ones((4_000, 1024), np.float32))
    mapped = np.load(tmp_path / "rows.npy", mmap_mode=mode)
    before = resident_bytes()
    assert mapped[100:].sum() > 0
    with_pages = resident_bytes()
    release(mapped[100:])
    assert with_pages - before > mapped.nbytes / 2
    assert resident_bytes() - before < mapped.nbytes / 4
    assert mapped[5, 5] == 1


def test_changes_in_memory_only_are_kept(tmp_path):
    np.save(tmp_path / "rows.npy", np.zeros((100, 1024), np.float32))
    private = np.load(tmp_path / "rows.npy", mmap_mode="c")
    private[7] = 3
    release(private)
    assert (private[7] == 3).all()
    release(np.ones(3))


def test_rows_may_be_made_when_they_are_asked_for():
    queries, documents = random_embeddings(25)

    class Made:
        shape, dtype = documents.shape, documents.dtype

        def __getitem__(self, rows):
            assert rows.stop - rows.start < 90
            return documents[rows].astype(np.float64)

    found = top_k(queries, Made(), 10, memory_budget_bytes=3_000)
    assert_array_equal(found.indices, top_k(queries, documents, 10).indices)
