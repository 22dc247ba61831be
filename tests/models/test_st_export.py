"""Any head as Dense modules: the same numbers in evaluation mode."""

from __future__ import annotations

import itertools

import pytest
import torch

from ragcun.models.heads import ACTIVATIONS, HEADS, Head, HeadShape, build_head
from ragcun.models.st_export import dense_modules
from tests.models.helpers import exported


def perturbed(config: HeadShape, scale: float) -> Head:
    """Return the head away from its start, in evaluation mode."""
    generator = torch.Generator().manual_seed(3)
    head = build_head(config).eval()
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
        head = perturbed(config, 0.1)
        for length in (1.0, 5.0):
            assert relative_error(head, unit * length) < 1e-5, (depth, out_dim, expansion, length)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_dense_modules_equal_the_head_at_full_width(activation):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(32, 384, generator=generator) * 5 / 384**0.5
    assert relative_error(perturbed(HeadShape("residual", 384, 384, activation=activation), 0.01), x) < 1e-5


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_head_at_its_start_exports_as_the_identity(activation):
    x = 5 * torch.nn.functional.normalize(torch.randn(32, 24, generator=torch.Generator().manual_seed(0)), dim=1)
    for depth in (2, 3, 4):
        head = build_head(HeadShape("residual", 24, 24, depth=depth, activation=activation)).eval()
        assert relative_error(head, x) < 1e-6


def test_modules_do_not_share_memory_with_the_head():
    head = perturbed(HeadShape("linear", 4, 4), 0.1)
    before = head.layers[0].weight.clone()
    with torch.no_grad():
        for module in dense_modules(head.stack()):
            module.linear.weight.zero_()
    assert torch.equal(head.layers[0].weight, before)
