"""Embeddings made when asked for are those of the whole matrix, bit for bit, however it is read."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sentence_transformers import SentenceTransformer

from ragcun.embeddings.cache import EmbeddingCache
from ragcun.models import cached_encoder, encoder
from ragcun.models.cached_encoder import CachedEncoder, EmbeddedRows, document_rows
from ragcun.models.systems import IsotropicGaussianEncoder
from ragcun.retrieval.search import top_k
from tests.models.helpers import moved

TEXTS = [f"a text about {number} things, and {number % 7} more" for number in range(60)]


@pytest.fixture
def encoders(base, tmp_path, monkeypatch):
    cache = EmbeddingCache(base, tmp_path / "cache")
    for module in (cached_encoder, encoder):
        monkeypatch.setattr(module, "BLOCK", 16)
    trained = IsotropicGaussianEncoder(base, head="linear")
    return CachedEncoder(cache), CachedEncoder(cache, moved(trained))


def test_every_slice_is_that_of_the_whole(encoders):
    for each in encoders:
        whole = each.encode_document(TEXTS)
        rows = document_rows(each, TEXTS)
        assert isinstance(rows, EmbeddedRows)
        assert rows.shape == whole.shape
        assert len(rows) == len(whole)
        for start, stop in ((0, 60), (0, 16), (5, 6), (15, 17), (31, 60), (48, 99), (60, 80), (7, 3)):
            assert_array_equal(rows[start:stop], whole[start:stop])
        assert_array_equal(rows[:], whole)


@pytest.mark.parametrize("budget", [5_000, 1 << 28])
def test_search_in_them_is_search_in_the_whole(encoders, budget):
    for each in encoders:
        queries = each.encode_query(TEXTS[:9])
        found = top_k(queries, document_rows(each, TEXTS), 12, memory_budget_bytes=budget)
        expected = top_k(queries, each.encode_document(TEXTS), 12)
        assert_array_equal(found.indices, expected.indices)
        assert_array_equal(found.scores, expected.scores)


def test_it_is_the_encoder_or_the_untouched_base(encoders, tiny_bert):
    untouched, trained = encoders
    published = SentenceTransformer(tiny_bert, device="cpu").encode(TEXTS)
    np.testing.assert_allclose(untouched.encode_query(TEXTS), published, atol=1e-6)
    np.testing.assert_allclose(trained.encode_query(TEXTS), trained.encoder.encode_query(TEXTS), atol=1e-6)


def test_only_rows_in_their_order_can_be_read(encoders):
    rows = document_rows(encoders[0], TEXTS)
    with pytest.raises(ValueError, match="step of 2"):
        rows[::2]


def test_an_encoder_without_a_cache_gives_an_array(encoders):
    class Plain:
        def encode_document(self, texts):
            return np.ones((len(texts), 3), np.float32)

    assert document_rows(Plain(), TEXTS).shape == (60, 3)
