"""IsotropicGaussianEncoder: one head for queries and documents, with an optional predictor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from ragcun.models.base import TextBase
from ragcun.models.encoder import PairBatch, RetrievalEncoder
from ragcun.models.export import dense_modules
from ragcun.models.heads import HeadConfig, build_head
from ragcun.views import Views


class IsotropicGaussianEncoder(RetrievalEncoder):
    """Text base → projection head → unnormalised embedding, shared by queries and documents.

    The optional predictor maps a query embedding to a guess of its document's embedding. It serves the predictive
    loss; retrieval uses the projections.

    Args:
        base: the text base, or its name (hub name, folder, ``minilm``).
        output_dim: length of the embeddings; None keeps the base's.
        head: ``residual``, ``linear`` or ``mlp``; or a whole `HeadConfig`.
        use_predictor: whether to have a predictor.
        predictor: its kind, as for `head`; or a whole `HeadConfig`.
    """

    system = "isotropic_gaussian"

    def __init__(
        self,
        base: TextBase | str = "minilm",
        output_dim: int | None = None,
        head: str | HeadConfig = "residual",
        use_predictor: bool = False,
        predictor: str | HeadConfig = "residual",
    ) -> None:
        super().__init__(TextBase.load(base) if isinstance(base, str) else base)
        dim = self.base.dimension
        config = HeadConfig(head, dim, dim if output_dim is None else output_dim) if isinstance(head, str) else head
        if config.input_dim != dim:
            raise ValueError(f"the head takes vectors of length {config.input_dim}, the base gives {dim}")
        self.head = build_head(config)
        self.predictor = None
        if use_predictor:
            out = config.output_dim
            shape = replace(config, kind=predictor) if isinstance(predictor, str) else predictor
            self.predictor = build_head(replace(shape, input_dim=out, output_dim=out))

    @property
    def dimension(self) -> int:
        """Length of the embeddings."""
        return self.head.config.output_dim

    def embed_query(self, vectors: Float[Tensor, "batch base_dim"]) -> Float[Tensor, "batch dim"]:
        """Project."""
        return self.head(vectors)

    def embed_document(self, vectors: Float[Tensor, "batch base_dim"]) -> Float[Tensor, "batch dim"]:
        """Project, with the same head."""
        return self.head(vectors)

    def training_views(self, batch: PairBatch) -> Views:
        """Project queries, positives and negatives; with a predictor, guess the positive from the query."""
        vectors, sizes = self.base_vectors(batch)
        query, positive, *rest = self.head(vectors).split(sizes)
        return Views(
            query=query,
            positive=positive,
            negative=rest[0] if rest else None,
            negative_mask=batch.negative_mask,
            relevant=batch.relevant,
            predicted=None if self.predictor is None else self.predictor(query),
            target=None if self.predictor is None else positive,
        )

    def start_from(self, vectors: Float[Tensor, "n base_dim"]) -> None:
        """Start a head that cuts dimensions as the projection that preserves these vectors best."""
        self.head.start_from(vectors)

    def parts(self) -> Mapping[str, nn.Module]:
        """Head, and predictor where there is one."""
        return {"head": self.head} | ({} if self.predictor is None else {"predictor": self.predictor})

    def to_config(self) -> dict[str, Any]:
        """Return the shapes of head and predictor."""
        predictor = None if self.predictor is None else self.predictor.config.to_dict()
        return {"head": self.head.config.to_dict(), "predictor": predictor}

    @classmethod
    def from_config(cls, base: TextBase, config: dict[str, Any]) -> IsotropicGaussianEncoder:
        """Build the encoder of `to_config`."""
        predictor = config["predictor"]
        return cls(
            base,
            head=HeadConfig(**config["head"]),
            use_predictor=predictor is not None,
            predictor="residual" if predictor is None else HeadConfig(**predictor),
        )

    def export_modules(self) -> list[nn.Module]:
        """Return the head as ``Dense`` modules."""
        return list(dense_modules(self.head))
