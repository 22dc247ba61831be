"""Stack: a network seen as linear layers and activations, which is how it is exported; linear maps for its start."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

if TYPE_CHECKING:
    from ragcun.models.heads import HeadConfig


@dataclass(frozen=True)
class Stack:
    """A network as linear layers with activations between them, around a skip connection or none.

    Attributes:
        layers: weight ``(out, in)`` and bias of each layer.
        activations: what follows each layer but the last.
        skip: matrix ``(output_dim, input_dim)`` by which the input is added to the output; None adds nothing.
    """

    layers: list[tuple[Tensor, Tensor]]
    activations: list[nn.Module]
    skip: Tensor | None

    @property
    def is_identity(self) -> bool:
        """Whether it gives its input, bit for bit: by one layer alone, or by a skip around a last layer of zeros."""
        weight, bias = self.layers[-1]
        if self.skip is None:
            return len(self.layers) == 1 and not bias.any() and _is_eye(weight)
        return not weight.any() and not bias.any() and _is_eye(self.skip)


def _is_eye(matrix: Tensor) -> bool:
    rows, columns = matrix.shape
    return rows == columns and torch.equal(matrix, torch.eye(rows, dtype=matrix.dtype, device=matrix.device))


class Stackable(nn.Module, abc.ABC):
    """A module of the shape `config` that can say which `Stack` it computes in evaluation mode."""

    config: HeadConfig

    @abc.abstractmethod
    def stack(self) -> Stack:
        """Return the layers."""


def unit_pairs(skip: Float[Tensor, "out dim"]) -> tuple[Float[Tensor, "2*dim dim"], Float[Tensor, "dim 2*dim"]]:
    """Return the matrices ``[I; −I]`` and ``[I, −I]`` that split a vector into pairs of units and join them again.

    Around gelu, relu or silu they are the identity, since ``act(x) − act(−x) = x``.
    """
    eye = torch.eye(skip.shape[1], dtype=skip.dtype, device=skip.device)
    return torch.cat([eye, -eye]), torch.cat([eye, -eye], dim=1)


@torch.no_grad()
def carry_linear_map(layers: list[nn.Linear], weight: Float[Tensor, "out dim"], bias: Float[Tensor, " out"]) -> None:
    """Set layers, with gelu, relu or silu between them, so that they compute ``W x + b``.

    The first 2·dim units of each hidden layer hold x and −x. The other units keep the weights that go into them; what
    goes out of them to the last layer becomes 0.

    Args:
        layers: the layers, whose hidden widths are at least 2·dim.
        weight: W.
        bias: b.
    """
    *hidden, last = layers
    weight = weight.to(last.weight)
    split, join = unit_pairs(weight)
    given = torch.eye(weight.shape[1]).to(weight)
    for layer in hidden:
        _set_corner(layer.weight[: len(split)], split @ given)
        layer.bias[: len(split)].zero_()
        given = join
    _set_corner(last.weight, weight @ given)
    last.bias.copy_(bias)


def _set_corner(rows: Tensor, block: Tensor) -> None:
    """Write a block into the first columns of some rows, and 0 into the others."""
    rows.zero_()
    rows[:, : block.shape[1]] = block


def preserving_projection(vectors: Float[Tensor, "n input_dim"], output_dim: int) -> Float[Tensor, "out input_dim"]:
    """Return the orthonormal projection that keeps most of the squared distances between vectors (PCA).

    The rows are the `output_dim` leading eigenvectors of the covariance, in float64, each with its largest entry
    positive. A common mean does not change distances, so none is subtracted when the projection is applied.

    Raises:
        ValueError: fewer than 2 vectors, or `output_dim` larger than their length.
    """
    if len(vectors) < 2:
        raise ValueError(f"a projection needs at least 2 vectors, got {len(vectors)}")
    if output_dim > vectors.shape[1]:
        raise ValueError(f"cannot keep {output_dim} of {vectors.shape[1]} dimensions")
    return principal_axes(vectors)[1][:output_dim].to(vectors.dtype)


def principal_axes(
    vectors: Float[Tensor, "n dim"],
) -> tuple[Float[Tensor, " dim"], Float[Tensor, "dim dim"]]:
    """Return the eigenvalues of the vectors' covariance (with n − 1), largest first, and its eigenvectors as rows.

    Both are in float64; each eigenvector has its largest entry positive.
    """
    covariance = torch.cov(vectors.detach().double().T).reshape(vectors.shape[1], vectors.shape[1])
    values, columns = torch.linalg.eigh(covariance)
    axes = columns.flip(1).T
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    return values.flip(0), axes * largest.sign()
