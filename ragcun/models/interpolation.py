"""Mixing with the base: one embedding whose distances lie between those of trained heads and those of the base."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import sqrt

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ragcun.batch import Role
from ragcun.models.encoder import BLOCK
from ragcun.models.heads import Head, HeadConfig
from ragcun.models.projection import ProjectionEncoder
from ragcun.models.systems import following


def mix_with_base(
    encoder: ProjectionEncoder, share: float, vectors: Mapping[Role, ArrayLike] | None = None
) -> ProjectionEncoder:
    """Return an encoder whose embedding is ``[√(1 − share)·h(x), √share·x]``; h is the head and x what it sees.

    Squared Euclidean distances are then exactly ``(1 − share)·‖h(q) − h(d)‖² + share·‖q − d‖²``.

    Where the encoder scales embeddings to length 1, h(x) is divided by one number, the mean length of the heads'
    outputs on `vectors`, and the whole is scaled to length 1. The result is *approximately* the mixture of unit
    vectors: exact where all outputs of the heads have one length; a longer output counts for more than `share` says.

    The base is shared with the encoder given, heads are copied, the system stays. Linear heads get more rows; residual
    and mlp heads become residual ones with a matrix as skip.

    Args:
        encoder: an encoder without a predictor.
        share: of the base in squared distances, at least 0 and below 1; 0 returns the encoder itself.
        vectors: base vectors ``(n, dim)``, as cached, of ``document`` and ``query`` texts, or of one of them; both
            sides count alike. Needed, and used, only where embeddings have length 1.

    Raises:
        ValueError: `share` is out of range, the encoder has a predictor, or embeddings of length 1 cannot be mixed:
            vectors are missing, those of the base have other lengths, or the heads' outputs are all 0.
    """
    if not 0 <= share < 1:
        raise ValueError(f"share of the base must be at least 0 and below 1, got {share}")
    if encoder.predictor is not None:
        raise ValueError(f"a {encoder.system} encoder with a predictor cannot be mixed with its base; train without")
    if share == 0:
        return encoder
    length = _mean_length(encoder, vectors) if encoder.normalize_output else 1.0
    factors = sqrt(1 - share) / length, sqrt(share)
    config = encoder.to_config() | {"head": mixed_config(encoder.head.config).to_dict()}
    mixed = type(encoder).from_config(encoder.base, config)
    for head, wider in _pairs(encoder, mixed):
        copy_mixed(head, wider, *factors)
    return mixed.to(next(encoder.head.parameters()).device).train(encoder.training)


def mixed_config(config: HeadConfig) -> HeadConfig:
    """Return the shape of a head whose output is followed by its input."""
    wider = replace(config, output_dim=config.output_dim + config.input_dim)
    return wider if config.kind == "linear" else replace(wider, kind="residual", matrix_skip=True)


@torch.no_grad()
def copy_mixed(head: Head, wider: Head, of_head: float, of_input: float) -> None:
    """Set a head of the shape `mixed_config` so that it computes ``[of_head·head(x), of_input·x]``.

    Args:
        head: any head.
        wider: the head to set.
        of_head: factor of the head's output.
        of_input: factor of its input.
    """
    stack, last, dim = head.stack(), wider.linears[-1], head.config.input_dim
    for layer, (weight, bias) in zip(wider.linears[:-1], stack.layers[:-1], strict=True):
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    weight, bias = stack.layers[-1]
    identity = of_input * torch.eye(dim).to(weight)
    below = identity if wider.skip is None else weight.new_zeros(dim, weight.shape[1])
    last.weight.copy_(torch.cat([of_head * weight, below]))
    last.bias.copy_(torch.cat([of_head * bias, bias.new_zeros(dim)]))
    if wider.skip is not None:
        above = weight.new_zeros(head.config.output_dim, dim) if stack.skip is None else of_head * stack.skip
        wider.skip.copy_(torch.cat([above, identity]))


def _pairs(encoder: ProjectionEncoder, mixed: ProjectionEncoder) -> Iterator[tuple[Head, Head]]:
    yield encoder.head, mixed.head
    if encoder.document_head is not encoder.head:
        yield encoder.document_head, mixed.document_head


def _mean_length(encoder: ProjectionEncoder, vectors: Mapping[Role, ArrayLike] | None) -> float:
    """Return the mean length of the heads' outputs, of the means of queries and of documents."""
    if not encoder.base.normalize:
        raise ValueError("embeddings of length 1 are mixed with base vectors of length 1; load it with normalize=True")
    heads: dict[Role, Head] = {"query": encoder.head, "document": encoder.document_head}
    given = [(heads[role], np.asarray(rows, dtype=np.float32)) for role, rows in (vectors or {}).items()]
    means = [_lengths(encoder, head, rows).mean().item() for head, rows in given if len(rows)]
    if not means:
        raise ValueError("embeddings of length 1 are mixed by the mean length of the head's outputs; give vectors")
    length = sum(means) / len(means)
    if not 0 < length < float("inf"):
        raise ValueError(f"the mean length of the head's outputs must be above 0 and finite, got {length}")
    return length


@torch.no_grad()
def _lengths(encoder: ProjectionEncoder, head: Head, rows: NDArray[np.float32]) -> Float[Tensor, " n"]:
    device, still = next(head.parameters()).device, following(head)
    blocks = (torch.from_numpy(rows[i : i + BLOCK]).to(device) for i in range(0, len(rows), BLOCK))
    return torch.cat([still(encoder.base(block)).double().norm(dim=1).cpu() for block in blocks])
