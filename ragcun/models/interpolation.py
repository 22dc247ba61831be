"""Interpolation with the base: one embedding whose distances lie between those of trained heads and of the base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import sqrt

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from ragcun.batch import Role
from ragcun.embeddings.base import Vectors
from ragcun.embeddings.encode import evaluating
from ragcun.models.encoder import BLOCK
from ragcun.models.heads import Head, HeadShape
from ragcun.models.projection import ProjectionEncoder


def interpolate_with_base(
    encoder: ProjectionEncoder, share: float, vectors: Mapping[Role, ArrayLike] | None = None
) -> ProjectionEncoder:
    """Return an encoder whose embedding is ``[√(1 − share)·h(x), √share·x]``; h is the head and x what it sees.

    Squared Euclidean distances are then exactly ``(1 − share)·‖h(q) − h(d)‖² + share·‖q − d‖²``.

    Where the encoder scales embeddings to length 1, h(x) is divided by one number, the mean length of the heads'
    outputs on `vectors` (base vectors, as cached, of either side or both), and the whole is scaled to length 1. The
    result is *approximately* the interpolation of unit vectors: exact where all outputs of the heads have one length.

    The base is shared with the encoder given, heads are copied, the system stays. Linear heads get more rows; residual
    and mlp heads become residual ones with a matrix as skip. A share of 0 returns the encoder itself.

    Raises:
        ValueError: `share` is not in [0, 1), the encoder has a predictor, or embeddings of length 1 cannot be
            interpolated: vectors are missing, those of the base have other lengths, or the heads' outputs are all 0.
    """
    if not 0 <= share < 1:
        raise ValueError(f"share of the base must be at least 0 and below 1, got {share}")
    if encoder.predictor is not None:
        raise ValueError(f"a {encoder.system} encoder with a predictor cannot be interpolated; train without")
    if share == 0:
        return encoder
    length = _mean_length(encoder, vectors or {}) if encoder.normalize_output else 1.0
    factors = sqrt(1 - share) / length, sqrt(share)
    config = encoder.to_config() | {"head": wider_shape(encoder.head.config).to_dict()}
    wider = type(encoder).from_config(encoder.base, config)
    copy_beside_input(encoder.head, wider.head, *factors)
    if encoder.document_head is not encoder.head:
        copy_beside_input(encoder.document_head, wider.document_head, *factors)
    return wider.to(next(encoder.head.parameters()).device).train(encoder.training)


def wider_shape(shape: HeadShape) -> HeadShape:
    """Return the shape of a head whose output is followed by its input."""
    wider = replace(shape, output_dim=shape.output_dim + shape.input_dim)
    return wider if shape.kind == "linear" else replace(wider, kind="residual", matrix_skip=True)


@torch.no_grad()
def copy_beside_input(head: Head, wider: Head, of_head: float, of_input: float) -> None:
    """Set a head of the shape `wider_shape` so that it computes ``[of_head·head(x), of_input·x]``."""
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


def _mean_length(encoder: ProjectionEncoder, vectors: Mapping[Role, ArrayLike]) -> float:
    """Return the mean length of the heads' outputs, of the means of queries and of documents."""
    if not encoder.base.normalize:
        raise ValueError("embeddings of length 1 need base vectors of length 1; load the base with normalize=True")
    heads: dict[Role, Head] = {"query": encoder.head, "document": encoder.document_head}
    given = [(heads[role], np.asarray(rows, dtype=np.float32)) for role, rows in vectors.items()]
    means = [_lengths(encoder, head, rows).mean().item() for head, rows in given if len(rows)]
    if not means:
        raise ValueError("embeddings of length 1 are scaled by the mean length of the head's outputs; give vectors")
    length = sum(means) / len(means)
    if not 0 < length < float("inf"):
        raise ValueError(f"the mean length of the head's outputs must be above 0 and finite, got {length}")
    return length


@torch.no_grad()
def _lengths(encoder: ProjectionEncoder, head: Head, rows: Vectors) -> Float[Tensor, " n"]:
    device = next(head.parameters()).device
    blocks = (torch.from_numpy(rows[i : i + BLOCK]).to(device) for i in range(0, len(rows), BLOCK))
    with evaluating(head):
        return torch.cat([head(encoder.base(block)).double().norm(dim=1).cpu() for block in blocks])
