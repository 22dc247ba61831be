"""Starts of heads and encoders from given matrices, from a whitening, and at random."""

import itertools

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from ragcun.embeddings.text_base import TextBase
from ragcun.models.encoder import SYSTEMS
from ragcun.models.heads import ACTIVATIONS, Head, HeadShape
from ragcun.models.projection import ProjectionEncoder
from ragcun.models.systems import MPNetLeJEPAIG
from ragcun.models.whitening import calibrate
from tests.models.helpers import exported

DIM = 16
CARRYING = ("gelu", "relu", "silu")
STARTABLE = [
    *itertools.product(["linear"], ["gelu"], [2]),
    *itertools.product(["residual"], ACTIVATIONS, [2, 3, 4]),
    *itertools.product(["mlp"], CARRYING, [2, 3, 4]),
]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unit(rows: int, dim: int, seed: int = 0) -> Tensor:
    return torch.nn.functional.normalize(normal(rows, dim, seed=seed), dim=1)


@pytest.fixture
def whitening(tiny_bert, texts):
    """A whitening of the tiny base whose queries are moved."""
    base = TextBase.load(tiny_bert, device="cpu")
    queries = base.encode(texts[200:260], "query") + 3 * base.encode(texts[:1], "query")
    whitening = calibrate(base.encode(texts[:200], "document"), queries)
    assert np.linalg.norm(whitening.query_shift) > 0.05
    return whitening


def made(tiny_bert: str, system: str, head: str | HeadShape = "residual") -> ProjectionEncoder:
    torch.manual_seed(0)
    encoder = SYSTEMS[system](TextBase.load(tiny_bert, device="cpu"), head=head).eval()  # type: ignore[call-arg]
    assert isinstance(encoder, ProjectionEncoder)
    return encoder


@pytest.mark.parametrize("out_dim", [5, 12, 20])
@pytest.mark.parametrize(("kind", "activation", "depth"), STARTABLE)
def test_a_head_starts_as_the_matrix_it_is_given(kind, activation, depth, out_dim):
    weight, bias, x = normal(out_dim, 12) / 12**0.5, normal(out_dim, seed=1), unit(30, 12, seed=2)
    for expansion in (2.0, 3.5):
        head = Head(HeadShape(kind, 12, out_dim, depth, expansion, activation, dropout=0.3)).eval()
        head.start_as(weight.double(), bias.double())
        with torch.no_grad():
            torch.testing.assert_close(head(x), x @ weight.T + bias, rtol=0, atol=1e-6)
            torch.testing.assert_close(exported(head, x), x @ weight.T + bias, rtol=0, atol=2e-6)


@pytest.mark.parametrize("start", ["preserving", "random"])
@pytest.mark.parametrize(("kind", "activation", "depth"), STARTABLE)
def test_a_started_head_learns_in_every_layer(kind, activation, depth, start):
    torch.manual_seed(0)
    head = Head(HeadShape(kind, 8, 8, depth, 3.0, activation, dropout=0.0, start=start))
    head.start_as(normal(8, 8), torch.zeros(8))
    optimiser = torch.optim.SGD(head.parameters(), lr=0.1)
    x, wanted, before = unit(64, 8), unit(64, 8, seed=5), [weight.clone() for weight in head.parameters()]
    losses = []
    for _ in range(20):
        losses.append((head(x) - wanted).square().sum(1).mean())
        optimiser.zero_grad()
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < losses[0]
    assert not any(torch.equal(old, new) for old, new in zip(before, head.parameters(), strict=True))


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_an_mlp_keeps_what_goes_into_its_other_units(depth):
    head = Head(HeadShape("mlp", 6, 6, depth, 3.0))
    before = [layer.weight.clone() for layer in head.linears]
    head.start_as(torch.eye(6), torch.zeros(6))
    for old, layer in zip(before[:-1], head.linears[:-1], strict=True):
        assert torch.equal(layer.weight[12:], old[12:])
    assert not head.linears[-1].weight[:, 12:].any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "tanh"}, "got tanh and 2.0; change them, or take a linear or residual head"),
        ({"expansion": 1.9}, "expansion of at least 2 alone, got gelu and 1.9"),
    ],
)
def test_an_mlp_that_cannot_carry_its_input_stays_as_it_was(changes, message):
    head = Head(HeadShape(**({"kind": "mlp", "input_dim": 8, "output_dim": 8} | changes)))  # type: ignore[arg-type]
    before = [weight.clone() for weight in head.parameters()]
    with pytest.raises(ValueError, match=message):
        head.start_as(torch.eye(8), torch.zeros(8))
    assert all(torch.equal(old, new) for old, new in zip(before, head.parameters(), strict=True))


@pytest.mark.parametrize(("weight", "bias"), [((8, 5), (8,)), ((5, 8), (8,)), ((8,), (5,)), ((5, 8), (5, 1))])
def test_wrong_shapes_state_both(weight, bias):
    for kind in ("linear", "residual", "mlp"):
        with pytest.raises(ValueError, match=r"must be \(5, 8\) and \(5,\), got"):
            Head(HeadShape(kind, 8, 5)).start_as(torch.zeros(weight), torch.zeros(bias))


def test_a_matrix_skip_starts_as_the_identity_and_is_kept_in_the_state():
    plain, matrix = (Head(HeadShape("residual", 8, 8, matrix_skip=stored)) for stored in (False, True))
    assert "skip" not in plain.state_dict()
    assert torch.equal(matrix.state_dict()["skip"], torch.eye(8))
    assert torch.equal(matrix(unit(5, 8)), plain(unit(5, 8)))
    plain.start_as(normal(8, 8), normal(8))
    again = Head(plain.config)
    again.load_state_dict(plain.state_dict())
    assert torch.equal(again.eval()(unit(5, 8)), plain.eval()(unit(5, 8)))


@pytest.mark.parametrize("out_dim", [8, 5])
@pytest.mark.parametrize("kind", ["linear", "residual", "mlp"])
def test_a_random_start_is_that_of_pytorch(kind, out_dim):
    torch.manual_seed(3)
    head = Head(HeadShape(kind, 8, out_dim, start="random"))
    torch.manual_seed(3)
    for layer in head.linears:
        expected = torch.nn.Linear(layer.in_features, layer.out_features)
        assert torch.equal(layer.weight, expected.weight)
        assert torch.equal(layer.bias, expected.bias)
    assert not head.starts_preserving
    before = [weight.clone() for weight in head.parameters()]
    head.start_from(unit(40, 8))
    assert all(torch.equal(old, new) for old, new in zip(before, head.parameters(), strict=True))


@pytest.mark.parametrize("head", ["linear", "residual", "mlp"])
def test_separate_heads_start_as_the_whole_whitening(tiny_bert, texts, whitening, head, tmp_path):
    encoder = made(tiny_bert, "asymmetric", head)
    encoder.start_as(whitening.weight, whitening.query_shift)
    vectors = encoder.base.encode(texts[:20], "query")
    rows = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = (rows - whitening.query_shift) @ whitening.weight.T, rows @ whitening.weight.T
    encoder.save_pretrained(tmp_path / "model")
    for model in (encoder, SentenceTransformer(str(tmp_path / "model"), device="cpu")):
        np.testing.assert_allclose(model.encode_query(texts[:20]), expected[0], atol=5e-6)
        np.testing.assert_allclose(model.encode_document(texts[:20]), expected[1], atol=5e-6)


@pytest.mark.parametrize("system", ["isotropic_gaussian", "jepa", "respred"])
def test_one_head_starts_as_the_documents_part(tiny_bert, whitening, system):
    encoder = made(tiny_bert, system)
    encoder.start_as(whitening.weight, whitening.query_shift)
    expected = unit(9, DIM) @ torch.from_numpy(whitening.weight).float().T
    for embed in (encoder.embed_query, encoder.embed_document):
        torch.testing.assert_close(embed(unit(9, DIM)), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("matrix_skip", [True, False])
def test_the_target_follows_a_whitened_start(tiny_bert, whitening, matrix_skip):
    encoder = made(tiny_bert, "jepa", HeadShape("residual", DIM, DIM, matrix_skip=matrix_skip))
    assert isinstance(encoder, MPNetLeJEPAIG)
    encoder.start_as(whitening.weight, whitening.query_shift)
    torch.testing.assert_close(encoder.target_head(unit(4, DIM)), encoder.head(unit(4, DIM)), rtol=0, atol=0)
    assert not any(weight.requires_grad for weight in encoder.target_head.parameters())
    with torch.no_grad():
        encoder.head.linears[-1].bias.add_(1)
    encoder.after_step(0.5)
    moved = encoder.target_head(unit(4, DIM)) - unit(4, DIM) @ torch.from_numpy(whitening.weight).float().T
    torch.testing.assert_close(moved, torch.full((4, DIM), 0.5), rtol=0, atol=1e-5)


def test_a_predictor_has_no_matrix_skip_of_its_own(tiny_bert):
    encoder = made(tiny_bert, "jepa", HeadShape("residual", DIM, DIM, matrix_skip=True, start="random"))
    assert encoder.predictor is not None
    assert torch.equal(encoder.predictor(unit(3, DIM)), unit(3, DIM))
    assert "predictor.skip" not in encoder.state_dict()


def test_a_whitened_start_needs_base_vectors_of_length_one(tiny_bert, whitening):
    base = TextBase.load(tiny_bert, normalize=False, device="cpu")
    encoder = SYSTEMS["asymmetric"](base)  # type: ignore[call-arg]
    assert isinstance(encoder, ProjectionEncoder)
    with pytest.raises(ValueError, match="normalize=True"):
        encoder.start_as(whitening.weight, whitening.query_shift)
