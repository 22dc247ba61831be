"""What every encoder shares: encoding, distances, parameter groups."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from ragcun.embeddings.text_base import TextBase
from ragcun.models.encoder import BLOCK, PairBatch
from ragcun.models.systems import IsotropicGaussianEncoder
from tests.models.helpers import moved


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


@pytest.mark.parametrize("convert_to_tensor", [True, False])
def test_nothing_to_encode(encoder, convert_to_tensor):
    out = encoder.encode_query([], convert_to_tensor=convert_to_tensor)
    assert tuple(out.shape) == (0, 10)
    assert isinstance(out, torch.Tensor) == convert_to_tensor


@pytest.mark.parametrize("mode", [True, False])
def test_encoding_leaves_the_mode_and_ignores_dropout(encoder, texts, mode):
    quiet = encoder.eval().encode_query(texts[:5])
    encoder.train(mode)
    before = [module.training for module in encoder.modules()]
    np.testing.assert_array_equal(encoder.encode_query(texts[:5]), quiet)
    assert [module.training for module in encoder.modules()] == before
    assert encoder.head.training == mode


def test_embedding_does_not_depend_on_blocks(encoder):
    x = np.random.default_rng(0).standard_normal((BLOCK + 3, 16)).astype(np.float32)
    out = encoder.embed(x, "document")
    np.testing.assert_allclose(out[-5:], encoder.embed(x[-5:], "document"), atol=1e-6)


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


def test_embeddings_are_those_of_the_parts(encoder, texts):
    vectors = torch.from_numpy(encoder.base.encode(texts[:5], "query"))
    with torch.no_grad():
        expected = encoder.eval().head(torch.nn.functional.normalize(vectors, dim=1))
    np.testing.assert_allclose(encoder.encode_query(texts[:5]), expected.numpy(), atol=1e-6)


def test_training_views_show_each_row_in_its_place(encoder, texts):
    q, p, n = (torch.from_numpy(encoder.base.encode(texts[i : i + 4], "document")) for i in (0, 10, 20))
    mask = torch.tensor([True, False, True, True])
    views = encoder.eval()(PairBatch(q, p, n, mask, torch.eye(4, dtype=torch.bool)))
    for shown, vectors in ((views.query, q), (views.positive, p), (views.negative, n)):
        torch.testing.assert_close(shown, encoder.head(encoder.base(vectors)))
    torch.testing.assert_close(views.predicted, encoder.predictor(views.query))
    assert views.target is views.positive
    assert views.negative_mask is mask
    without = encoder(PairBatch(q, p))
    assert without.negative is None
    assert torch.equal(without.positive, views.positive)


def test_tokens_and_vectors_give_the_same_views(encoder, texts):
    base = encoder.eval().base
    live = encoder(PairBatch(base.features(texts[:4], "query"), base.features(texts[4:8], "document")))
    vectors = [torch.from_numpy(base.encode(some, "query")) for some in (texts[:4], texts[4:8])]
    cached = encoder(PairBatch(*vectors))
    torch.testing.assert_close(live.query, cached.query, atol=1e-5, rtol=0)
    torch.testing.assert_close(live.positive, cached.positive, atol=1e-5, rtol=0)


def test_parameter_groups_have_their_rates_and_spare_biases(encoder):
    encoder.base.freeze(False)
    groups = encoder.parameter_groups(1e-5, {"head": 1e-3, "predictor": 1e-2, "base": 9.0}, weight_decay=0.1)
    assert {group["name"]: group["lr"] for group in groups} == {"base": 1e-5, "head": 1e-3, "predictor": 1e-2}
    for group in groups:
        assert group["weight_decay"] == (0.1 if group["params"][0].ndim >= 2 else 0.0)
        assert len({parameter.ndim >= 2 for parameter in group["params"]}) == 1
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in encoder.parameters())
    predictor = {id(parameter) for parameter in encoder.predictor.parameters()}
    assert predictor == {id(p) for group in groups if group["name"] == "predictor" for p in group["params"]}


def test_frozen_parameters_are_in_no_group(encoder):
    rates = {"head": 1e-3, "predictor": 1e-3}
    assert {group["name"] for group in encoder.parameter_groups(1.0, rates)} == {"head", "predictor"}
    encoder.base.freeze(False, 2)
    grouped = {id(p) for group in encoder.parameter_groups(1.0, rates) for p in group["params"]}
    assert grouped == {id(parameter) for parameter in encoder.parameters() if parameter.requires_grad}
    encoder.requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to train"):
        encoder.parameter_groups(1.0, rates)


def test_trained_state_holds_what_training_changes(encoder):
    own = set(encoder.own_state())
    assert "head.layers.0.weight" in own
    assert not any(name.startswith("base.") for name in own)
    assert set(encoder.trained_state()) == own
    encoder.base.freeze(False, 2)
    more = set(encoder.trained_state()) - own
    assert more
    assert all("layer.2" in name or "pooler" in name for name in more)


def test_a_new_encoder_is_the_base(tiny_bert, texts):
    encoder = IsotropicGaussianEncoder(tiny_bert, use_predictor=True)
    assert encoder.dimension == 16
    vectors = encoder.base.encode(texts[:8], "document")
    np.testing.assert_array_equal(encoder.encode_document(texts[:8]), encoder.base.untouched_array(vectors))
    guess = encoder.predictor(torch.from_numpy(vectors))
    assert torch.equal(guess, torch.from_numpy(vectors))
