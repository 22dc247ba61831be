"""MPNetLeJEPAIG: online head and predictor, and a slowly following target that gives what is to be predicted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from typing_extensions import Self

from ragcun.batch import PairBatch, Views
from ragcun.embeddings.base import Base
from ragcun.models.ema import follow, following
from ragcun.models.projection import ProjectionEncoder

if TYPE_CHECKING:
    from ragcun.models.whitening import Calibration


class MPNetLeJEPAIG(ProjectionEncoder):
    """Joint-embedding predictive system: predictor(online(query)) is to meet target(document).

    The target is a copy of the head, and of the base where the base is trained, whose weights θ′ follow the online ones
    after every optimiser step: θ′ ← m·θ′ + (1 − m)·θ. It is never trained and always in evaluation mode. Embeddings are
    those of the online branch. Works with any base, whatever the name says. Arguments as of `ProjectionEncoder`.

    Source: Grill et al. 2020 (BYOL), arXiv:2006.07733, eq. 1; Assran et al. 2023 (I-JEPA), arXiv:2301.08243; the
    founding notes for queries and documents as the two views.
    """

    system = "jepa"
    always_predicts = True

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.target_head = following(self.head)
        self.target_base: Base | None = None

    def freeze_base(self, whole: bool = True, early_layers: int = 0) -> None:
        """Freeze the base as asked; where some of it is trained, the target has a base of its own."""
        super().freeze_base(whole, early_layers)
        if self.base.frozen:
            self.target_base = None
        elif self.target_base is None:
            self.target_base = following(self.base)

    def train(self, mode: bool = True) -> Self:
        """Set training mode; the target stays in evaluation mode."""
        super().train(mode)
        for target in (self.target_head, self.target_base):
            if target is not None:
                target.eval()
        return self

    def start_from(self, vectors: Tensor) -> None:
        """Start the head as its kind does, and the target as the head."""
        super().start_from(vectors)
        self.after_step(0.0)

    def start_calibrated(self, calibration: Calibration) -> None:
        """Start the head as a calibration, and the target as the head."""
        super().start_calibrated(calibration)
        self.target_head = following(self.head)

    def training_views(self, batch: PairBatch) -> Views:
        """Project online, predict from the query, and let the target embed the positive."""
        shown = self.project(batch)
        assert self.predictor is not None
        with torch.no_grad():
            base = self.base if self.target_base is None else self.target_base
            target = self.target_head(base(batch.positive))
        return Views(**shown, predicted=self.predictor(shown["query"]), target=target)

    def after_step(self, decay: float) -> None:
        """Move the target towards the online weights: θ′ ← decay·θ′ + (1 − decay)·θ, in float32."""
        for target, online in ((self.target_head, self.head), (self.target_base, self.base)):
            if target is not None:
                follow(target, online, decay)

    def to_config(self) -> dict[str, Any]:
        """Return the shapes, and whether the target has a base of its own."""
        return super().to_config() | {"target_base": self.target_base is not None}

    @classmethod
    def from_config(cls, base: Base, config: dict[str, Any]) -> Self:
        """Build the encoder of `to_config`."""
        encoder = super().from_config(base, config)
        if config.get("target_base", False):
            encoder.target_base = following(base)
        return encoder
