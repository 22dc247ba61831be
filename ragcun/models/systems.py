"""The encoder systems: one head, two heads, a JEPA with a slowly following target, and a residual predictor."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor, nn
from typing_extensions import Self

from ragcun.batch import PairBatch, Views
from ragcun.config import ModelConfig
from ragcun.embeddings.base import Base
from ragcun.embeddings.text_base import TextBase
from ragcun.models.encoder import register_system
from ragcun.models.heads import Head, HeadShape, Stack, Stackable
from ragcun.models.projection import ProjectionEncoder
from ragcun.options import read_config

ALPHA_AT_START = 0.1
Part = TypeVar("Part", bound=nn.Module)


@register_system
class IsotropicGaussianEncoder(ProjectionEncoder):
    """Base → projection head → embedding, shared by queries and documents; arguments as of `ProjectionEncoder`.

    With `base_model` or `freeze_base` it is the founding notes' constructor, ``(output_dim=512, base_model=None,
    freeze_base=True)``: their head (an mlp with dropout) on a text base, by default the packaged MiniLM.
    """

    system = "isotropic_gaussian"

    def __init__(
        self, *args: Any, base_model: str | None = None, freeze_base: bool | None = None, **settings: Any
    ) -> None:
        if base_model is None and freeze_base is None:
            super().__init__(*args, **settings)
            return
        notes, base = read_config("notes"), TextBase.load(base_model or ModelConfig.base_model)
        if "head" not in settings:
            output_dim = settings.pop("output_dim", notes["output_dim"])
            settings["head"] = HeadShape(notes["head"], base.dimension, output_dim, dropout=notes["dropout"])
        super().__init__(*args, **settings | {"base": base})
        self.freeze_base(freeze_base is not False)


@register_system
class AsymmetricProjectionModel(ProjectionEncoder):
    """Shared base, separate heads of one shape for queries and documents; arguments as of `ProjectionEncoder`."""

    system = "asymmetric"

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.documents = Head(self.head.config) if self.documents is None else self.documents

    @torch.no_grad()
    def shift_queries(self, shift: Float[Tensor, " base_dim"]) -> None:
        """Set the bias of a linear query head to that of W(x − shift), where W is its matrix."""
        if self.head.config.kind != "linear":
            raise ValueError(f"a shift belongs to a linear head, not {self.head.config.kind!r}")
        layer = self.head.linears[0]
        layer.bias.copy_(-layer.weight @ shift.to(layer.weight))


@register_system
class MPNetLeJEPAIG(ProjectionEncoder):
    """Joint-embedding predictive system: predictor(online(query)) is to meet target(document).

    The target is a copy of the head, and of the base where that is trained, whose weights θ′ follow the online ones
    after every optimiser step: θ′ ← m·θ′ + (1 − m)·θ. Embeddings are those of the online branch.

    Source: Grill et al. 2020 (BYOL), arXiv:2006.07733, eq. 1; Assran et al. 2023 (I-JEPA), arXiv:2301.08243.
    """

    system = "jepa"
    always_predicts = True

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.target_head = following(self.document_head)
        self.target_base: Base | None = None

    def freeze_base(self, whole: bool = True, early_layers: int = 0) -> None:
        """Freeze the base as asked; where some of it is trained, the target has a base of its own."""
        super().freeze_base(whole, early_layers)
        before = {} if self.target_base is None else self.target_base.state_dict()
        self.target_base = None if self.base.frozen or self.base.keeps_documents else following(self.base)
        if before and self.target_base is not None:  # of a checkpoint, which has no adapters: they start as nothing
            for name, weight in self.target_base.state_dict().items():
                weight.copy_(before.get(name, before.get(name.replace(".base_layer.", "."), weight)))

    def start_from(self, vectors: Float[Tensor, "n base_dim"]) -> None:
        """Start the head as its kind does, and the target as the head."""
        super().start_from(vectors)
        self.target_head = following(self.document_head)

    def start_as(self, weight: ArrayLike, query_shift: ArrayLike) -> None:
        """Start the head as ``W x``, and the target as the head."""
        super().start_as(weight, query_shift)
        self.target_head = following(self.document_head)

    def forward(self, batch: PairBatch) -> Views:
        """Project online, predict from the query, and let the target embed the positive."""
        with torch.no_grad():  # the target is in evaluation mode also while the rest is trained
            base = self.base if self.target_base is None else self.target_base.eval()
            target = self.target_head.eval()(base(batch.positive))
        return replace(super().forward(batch), target=target)

    def after_step(self, decay: float) -> None:
        """Move the target towards the online weights (`follow`)."""
        for target, online in ((self.target_head, self.document_head), (self.target_base, self.base)):
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


def following(online: Part, share_frozen: bool = False) -> Part:
    """Return a copy that is never trained and in evaluation mode; it may share the weights that are frozen."""
    frozen: dict[int, Any] = {id(weight): weight for weight in online.parameters() if not weight.requires_grad}
    return copy.deepcopy(online, frozen if share_frozen else {}).requires_grad_(False).eval()


@torch.no_grad()
def follow(target: nn.Module, online: nn.Module, decay: float) -> None:
    """Move the target's weights towards the online ones, θ′ ← decay·θ′ + (1 − decay)·θ; buffers are copied."""
    pairs = zip(target.parameters(), online.parameters(), strict=True)
    if moving := [pair for pair in pairs if pair[0] is not pair[1]]:
        torch._foreach_lerp_([pair[0] for pair in moving], [pair[1] for pair in moving], 1 - decay)
    for buffer, source in zip(target.buffers(), online.buffers(), strict=True):
        buffer.copy_(source)


class ResidualPredictor(Stackable):
    """``q + alpha · tanh(delta(q))``, with a learnable alpha; no coordinate moves by more than |alpha|."""

    shows = frozenset({"predicted", "residual"})

    def __init__(self, config: HeadShape) -> None:
        super().__init__()
        if config.kind == "residual":
            raise ValueError("the correction of a residual predictor is an mlp or linear network, not 'residual'")
        self.config = config
        self.delta = Head(config)
        self.alpha = nn.Parameter(torch.tensor(ALPHA_AT_START))

    def predict(self, query: Float[Tensor, "batch dim"]) -> dict[str, Tensor]:
        """Return the prediction and delta."""
        delta = self.delta(query)
        return {"predicted": query + self.alpha * delta.tanh(), "residual": delta}

    def forward(self, query: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """Predict the document's embedding."""
        return self.predict(query)["predicted"]

    def stack(self) -> Stack:
        """Return delta's layers, tanh, and alpha as a layer, around a skip connection."""
        inner = self.delta.stack()
        eye = torch.eye(self.config.output_dim, dtype=self.alpha.dtype, device=self.alpha.device)
        layers = [*inner.layers, (self.alpha * eye, torch.zeros_like(eye[0]))]
        return Stack(layers, [*inner.activations, nn.Tanh()], eye)


@register_system
class ResidualPredictorEncoder(ProjectionEncoder):
    """A shared head and a `ResidualPredictor`, whose delta `predictor` shapes; arguments as of `ProjectionEncoder`."""

    system = "respred"
    always_predicts = True
    predictor_kind = "mlp"
    predictor_class = ResidualPredictor
    predictor: ResidualPredictor

    @torch.no_grad()
    def diagnostics(self, views: Views) -> dict[str, float]:
        """Return mean and largest ‖delta‖, alpha, and the largest ‖prediction − query‖ of the batch."""
        assert views.residual is not None
        assert views.predicted is not None
        norms = views.residual.float().norm(dim=1)
        corrections = (views.predicted - views.query).float().norm(dim=1)
        return {
            "delta_mean": norms.mean().item(),
            "delta_max": norms.max().item(),
            "alpha": self.predictor.alpha.item(),
            "correction_max": corrections.max().item(),
        }
