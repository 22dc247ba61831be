"""Joined bases; a checkpoint with a channel of word pieces is one plain folder of sentence-transformers."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from ragcun import InputError, TextBase
from ragcun.embeddings.cache import EmbeddingCache, JoinedSource
from ragcun.embeddings.joined import JoinedBase, lexical_weight, piece_analyser
from ragcun.embeddings.lexical import LexicalChannel
from ragcun.models.encoder import SYSTEMS, RetrievalEncoder
from tests.models.helpers import moved, prompted
from tests.processes import run_script

WEIGHT = 0.3
ROLES = ("query", "document")
PLAIN = """
import json, sys
import numpy as np
assert not any(name.startswith("ragcun") for name in sys.modules)
sys.modules["ragcun"] = None  # a process that cannot import it
from sentence_transformers import SentenceTransformer
folder, texts = sys.argv[1], json.loads(sys.argv[2])
model = SentenceTransformer(folder, device="cpu")
np.savez(folder + "/../plain.npz", query=model.encode_query(texts), document=model.encode_document(texts))
model.save_pretrained(folder + "/../again")
"""


@pytest.fixture
def joined(base, texts):
    return JoinedBase(base, LexicalChannel.fit(texts, 8), WEIGHT)


def of_pieces(tiny_bert: str, texts: list[str], pooling: str = "mean") -> JoinedBase:
    """Join a channel of pieces to the tiny base with prompts, a length limit, and another pooling."""
    pytest.importorskip("sentence_transformers", "6", reason="word pieces need its modules")
    base = prompted(tiny_bert, pooling)
    return JoinedBase(base, LexicalChannel.fit(texts, 6, piece_analyser(base)), WEIGHT)


def test_similarities_are_the_dense_ones_and_the_weighted_lexical_ones(joined, texts):
    vectors = joined.encode(texts, "document")
    dense = torch.nn.functional.normalize(torch.from_numpy(joined.dense.encode(texts, "document"))).numpy()
    lexical = joined.channel.encode(texts, "document")
    assert vectors.shape == (len(texts), joined.dimension) == (len(texts), 24)
    np.testing.assert_allclose(vectors @ vectors.T, dense @ dense.T + WEIGHT * lexical @ lexical.T, atol=1e-5)


def test_cached_and_live_vectors_are_the_same_to_heads(joined, texts, tmp_path):
    source = JoinedSource(EmbeddingCache(joined.dense, tmp_path), joined)
    some = [texts[4], texts[2], "unknown", texts[4]]
    for role in ROLES:
        with torch.no_grad():
            live = joined.eval()(joined.features(some, role))
            cached = joined(torch.from_numpy(source.encode(some, role)))
        torch.testing.assert_close(cached, live, atol=1e-5, rtol=0)
        np.testing.assert_allclose(source.encode(some, role), joined.encode(some, role), atol=1e-5)


def test_dense_vectors_are_encoded_once(joined, texts, tmp_path, monkeypatch):
    JoinedSource(EmbeddingCache(joined.dense, tmp_path), joined).encode(texts, "document")
    monkeypatch.setattr(joined.dense, "encode", None)
    other = JoinedBase(joined.dense, LexicalChannel.fit(texts[:50], 4), 0.5)
    again = JoinedSource(EmbeddingCache(joined.dense, tmp_path), other).encode(texts, "document")
    assert again.shape == (len(texts), 20)


def test_what_decides_the_vectors_is_in_the_fingerprint(joined, texts, tmp_path):
    dense, channel = joined.dense, joined.channel
    others = [JoinedBase(dense, channel, 0.4), JoinedBase(dense, LexicalChannel.fit(texts, 7), WEIGHT)]
    assert len({each.fingerprint() for each in (joined, *others)}) == 3
    joined.compute_in("bfloat16")
    with pytest.raises(InputError, match="cached"):
        JoinedSource(EmbeddingCache(TextBase(dense.model, "tiny"), tmp_path), joined)
    with pytest.raises(ValueError, match="above 0"):
        JoinedBase(dense, channel, 0.0)


def test_the_weight_grows_with_what_documents_have_in_common():
    noise = np.random.default_rng(0).normal(size=(500, 16)).astype(np.float32)
    weights = [lexical_weight(noise + shift) for shift in (0, 0.4, 5)]
    assert weights == sorted(weights)
    assert (weights[0], weights[-1]) == (0.1, 0.5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pooling", "settings"), [("mean", {"output_dim": 12, "normalize_output": True}), ("cls", {"head": "mlp"})]
)
def test_a_process_without_ragcun_gives_the_same_embeddings(tiny_bert, texts, tmp_path, pooling, settings):
    encoder: Any = moved(SYSTEMS["asymmetric"](of_pieces(tiny_bert, texts[:200], pooling), **settings))
    encoder.save_pretrained(tmp_path / "model")
    some = [*texts[190:230], "", "never seen", "word1 word2", " ".join(texts[:5])]
    (tmp_path / "plain.py").write_text(PLAIN)
    run_script(tmp_path / "plain.py", tmp_path / "model", json.dumps(some))
    plain = np.load(tmp_path / "plain.npz")
    again = RetrievalEncoder.from_pretrained(tmp_path / "model", device="cpu")
    resaved = SentenceTransformer(str(tmp_path / "again"), device="cpu")
    for role in ROLES:
        mine = encoder.encode(some, role)
        np.testing.assert_allclose(plain[role], mine, atol=1e-5, rtol=0)
        np.testing.assert_array_equal(again.encode(some, role), mine)
        theirs = resaved.encode_query(some) if role == "query" else resaved.encode_document(some)
        np.testing.assert_array_equal(theirs, plain[role])
        np.testing.assert_allclose(encoder.to_sentence_transformer(role).encode(some), mine, atol=1e-5)
    assert again.base.fingerprint() == encoder.base.fingerprint()


def test_pieces_of_prompts_and_beyond_the_length_limit_are_no_terms_and_other_poolings_are_refused(tiny_bert, texts):
    base = of_pieces(tiny_bert, [*texts, "word1 word2 word7"])
    assert not {"word1", "word2", "word7"} & base.channel.vocabulary.keys()
    words = [f"word{i}" for i in range(11, 20)]
    for role, length in zip(ROLES, (5, 6), strict=True):
        whole, cut = (base.lexical([" ".join(each)], role) for each in (words, words[:length]))
        np.testing.assert_array_equal(whole, cut)
    with pytest.raises(InputError, match=r"max.*words"):
        of_pieces(tiny_bert, texts, "max")
