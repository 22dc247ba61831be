"""AsymmetricProjectionModel: one text base, a head for queries and another for documents."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ragcun.batch import Role
from ragcun.models.heads import Head, build_head
from ragcun.models.projection import ProjectionEncoder


class AsymmetricProjectionModel(ProjectionEncoder):
    """Shared text base, separate heads of one shape for queries and documents, with an optional predictor.

    Heads that start from the base start alike; random ones start apart, so that queries and documents have no common
    space before training. Arguments as of `ProjectionEncoder`.
    """

    system = "asymmetric"

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.documents: nn.Module = build_head(self.head.config)

    def freeze_side(self, side: Role) -> None:
        """Freeze the head of queries or of documents."""
        (self.head if side == "query" else self.documents).requires_grad_(False)

    @torch.no_grad()
    def shift_queries(self, shift: Float[Tensor, " base_dim"]) -> None:
        """Set the query head's bias to that of W(x − shift), where W is its matrix.

        Raises:
            ValueError: the head is not linear.
        """
        if self.head.config.kind != "linear":
            raise ValueError(f"a shift belongs to a linear head, not {self.head.config.kind!r}")
        layer = self.head.layers[0]
        assert isinstance(layer, nn.Linear)
        layer.bias.copy_(-layer.weight @ shift.to(layer.weight))

    @property
    def document_head(self) -> Head:
        """The head of documents."""
        assert isinstance(self.documents, Head)
        return self.documents
