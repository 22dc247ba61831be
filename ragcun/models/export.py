"""Any encoder as a sentence-transformers folder of built-in modules, loadable without ragcun."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

if TYPE_CHECKING:
    from sentence_transformers.sentence_transformer.modules import Dense

    from ragcun.models.heads import Head

TANH_SCALE = 2.0**-12


def dense_modules(head: Head) -> list[Dense]:
    """Express a head as a stack of ``Dense`` modules that gives the same embeddings in evaluation mode.

    A skip connection is carried through the activations by pairs of units, since ``act(x) − act(−x) = x`` for gelu,
    relu and silu. Tanh carries it scaled: ``tanh(εx)/ε = x − ε²x³/3 + …`` with ε = 2⁻¹², so the relative error is
    below 2·10⁻⁸·x².
    """
    linears = [layer for layer in head.layers if isinstance(layer, nn.Linear)]
    weights: list[tuple[Tensor, Tensor]] = [(layer.weight, layer.bias) for layer in linears]
    if head.has_skip:
        weights = _carry_skip(head, linears)
    activation = type(head.layers[1]) if len(head.layers) > 1 else nn.Identity
    last = len(weights) - 1
    return [_dense(w, b, activation() if i < last else None) for i, (w, b) in enumerate(weights)]


def _carry_skip(head: Head, linears: list[nn.Linear]) -> list[tuple[Tensor, Tensor]]:
    scale = TANH_SCALE if head.config.activation == "tanh" else 1.0
    gain = 1 / (2 * scale) if head.config.activation == "tanh" else 1.0
    dim = head.config.input_dim
    eye = torch.eye(dim, dtype=linears[0].weight.dtype, device=linears[0].weight.device)
    skip = head.skip if head.skip is not None else eye
    split = torch.cat([eye, -eye]) * scale
    join = torch.cat([eye, -eye], dim=1) * gain
    zeros = eye.new_zeros(2 * dim)
    weights = [(torch.cat([split, linears[0].weight]), torch.cat([zeros, linears[0].bias]))]
    for layer in linears[1:-1]:
        weight = torch.block_diag(split @ join, layer.weight)
        weights.append((weight, torch.cat([zeros, layer.bias])))
    weights.append((torch.cat([skip @ join, linears[-1].weight], dim=1), linears[-1].bias))
    return weights


def _dense(weight: Float[Tensor, "out in_"], bias: Float[Tensor, " out"], activation: nn.Module | None) -> Dense:
    from sentence_transformers.sentence_transformer.modules import Dense

    return Dense(
        weight.shape[1],
        weight.shape[0],
        activation_function=activation,
        init_weight=weight.detach().clone(),
        init_bias=bias.detach().clone(),
    )
