"""Starts of heads and encoders from given matrices, and at random."""

import itertools

import pytest
import torch
from torch import Tensor

from ragcun.models.encoder import SYSTEMS
from ragcun.models.heads import ACTIVATIONS, Head, HeadShape
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


WEIGHT, SHIFT = normal(DIM, DIM) / DIM**0.5, normal(DIM, seed=1) / 4


def unit(rows: int, dim: int, seed: int = 0) -> Tensor:
    return torch.nn.functional.normalize(normal(rows, dim, seed=seed), dim=1)


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


def test_a_matrix_skip_starts_as_the_identity_is_kept_in_the_state_and_never_a_predictors(base):
    plain, matrix = (Head(HeadShape("residual", 8, 8, matrix_skip=stored)) for stored in (False, True))
    assert "skip" not in plain.state_dict()
    assert torch.equal(matrix.state_dict()["skip"], torch.eye(8))
    assert torch.equal(matrix(unit(5, 8)), plain(unit(5, 8)))
    plain.start_as(normal(8, 8), normal(8))
    again = Head(plain.config)
    again.load_state_dict(plain.state_dict())
    assert torch.equal(again.eval()(unit(5, 8)), plain.eval()(unit(5, 8)))
    encoder = SYSTEMS["jepa"](base, head=HeadShape("residual", DIM, DIM, matrix_skip=True, start="random")).eval()
    assert torch.equal(encoder.predictor(unit(3, DIM)), unit(3, DIM))
    assert "predictor.skip" not in encoder.state_dict()


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


@pytest.mark.parametrize("system", ["asymmetric", "isotropic_gaussian", "jepa", "respred"])
def test_encoders_start_as_the_map_of_documents_and_with_two_heads_also_that_of_queries(base, system):
    encoder = SYSTEMS[system](base).eval()
    encoder.start_as(WEIGHT, SHIFT)
    x, shift = unit(9, DIM), SHIFT if system == "asymmetric" else torch.zeros(DIM)
    torch.testing.assert_close(encoder.embed_query(x), (x - shift) @ WEIGHT.T, rtol=0, atol=1e-6)
    torch.testing.assert_close(encoder.embed_document(x), x @ WEIGHT.T, rtol=0, atol=1e-6)


@pytest.mark.parametrize("matrix_skip", [True, False])
def test_the_target_follows_a_given_start(base, matrix_skip):
    encoder = SYSTEMS["jepa"](base, head=HeadShape("residual", DIM, DIM, matrix_skip=matrix_skip)).eval()
    encoder.start_as(WEIGHT, SHIFT)
    torch.testing.assert_close(encoder.target_head(unit(4, DIM)), encoder.head(unit(4, DIM)), rtol=0, atol=0)
    assert not any(weight.requires_grad for weight in encoder.target_head.parameters())
    with torch.no_grad():
        encoder.head.linears[-1].bias.add_(1)
    encoder.after_step(0.5)
    moved = encoder.target_head(unit(4, DIM)) - unit(4, DIM) @ WEIGHT.T
    torch.testing.assert_close(moved, torch.full((4, DIM), 0.5), rtol=0, atol=1e-5)
