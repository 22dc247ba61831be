"""Search against brute force in float64, on whatever matrices hypothesis thinks of."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragcun.config import DISTANCES
from ragcun.retrieval.search import top_k
from tests.fuzz.hostile import FUZZ
from tests.retrieval.test_search import brute_force


@st.composite
def matrices(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Queries and documents of few distinct values, so that many documents are equal or nearly so, at any scale."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    dim, scale = draw(st.integers(1, 9)), 10.0 ** draw(st.integers(-12, 12))
    shapes = [(draw(st.integers(1, most)), dim) for most in (5, 40)]
    levels, offset = draw(st.sampled_from([1, 2, 5, 1000])), draw(st.sampled_from([0.0, 1.0, 100.0]))
    queries, documents = (scale * (offset + generator.integers(-levels, levels + 1, shape)) for shape in shapes)
    return queries.astype(np.float32), documents.astype(np.float32)


@pytest.mark.parametrize("distance", DISTANCES)
def test_search_finds_what_brute_force_finds(distance: str) -> None:
    """Scores are those of float64, rounded to float32 (2^-24 of them at most), and none better is left out."""

    @FUZZ
    @given(matrices(), st.integers(1, 50), st.sampled_from([1 << 12, 1 << 20]))
    def check(both: tuple[np.ndarray, np.ndarray], k: int, budget: int) -> None:
        queries, documents = both
        found = top_k(queries, documents, k, distance, budget)
        scores, ranks = brute_force(queries, documents, len(documents), distance)
        expected = np.take_along_axis(scores.astype(np.float64), np.argsort(ranks, axis=1), axis=1)
        depth = min(k, len(documents))
        assert found.indices.shape == (len(queries), depth)
        lengths = [float(np.linalg.norm(each.astype(np.float64), axis=1).max()) for each in both]
        size = math.prod(lengths) if distance == "dot" else float(np.abs(expected).max())
        slack = 2.0**-23 * size + 1e-45  # the least number that float32 has
        for row, (indices, scores) in enumerate(zip(found.indices, found.scores, strict=True)):
            assert len(set(indices.tolist())) == depth
            np.testing.assert_allclose(scores, expected[row, indices], rtol=0, atol=slack)
            assert (np.diff(scores) <= 0).all()
            ties = np.flatnonzero(np.diff(scores) == 0)
            assert (indices[ties] < indices[ties + 1]).all()
            left = np.delete(expected[row], indices)
            assert not len(left) or left.max() <= scores[-1] + slack

    check()
