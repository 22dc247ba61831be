"""Nested embeddings: those of a batch cut to their first dimensions, as they are when vectors are stored small."""

from __future__ import annotations

from dataclasses import replace

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ragcun.batch import Views

UNIT_TOLERANCE = 1e-3


def cut_rows(z: Float[Tensor, "n dim"], dim: int, unit: bool) -> Float[Tensor, "n cut"]:
    """Return the first `dim` numbers of each row, scaled back to length 1 where `unit` says that rows have it."""
    return F.normalize(z[:, :dim], dim=1) if unit else z[:, :dim]


def cut_views(views: Views, dim: int) -> Views:
    """Return the batch with queries, positives, negatives and pool cut to their first `dim` dimensions.

    Where the queries have length 1 the cut rows are scaled to length 1 again, as in retrieval with cut vectors.

    Source: Kusupati et al. 2022 (Matryoshka representation learning), arXiv:2205.13147, eq. 1.

    Raises:
        ValueError: the embeddings are not longer than `dim`.
    """
    if not 0 < dim < views.query.shape[1]:
        raise ValueError(f"nested_dims must be below {views.query.shape[1]}, the length of the embeddings, got {dim}")
    unit = bool(((views.query.detach().float().norm(dim=1) - 1).abs() < UNIT_TOLERANCE).all())
    names = ("query", "positive", "negative", "pool")
    rows = {name: value for name in names if (value := getattr(views, name)) is not None}
    return replace(views, **{name: cut_rows(z, dim, unit) for name, z in rows.items()})
