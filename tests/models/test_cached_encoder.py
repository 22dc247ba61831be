"""Embeddings made when asked for are those of the whole matrix, bit for bit, however it is read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from ragcun.embeddings.cache import EmbeddingCache
from ragcun.embeddings.text_base import TextBase
from ragcun.models import encoder
from ragcun.models.cached_encoder import CachedEncoder, EmbeddedRows, document_rows
from ragcun.models.systems import IsotropicGaussianEncoder
from ragcun.retrieval.search import top_k

TEXTS = [f"a text about {number} things, and {number % 7} more" for number in range(60)]


@pytest.fixture
def encoders(tiny_bert, tmp_path, monkeypatch):
    base = TextBase.load(str(tiny_bert))
    cache = EmbeddingCache(base, tmp_path / "cache")
    for module in (encoder,):
        monkeypatch.setattr(module, "BLOCK", 16)
    trained = IsotropicGaussianEncoder(base, head="linear")
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.01 * (torch.arange(parameter.numel()) % 5 - 2).view_as(parameter))
    return CachedEncoder(cache), CachedEncoder(cache, trained)


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


def test_only_rows_in_their_order_can_be_read(encoders):
    rows = document_rows(encoders[0], TEXTS)
    with pytest.raises(ValueError, match="step of 2"):
        rows[::2]


def test_an_encoder_without_a_cache_gives_an_array(encoders):
    class Plain:
        def encode_document(self, texts):
            return np.ones((len(texts), 3), np.float32)

    assert document_rows(Plain(), TEXTS).shape == (60, 3)
