"""AsymmetricProjectionModel: one text base, a head for queries and another for documents."""

from __future__ import annotations

from typing import Any

from torch import nn

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

    @property
    def document_head(self) -> Head:
        """The head of documents."""
        assert isinstance(self.documents, Head)
        return self.documents
