"""ResidualPredictorEncoder: the document's embedding predicted as the query's plus a bounded correction."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ragcun.batch import PairBatch, Views
from ragcun.models.heads import HeadConfig, build_head
from ragcun.models.projection import ProjectionEncoder
from ragcun.models.stack import Stack, Stackable

ALPHA_AT_START = 0.1


class ResidualPredictor(Stackable):
    """``q + alpha · tanh(delta(q))``, with a learnable scalar alpha that starts at 0.1.

    No coordinate moves by more than |alpha|. `config` is the shape of the network delta.

    Raises:
        ValueError: delta is itself a residual network.
    """

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        if config.kind == "residual":
            raise ValueError("the correction of a residual predictor is an mlp or linear network, not 'residual'")
        self.config = config
        self.delta = build_head(config)
        self.alpha = nn.Parameter(torch.tensor(ALPHA_AT_START))

    def corrected(
        self, query: Float[Tensor, "batch dim"], delta: Float[Tensor, "batch dim"]
    ) -> Float[Tensor, "batch dim"]:
        """Return the prediction that belongs to a value of delta."""
        return query + self.alpha * delta.tanh()

    def forward(self, query: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """Predict the document's embedding."""
        return self.corrected(query, self.delta(query))

    def stack(self) -> Stack:
        """Return delta's layers, tanh, and alpha as a layer, around a skip connection."""
        inner = self.delta.stack()
        eye = torch.eye(self.config.output_dim, dtype=self.alpha.dtype, device=self.alpha.device)
        layers = [*inner.layers, (self.alpha * eye, torch.zeros_like(eye[0]))]
        return Stack(layers, [*inner.activations, nn.Tanh()], eye)


class ResidualPredictorEncoder(ProjectionEncoder):
    """Projection head shared by queries and documents, and a `ResidualPredictor`.

    Its views show delta too, so that λ_residual can hold it small; 0 is the default, because that penalty drives delta,
    and with it the prediction, to the identity. Arguments as of `ProjectionEncoder`; `predictor` shapes delta.
    """

    system = "respred"
    always_predicts = True
    predictor_kind = "mlp"

    def make_predictor(self, config: HeadConfig) -> Stackable:
        """Build the residual predictor."""
        return ResidualPredictor(config)

    @property
    def shows(self) -> frozenset[str]:
        """Names of the optional fields of `Views` that this encoder fills."""
        return super().shows | {"residual"}

    def training_views(self, batch: PairBatch) -> Views:
        """Project, and predict the positive from the query by a bounded correction."""
        shown = self.project(batch)
        assert isinstance(self.predictor, ResidualPredictor)
        delta = self.predictor.delta(shown["query"])
        predicted = self.predictor.corrected(shown["query"], delta)
        return Views(**shown, predicted=predicted, target=shown["positive"], residual=delta)

    @torch.no_grad()
    def diagnostics(self, views: Views) -> dict[str, float]:
        """Return mean and largest ‖delta‖, alpha, and the largest ‖prediction − query‖ of the batch."""
        assert isinstance(self.predictor, ResidualPredictor)
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
