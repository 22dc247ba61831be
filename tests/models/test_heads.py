"""Heads: two kinds start as the identity or the best projection, and their configuration is checked."""

import itertools

import numpy as np
import pytest
import torch

from ragcun.models.heads import ACTIVATIONS, HEADS, STARTS, Head, HeadShape, dense_modules, preserving_projection
from tests.models.helpers import exported

STARTS_AS_IDENTITY = ("residual", "linear")


def vectors_of(count: int, dim: int, seed: int = 0) -> torch.Tensor:
    """Return normal vectors whose dimensions differ in scale and are mixed, with a mean far from 0."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.linspace(0.1, 2, dim)
    mixing = torch.linalg.qr(torch.randn(dim, dim, generator=generator)).Q
    return torch.randn(count, dim, generator=generator) * scales @ mixing + 3


@pytest.mark.parametrize("mode", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize("kind", STARTS_AS_IDENTITY)
def test_start_is_the_identity_bit_for_bit(kind, depth, activation, mode):
    x = vectors_of(20, 10)
    for expansion in (1.0, 1.5, 2.0, 4.0):
        config = HeadShape(kind, 10, 10, depth=depth, expansion=expansion, activation=activation, dropout=0.3)
        assert torch.equal(Head(config).train(mode)(x), x)


def test_projection_spans_the_leading_singular_vectors_of_two_or_more():
    x = vectors_of(150, 16)
    ours = preserving_projection(x, 6).double().numpy()
    np.testing.assert_allclose(ours @ ours.T, np.eye(6), atol=1e-6)
    centred = x.double().numpy() - x.double().numpy().mean(0)
    leading = np.linalg.svd(centred, full_matrices=False)[2][:6]
    np.testing.assert_allclose(np.abs(np.diag(ours @ leading.T)), 1, atol=1e-5)
    assert (ours[range(6), np.abs(ours).argmax(axis=1)] > 0).all(), "signs are arbitrary"
    assert preserving_projection(x.double(), 3).dtype == torch.float64
    with pytest.raises(ValueError, match="at least 2 vectors, got 1"):
        preserving_projection(torch.randn(1, 8), 2)


@pytest.mark.parametrize("kind", HEADS)
def test_every_shape_maps_its_input_length_alone_to_its_output_dimension(kind):
    x = vectors_of(6, 8)
    for depth, expansion, out_dim in itertools.product((2, 3, 4), (1, 2.5, 4), (3, 8, 20)):
        head = Head(HeadShape(kind, 8, out_dim, depth=depth, expansion=expansion, dropout=0.0))
        linears = [layer for layer in head.layers if isinstance(layer, torch.nn.Linear)]
        assert len(linears) == (1 if kind == "linear" else depth)
        assert all(layer.out_features == round(8 * expansion) for layer in linears[:-1])
        assert head(x).shape == (6, out_dim)
    with pytest.raises(ValueError, match="length 8, got 9"):
        Head(HeadShape(kind, 8, 4))(torch.zeros(2, 9))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "conv"}, "residual, linear, mlp, got 'conv'"),
        ({"activation": "sigmoid"}, "gelu, relu, silu, tanh, got 'sigmoid'"),
        ({"output_dim": 0}, "at least 1, got 0"),
        ({"depth": 1}, "2 to 4, got 1"),
        ({"depth": 5}, "2 to 4, got 5"),
        ({"expansion": 0.5}, r"1 to 4, got 0\.5"),
        ({"expansion": 4.5}, r"1 to 4, got 4\.5"),
        ({"expansion": float("nan")}, "1 to 4, got nan"),
        ({"dropout": 1.0}, r"below 1, got 1\.0"),
        ({"dropout": -0.1}, r"at least 0 and below 1, got -0\.1"),
    ],
)
def test_impossible_shapes_are_refused(changes, message):
    values: dict[str, object] = {"kind": "residual", "input_dim": 8, "output_dim": 8}
    with pytest.raises(ValueError, match=message):
        HeadShape(**(values | changes))  # type: ignore[arg-type]


def test_which_starts_keep_the_base_and_start_from_leaves_random_and_uncut_heads_alone():
    cases = itertools.product(HEADS, STARTS)
    kept = {(kind, start): Head(HeadShape(kind, 8, 8, start=start)).starts_preserving for kind, start in cases}
    assert {case for case, keeps in kept.items() if keeps} == {("residual", "preserving"), ("linear", "preserving")}
    x = vectors_of(5, 8)
    for (kind, start), keeps in kept.items():
        assert torch.equal(Head(HeadShape(kind, 8, 8, start=start)).eval()(x), x) == keeps
    x = vectors_of(30, 8)
    for kind, out_dim in (("mlp", 4), ("residual", 8), ("linear", 8), ("linear", 12)):
        head = Head(HeadShape(kind, 8, out_dim))
        before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
        head.start_from(x)
        assert all(torch.equal(before[name], tensor) for name, tensor in head.state_dict().items())


def perturbed(config: HeadShape, scale: float) -> Head:
    """Return the head away from its start, in evaluation mode."""
    generator = torch.Generator().manual_seed(3)
    head = Head(config).eval()
    with torch.no_grad():
        for tensor in [*head.parameters(), *([] if head.skip is None else [head.skip])]:
            tensor.add_(scale * torch.randn(tensor.shape, generator=generator))
    return head


def relative_error(head: Head, x: torch.Tensor) -> float:
    """Return the largest distance between a head's row and its modules' row, relative to the row's length."""
    with torch.no_grad():
        expected = head(x)
    distance = (exported(head, x) - expected).norm(dim=1)
    return float((distance / expected.norm(dim=1)).max())


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", HEADS)
def test_dense_modules_equal_the_head(kind, activation):
    generator = torch.Generator().manual_seed(0)
    unit = torch.nn.functional.normalize(torch.randn(64, 24, generator=generator), dim=1)
    for depth, out_dim, expansion in itertools.product((2, 3, 4), (7, 24, 40), (1.0, 2.0)):
        config = HeadShape(kind, 24, out_dim, depth=depth, expansion=expansion, activation=activation, dropout=0.3)
        for head, length in itertools.product((perturbed(config, 0.0), perturbed(config, 0.1)), (1.0, 5.0)):
            assert relative_error(head, unit * length) < 1e-5, (depth, out_dim, expansion, length)


def test_modules_do_not_share_memory_with_the_head():
    head = perturbed(HeadShape("linear", 4, 4), 0.1)
    before = head.layers[0].weight.clone()
    with torch.no_grad():
        for module in dense_modules(head.stack()):
            module.linear.weight.zero_()
    assert torch.equal(head.layers[0].weight, before)
