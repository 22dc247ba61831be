"""What every encoder shares: encoding, distances, parameter groups."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_array_equal
from scipy.spatial.distance import cdist
from sentence_transformers import SentenceTransformer

from ragcun import AsymmetricProjectionModel, IsotropicGaussianEncoder, TextBase
from ragcun.data.overlap import HELD_OUT, HoldOut, read_held_out, read_seen, text_hashes
from ragcun.embeddings.cache import EmbeddingCache, vector_source
from ragcun.embeddings.joined import JoinedBase
from ragcun.embeddings.lexical import LexicalChannel
from ragcun.models import cached_encoder
from ragcun.models import encoder as encoder_module
from ragcun.models.cached_encoder import CachedEncoder, EmbeddedRows
from ragcun.models.encoder import SYSTEMS, RetrievalEncoder
from ragcun.models.heads import HEADS, HeadShape
from tests.models.helpers import moved

TEXTS = [f"word{number} and word{number % 7} more" for number in range(60)]


@pytest.fixture
def encoder(tiny_bert):
    torch.manual_seed(0)
    base = TextBase.load(tiny_bert, device="cpu")
    base.freeze(True)
    return moved(IsotropicGaussianEncoder(base, output_dim=10, head="residual", use_predictor=True))


def test_text_and_list_array_and_tensor(encoder, texts):
    many = encoder.encode_document(texts[:7])
    one = encoder.encode_document(texts[3])
    assert isinstance(many, np.ndarray)
    assert many.dtype == np.float32
    assert many.shape == (7, 10)
    assert one.shape == (10,)
    np.testing.assert_allclose(one, many[3], atol=1e-6)
    tensor = encoder.encode_document(texts[:7], convert_to_tensor=True)
    assert isinstance(tensor, torch.Tensor)
    assert not tensor.requires_grad
    np.testing.assert_array_equal(tensor.numpy(), many)
    np.testing.assert_allclose(encoder.encode(texts[:7], batch_size=2, device="cpu"), many, atol=1e-6)
    assert encoder.encode_query([]).shape == encoder.encode_query([], convert_to_tensor=True).shape == (0, 10)


SERIES = (tuple, np.array, pd.Series, pd.Index, iter, lambda texts: dict.fromkeys(texts).keys())


@pytest.mark.parametrize("series", SERIES)
def test_any_series_of_texts_is_encoded_an_empty_text_too(encoder, texts, series):
    several = [*texts[:3], ""]
    np.testing.assert_array_equal(encoder.encode_query(series(several)), encoder.encode_query(several))
    assert encoder.encode_query(np.str_("")).shape == (10,)


NO_TEXTS = [None, 5, float("nan"), b"word1", {"q1": "word1"}, {"word1"}, Path("word1"), pd.DataFrame({"text": ["a"]})]
NO_TEXTS += [[None], ["word1", float("nan")], pd.Series(["word1", None]), [5], [["word1"]], [b"word1"], ["\ud800"]]


@pytest.mark.parametrize("wrong", NO_TEXTS, ids=lambda wrong: f"{wrong!r:.20}")
def test_what_is_no_text_is_refused_by_every_encoder_and_base(base, encoder, tmp_path, wrong):
    joined = JoinedBase(base, LexicalChannel.fit(["word1 word2", "word3"], 2), 0.3)
    bases = base, joined, joined.channel, EmbeddingCache(base, tmp_path), vector_source(joined, tmp_path)
    for encode in (encoder.encode, *(each.encode for each in bases), IsotropicGaussianEncoder(joined).encode):
        with pytest.raises(TypeError, match=r"texts must be .*(got|number \d)"):
            encode(wrong, role="query")
        for role in ("queries", "Query", "passage", None):
            with pytest.raises(ValueError, match=f"role must be query or document, got {role!r}"):
                encode(["word1"], role=role)


@pytest.mark.parametrize("size", [0, -1, 2.5, None, "8"])
def test_a_batch_size_that_is_no_count_is_named(encoder, size):
    for texts in (["word1"], []):
        with pytest.raises(ValueError, match=f"batch_size must be .*, got {size!r}"):
            encoder.encode_query(texts, batch_size=size)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("head", HEADS)
def test_an_encoder_of_another_dtype_gives_float32_and_is_saved(base, texts, tmp_path, head, dtype):
    encoder = moved(AsymmetricProjectionModel(base, head=head))
    exact = encoder.encode_query(texts[:9])
    near = encoder.to(dtype).encode_query(texts[:9])
    assert near.dtype == np.float32
    # a chain of some ten roundings of numbers below 1, each by half a unit in the last place
    np.testing.assert_allclose(near, exact, atol=max(10 * torch.finfo(dtype).eps, 1e-6))
    encoder.save_pretrained(tmp_path / "model")
    loaded = RetrievalEncoder.from_pretrained(tmp_path / "model", "cpu").encode_query(texts[:9])
    plain = SentenceTransformer(str(tmp_path / "model"), device="cpu").encode_query(texts[:9])
    for each in (loaded, plain):
        np.testing.assert_allclose(each, exact, atol=max(10 * torch.finfo(dtype).eps, 1e-6))


@pytest.mark.parametrize("system", SYSTEMS.values())
def test_paths_and_numbers_of_numpy_can_be_saved(tiny_bert, tmp_path, system):
    shape = HeadShape("mlp", np.int64(16), np.int16(8), np.int64(3), np.float32(1.5), dropout=np.float32(0.5))
    encoder = system(Path(tiny_bert), head=shape, normalize_output=np.bool_(False))
    encoder.save_pretrained(tmp_path / "model")
    loaded = RetrievalEncoder.from_pretrained(tmp_path / "model", "cpu")
    assert loaded.to_config() == encoder.to_config()
    np.testing.assert_array_equal(loaded.encode("word1"), encoder.cpu().encode("word1"))


@pytest.mark.parametrize("mode", [True, False])
def test_encoding_leaves_the_mode_and_ignores_dropout(encoder, texts, mode):
    quiet = encoder.eval().encode_query(texts[:5])
    encoder.train(mode)
    before = [module.training for module in encoder.modules()]
    np.testing.assert_array_equal(encoder.encode_query(texts[:5]), quiet)
    assert [module.training for module in encoder.modules()] == before
    assert encoder.head.training == mode


def test_saving_leaves_the_encoder_as_it_was(base, tmp_path):
    encoder = moved(IsotropicGaussianEncoder(base))
    encoder.base.freeze(False, 1)
    encoder.train()
    modes = [module.training for module in encoder.modules()]
    trained = [parameter.requires_grad for parameter in encoder.parameters()]
    modules = len(base.model)
    encoder.save_pretrained(tmp_path / "model")
    assert [module.training for module in encoder.modules()] == modes
    assert [parameter.requires_grad for parameter in encoder.parameters()] == trained
    assert len(base.model) == modules
    assert base.distance == "cosine"


@pytest.mark.parametrize("held_out", [HoldOut(0.1, 0), HoldOut(1 / 3, -(2**63)), HoldOut(1 - 2**-53, 2**63 - 1)])
@pytest.mark.parametrize("seen", [None, text_hashes(["one", "two"])])
def test_seen_and_held_out_documents_are_those_of_the_last_save(base, tmp_path, held_out, seen):
    encoder = IsotropicGaussianEncoder(base)
    encoder.save_pretrained(tmp_path / "model", seen=seen, held_out=held_out)
    assert read_held_out(tmp_path / "model") == held_out
    assert read_seen(tmp_path / "model") == seen
    encoder.save_pretrained(tmp_path / "model")
    assert read_held_out(tmp_path / "model") is None
    assert not (tmp_path / "model" / HELD_OUT).exists()


def test_similarity_is_minus_the_euclidean_distance():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((6, 30)).astype(np.float32), rng.standard_normal((9, 30)).astype(np.float32)
    y[4] = x[2]
    y[5] = x[2] + np.float32(1e-4)
    expected = -cdist(x.astype(np.float64), y.astype(np.float64))
    for queries, documents in ((x, y), (torch.from_numpy(x), torch.from_numpy(y)), (x, torch.from_numpy(y))):
        out = IsotropicGaussianEncoder.similarity(queries, documents)
        np.testing.assert_allclose(out.numpy(), expected, rtol=1e-5, atol=1e-7)
    assert IsotropicGaussianEncoder.similarity(x[0], y).shape == (1, 9)


def test_parameter_groups_have_their_rates_and_spare_biases(encoder):
    encoder.base.freeze(False)
    groups = encoder.parameter_groups({"base": 1e-5, "head": 1e-3, "predictor": 1e-2}, weight_decay=0.1)
    assert {group["name"]: group["lr"] for group in groups} == {"base": 1e-5, "head": 1e-3, "predictor": 1e-2}
    for group in groups:
        assert group["weight_decay"] == (0.1 if group["params"][0].ndim >= 2 else 0.0)
        assert len({parameter.ndim >= 2 for parameter in group["params"]}) == 1
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in encoder.parameters())
    predictor = {id(parameter) for parameter in encoder.predictor.parameters()}
    assert predictor == {id(p) for group in groups if group["name"] == "predictor" for p in group["params"]}


def test_frozen_parameters_are_in_no_group(encoder):
    rates = {"base": 1.0, "head": 1e-3, "predictor": 1e-3}
    assert {group["name"] for group in encoder.parameter_groups(rates)} == {"head", "predictor"}
    encoder.base.freeze(False, 2)
    grouped = {id(p) for group in encoder.parameter_groups(rates) for p in group["params"]}
    assert grouped == {id(parameter) for parameter in encoder.parameters() if parameter.requires_grad}
    encoder.requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to train"):
        encoder.parameter_groups(rates)


def test_trained_state_holds_what_training_changes(encoder):
    own = set(encoder.own_state())
    assert "head.layers.0.weight" in own
    assert not any(name.startswith("base.") for name in own)
    assert set(encoder.trained_state()) == own
    encoder.base.freeze(False, 2)
    more = set(encoder.trained_state()) - own
    assert more
    assert all("layer.2" in name or "pooler" in name for name in more)


@pytest.fixture
def encoders(base, tmp_path, monkeypatch):
    cache = EmbeddingCache(base, tmp_path / "cache")
    for module in (cached_encoder, encoder_module):
        monkeypatch.setattr(module, "BLOCK", 16)
    trained = IsotropicGaussianEncoder(base, head="linear")
    return CachedEncoder(cache), CachedEncoder(cache, moved(trained))


def test_a_cached_encoder_is_the_encoder_or_the_untouched_base_in_every_slice(encoders, tiny_bert):
    for each in encoders:
        whole = each.encode_document(TEXTS)
        rows = EmbeddedRows(each, TEXTS)
        assert rows.shape == whole.shape
        assert len(rows) == len(whole)
        for start, stop in ((0, 60), (0, 16), (5, 6), (15, 17), (31, 60), (48, 99), (60, 80), (7, 3)):
            assert_array_equal(rows[start:stop], whole[start:stop])
        assert_array_equal(rows[:], whole)
    untouched, trained = encoders
    published = SentenceTransformer(tiny_bert, device="cpu").encode(TEXTS)
    np.testing.assert_allclose(untouched.encode_query(TEXTS), published, atol=1e-6)
    np.testing.assert_allclose(trained.encode_query(TEXTS), trained.encoder.encode_query(TEXTS), atol=1e-6)
