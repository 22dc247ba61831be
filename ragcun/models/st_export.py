"""Any encoder as a sentence-transformers folder of built-in modules, loadable without ragcun."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

if TYPE_CHECKING:
    from sentence_transformers.sentence_transformer.modules import Dense

TANH_SCALE = 2.0**-12


@dataclass(frozen=True)
class Stack:
    """Linear layers (weight ``(out, in)``, bias), activations between them, and a skip ``(output_dim, input_dim)``."""

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


def dense_modules(stack: Stack) -> list[Dense]:
    """Express a head or predictor as ``Dense`` modules that give the same embeddings in evaluation mode.

    A skip is carried through the activations by pairs of units: ``act(x) − act(−x) = x`` for gelu, relu and silu; tanh
    carries it scaled, ``tanh(εx)/ε = x − ε²x³/3 + …``, a relative error below 2·10⁻⁸·x² for ε = 2⁻¹².
    """
    layers = stack.layers if stack.skip is None else _carry_skip(stack, stack.skip)
    after = [*stack.activations, None]
    return [_dense(w, b, activation) for (w, b), activation in zip(layers, after, strict=True)]


def normalize_modules(normalize: bool) -> list[nn.Module]:
    """Return the modules that scale embeddings to length 1: one or, where that is not asked, none."""
    from sentence_transformers.base.modules import Normalize

    return [Normalize()] if normalize else []


def _carry_skip(stack: Stack, skip: Tensor) -> list[tuple[Tensor, Tensor]]:
    if not stack.activations:
        ((weight, bias),) = stack.layers
        return [(weight + skip, bias)]
    split, join = unit_pairs(skip)
    tanh = [isinstance(activation, nn.Tanh) for activation in stack.activations]
    splits = [split * (TANH_SCALE if scaled else 1.0) for scaled in tanh]
    joins = [join * (1 / (2 * TANH_SCALE) if scaled else 1.0) for scaled in tanh]
    first, last = stack.layers[0], stack.layers[-1]
    zeros = split.new_zeros(len(split))
    layers = [(torch.cat([splits[0], first[0]]), torch.cat([zeros, first[1]]))]
    for i, (weight, bias) in enumerate(stack.layers[1:-1]):
        layers.append((torch.block_diag(splits[i + 1] @ joins[i], weight), torch.cat([zeros, bias])))
    layers.append((torch.cat([skip @ joins[-1], last[0]], dim=1), last[1]))
    return layers


def _dense(weight: Float[Tensor, "out in_"], bias: Float[Tensor, " out"], activation: nn.Module | None) -> Dense:
    from sentence_transformers.sentence_transformer.modules import Dense

    weight, bias = weight.detach().clone(), bias.detach().clone()
    return Dense(weight.shape[1], weight.shape[0], True, activation, weight, bias)


def unit_pairs(skip: Float[Tensor, "out dim"]) -> tuple[Float[Tensor, "2*dim dim"], Float[Tensor, "dim 2*dim"]]:
    """Return ``[I; −I]`` and ``[I, −I]``, which split a vector into pairs of units and join them again."""
    eye = torch.eye(skip.shape[1], dtype=skip.dtype, device=skip.device)
    return torch.cat([eye, -eye]), torch.cat([eye, -eye], dim=1)
