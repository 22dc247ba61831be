from __future__ import annotations

import numpy as np
import pytest
import torch

from ragcun.batch import PairBatch
from ragcun.embeddings.cache import EmbeddingCache
from ragcun.embeddings.joined import JoinedBase, JoinedSource, lexical_weight
from ragcun.embeddings.lexical import LexicalChannel
from ragcun.embeddings.text_base import TextBase
from ragcun.errors import InputError
from ragcun.models.systems import AsymmetricProjectionModel

WEIGHT = 0.3


@pytest.fixture
def base(tiny_bert, texts):
    return JoinedBase(TextBase.load(tiny_bert, device="cpu"), LexicalChannel.fit(texts, 8), WEIGHT)


def test_similarities_are_the_dense_ones_and_the_weighted_lexical_ones(base, texts):
    joined = base.encode(texts, "document")
    dense = torch.nn.functional.normalize(torch.from_numpy(base.dense.encode(texts, "document"))).numpy()
    lexical = base.channel.encode(texts, "document")
    assert joined.shape == (len(texts), base.dimension) == (len(texts), 24)
    np.testing.assert_allclose(joined @ joined.T, dense @ dense.T + WEIGHT * lexical @ lexical.T, atol=1e-5)


def test_cached_and_live_vectors_are_the_same_to_heads(base, texts, tmp_path):
    source = JoinedSource(EmbeddingCache(base.dense, tmp_path), base)
    some = [texts[4], texts[2], "unknown", texts[4]]
    for role in ("query", "document"):
        with torch.no_grad():
            live = base.eval()(base.features(some, role))
            cached = base(torch.from_numpy(source.encode(some, role)))
        torch.testing.assert_close(cached, live, atol=1e-5, rtol=0)
        np.testing.assert_allclose(source.encode(some, role), base.encode(some, role), atol=1e-5)


def test_dense_vectors_are_encoded_once(base, texts, tmp_path, monkeypatch):
    JoinedSource(EmbeddingCache(base.dense, tmp_path), base).encode(texts, "document")
    monkeypatch.setattr(base.dense, "encode", None)
    other = JoinedBase(base.dense, LexicalChannel.fit(texts[:50], 4), 0.5)
    again = JoinedSource(EmbeddingCache(base.dense, tmp_path), other).encode(texts, "document")
    assert again.shape == (len(texts), 20)


def test_an_encoder_trains_on_joined_vectors(base, texts):
    base.freeze(False)
    encoder = AsymmetricProjectionModel(base)
    features = base.features(texts[:4], "query"), base.features(texts[:4], "document")
    views = encoder(PairBatch(*features))
    (views.query - views.positive).square().sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parts()["head"].parameters())
    assert any(parameter.grad is not None for parameter in base.dense.parameters())


def test_what_decides_the_vectors_is_in_the_fingerprint(base, texts, tmp_path):
    others = [JoinedBase(base.dense, base.channel, 0.4), JoinedBase(base.dense, LexicalChannel.fit(texts, 7), WEIGHT)]
    assert len({each.fingerprint() for each in (base, *others)}) == 3
    base.compute_in("bfloat16")
    with pytest.raises(InputError, match="cached"):
        JoinedSource(EmbeddingCache(TextBase(base.dense.model, "tiny"), tmp_path), base)
    with pytest.raises(ValueError, match="above 0"):
        JoinedBase(base.dense, base.channel, 0.0)


def test_the_weight_grows_with_what_documents_have_in_common():
    generator = np.random.default_rng(0)
    noise = generator.normal(size=(500, 16)).astype(np.float32)
    weights = [lexical_weight(noise + shift) for shift in (0, 0.4, 5)]
    assert weights == sorted(weights)
    assert (weights[0], weights[-1]) == (0.1, 0.5)
