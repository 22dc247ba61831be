import resource
import tracemalloc
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from ragcun.config import DISTANCES
from ragcun.isotropy.moments import release_pages
from ragcun.retrieval import search
from ragcun.retrieval.search import SearchResult, top_k

ENGINES = ("faiss", "torch")
CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))


def brute_force(queries, documents, k, distance, order=None):
    """Reference: all scores in float64, rounded to float32, sorted by (score descending, order ascending)."""
    q, x = queries.astype(np.float64), documents.astype(np.float32).astype(np.float64)
    if distance == "euclidean":
        scores = -np.sqrt(np.square(q[:, None] - x).sum(axis=2))
    else:
        scores = (q[:, None] * x).sum(axis=2)
        if distance == "cosine":
            norms = np.sqrt(np.square(q).sum(axis=1))[:, None] * np.sqrt(np.square(x).sum(axis=1))
            scores /= np.where(norms > 0, norms, 1)
    scores = scores.astype(np.float32)
    order = np.arange(len(documents)) if order is None else order
    ranks = np.lexsort((np.broadcast_to(order, scores.shape), -scores))[:, :k]
    return np.take_along_axis(scores, ranks, axis=1), ranks


def random_embeddings(seed, q=5, n=90, dim=7, mean=0.0):
    rng = np.random.default_rng(seed)
    return tuple((mean + rng.standard_normal((rows, dim))).astype(np.float32) for rows in (q, n))


def top_k_by(engine, *arguments, **options):
    """Search on the CPU by faiss, or by torch as on other devices."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "ON_FAISS", ("cpu",) if engine == "faiss" else ())
        return top_k(*arguments, **options, device="cpu")


def assert_same(found, expected):
    assert_array_equal(found.indices, expected.indices)
    assert_array_equal(found.scores, expected.scores)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("budget", [1, 3_000, 1 << 30])
@pytest.mark.parametrize("k", [1, 10, 60, 200])
def test_matches_brute_force_in_float64(engine, distance, budget, k):
    queries, documents = random_embeddings(0)
    scores, indices = brute_force(queries, documents, k, distance)
    found = top_k_by(engine, queries, documents, k, distance, budget)
    assert_array_equal(found.indices, indices)
    assert_allclose(found.scores, scores, rtol=2e-7)
    assert (found.scores.dtype, found.indices.dtype) == (np.float32, np.int64)


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    distance=st.sampled_from(("euclidean", "dot")),
    engine=st.sampled_from(ENGINES),
    budget=st.integers(1, 20_000),
    k=st.integers(1, 80),
)
def test_ties_rank_by_order_for_every_block_size(data, distance, engine, budget, k):
    rows = st.lists(st.tuples(st.integers(-1, 1), st.integers(-1, 1)), min_size=1, max_size=120)
    scale = np.float32(2.0 ** data.draw(st.integers(-40, 40)))
    queries, documents = (scale * np.array(data.draw(rows), dtype=np.float32) for _ in range(2))
    order = np.array(data.draw(st.permutations(range(len(documents)))))
    expected = SearchResult(*brute_force(queries, documents, k, distance, order))
    assert_same(top_k_by(engine, queries, documents, k, distance, budget, order=order), expected)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("budget", [50_000, 1 << 30])
@pytest.mark.parametrize("distinct", [1, 3])
def test_more_ties_than_candidates_rank_by_order(engine, distance, budget, distinct):
    queries, kinds = random_embeddings(2, n=distinct, dim=33)
    documents = kinds[np.random.default_rng(3).integers(0, distinct, 1500)]
    order = np.random.default_rng(4).permutation(1500)
    _, indices = brute_force(queries, documents, 9, distance, order)
    assert_array_equal(top_k_by(engine, queries, documents, 9, distance, budget, order=order).indices, indices)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("mean", [0.0, 100.0])
def test_bits_depend_on_neither_engine_nor_budget_nor_threads_nor_other_queries(distance, mean):
    queries, documents = random_embeddings(1, q=20, n=1500, dim=48, mean=mean)
    documents[500:1000] = documents[:500]
    reference = top_k(queries, documents, 20, distance, device="cpu")
    for engine in ENGINES:
        for budget in (200_000, 1_000_003, 1 << 28):
            assert_same(top_k_by(engine, queries, documents, 20, distance, budget), reference)
        for i in range(20):
            alone = top_k_by(engine, queries[i : i + 1], documents, 20, distance)
            assert_array_equal(alone.indices[0], reference.indices[i])
            assert_array_equal(alone.scores[0], reference.scores[i])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert_same(top_k(queries, documents, 20, distance, device="cpu"), reference)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("engine", ENGINES)
def test_cosine_of_a_zero_vector_is_zero(engine):
    documents = np.array([[0, 0], [-1, 0], [2, 0]], np.float32)
    found = top_k_by(engine, np.array([[1, 0], [0, 0]], np.float32), documents, 3, "cosine")
    assert found.indices.tolist() == [[2, 0, 1], [0, 1, 2]]
    assert found.scores.tolist() == [[1.0, 0.0, -1.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_memory_maps_and_computed_rows_give_the_same_as_an_array(tmp_path, dtype):
    queries, documents = random_embeddings(6, n=200)
    documents = documents.astype(dtype)
    np.save(tmp_path / "corpus.npy", documents)
    expected = top_k(queries, documents, 10, "dot", device="cpu")

    class Computed:
        shape, dtype = documents.shape, documents.dtype

        def __getitem__(self, rows):
            assert rows.stop - rows.start < 90
            return documents[rows].astype(np.float64)

    for matrix in (np.load(tmp_path / "corpus.npy", mmap_mode="r"), Computed()):
        assert_same(top_k(queries, matrix, 10, "dot", 5_000, "cpu"), expected)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_working_memory_stays_within_the_budget(tmp_path, distance):
    budget, dim = 2 << 20, 64
    queries, documents = random_embeddings(7, q=100, n=50_000, dim=dim)
    np.save(tmp_path / "corpus.npy", documents.astype(np.float16))
    mapped = np.load(tmp_path / "corpus.npy", mmap_mode="r")
    top_k(queries[:1], documents[:1], 1)
    tracemalloc.start()
    found = top_k(queries, mapped, 20, distance, budget, "cpu")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < budget + found.scores.nbytes + found.indices.nbytes
    assert budget < mapped.nbytes / 3


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
@pytest.mark.parametrize("mode", ["r", "r+"])
def test_pages_of_a_memory_map_are_given_back(tmp_path, mode):
    def resident_bytes():
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    np.save(tmp_path / "rows.npy", np.ones((4_000, 1024), np.float32))
    mapped = np.load(tmp_path / "rows.npy", mmap_mode=mode)
    before = resident_bytes()
    assert mapped[100:].sum() > 0
    with_pages = resident_bytes()
    release_pages(mapped[100:])
    assert with_pages - before > mapped.nbytes / 2
    assert resident_bytes() - before < mapped.nbytes / 4
    assert mapped[5, 5] == 1

    private = np.load(tmp_path / "rows.npy", mmap_mode="c")
    private[7] = 3
    release_pages(private[5:])
    assert (private[7] == 3).all(), "changes to a private memory map stay"


def test_no_queries_give_no_results():
    assert top_k(np.empty((0, 3), np.float32), np.ones((4, 3), np.float32), 2).indices.shape == (0, 2)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize(("budget", "facts"), [(1, "1 of 1 rows of documents"), (1 << 30, "3 of 90 rows of documents")])
def test_non_finite_rows_are_refused_with_the_first_of_them(bad, budget, facts):
    queries, documents = random_embeddings(10)
    documents[[2, 50, 51], [0, 1, 2]] = bad
    with pytest.raises(ValueError, match=f"{facts}.* row 2"):
        top_k(queries, documents, 3, memory_budget_bytes=budget)
    with pytest.raises(ValueError, match=r"of queries.* row 2"):
        top_k(documents, queries, 3)


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({"documents": np.ones((4, 6))}, r"\(5, 7\) and documents \(4, 6\)"),
        ({"documents": np.ones((0, 7))}, r"documents \(0, 7\)"),
        ({"queries": np.ones(7)}, r"queries.*\(7,\)"),
        ({"documents": np.ones((4, 7), int)}, "documents.*int64"),
        ({"k": 0}, "at least 1, got 0"),
        ({"memory_budget_bytes": 0}, "at least 1, got 3 and 0"),
        ({"distance": "manhattan"}, "euclidean.*'manhattan'"),
        ({"order": np.arange(3)}, r"order.*\(3,\).*90"),
    ],
)
def test_wrong_arguments_are_refused(changes, facts):
    queries, documents = random_embeddings(11)
    with pytest.raises(ValueError, match=facts):
        top_k(**{"queries": queries, "documents": documents, "k": 3, **changes})


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("distance", DISTANCES)
def test_torch_gives_what_faiss_gives_whatever_precision_the_process_prefers(device, distance):
    queries, documents = random_embeddings(13, q=30, n=5000, dim=96, mean=1.0)
    expected = top_k(queries, documents, 10, distance, device="cpu")
    by_torch = top_k if device == "cuda" else partial(top_k_by, "torch")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast(device, dtype=torch.bfloat16):
            found = by_torch(queries, documents, 10, distance, 1 << 22)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert_same(found, expected)
