"""ProjectionEncoder: what every system of heads on a base has in common."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor, nn
from typing_extensions import Self

from ragcun.batch import PairBatch, Role, Views
from ragcun.config import HeadConfig
from ragcun.embeddings.base import Base
from ragcun.embeddings.text_base import TextBase
from ragcun.models.encoder import RetrievalEncoder
from ragcun.models.heads import Head, HeadShape, Stackable, dense_modules

QUERY_EMBEDDINGS = ("projection", "prediction")


class ProjectionEncoder(RetrievalEncoder):
    """Base → projection head → embedding, with an optional predictor of the document's embedding from the query's.

    Args:
        base: the base, or the name of a text base (hub name, folder, ``minilm``).
        output_dim: length of the embeddings; None keeps the base's.
        head: ``residual``, ``linear`` or ``mlp``; or a whole `HeadShape`.
        use_predictor: None means what the system is defined with.
        predictor: its kind or `HeadShape`; None means the system's own kind.
        query_embedding: what retrieval uses as a query's embedding, ``projection`` or ``prediction``.
        normalize_output: whether embeddings are scaled to length 1; not possible with a predictor.
    """

    predictor_class: ClassVar[type[Stackable]] = Head

    def __init__(
        self,
        base: Base | str | Path = "minilm",
        output_dim: int | None = None,
        head: str | HeadShape = HeadConfig.head,
        use_predictor: bool | None = None,
        predictor: str | HeadShape | None = None,
        query_embedding: str = HeadConfig.query_embedding,
        normalize_output: bool = False,
    ) -> None:
        super().__init__(TextBase.load(base) if isinstance(base, (str, Path)) else base)
        dim = self.base.dimension
        shape = HeadShape(head, dim, dim if output_dim is None else output_dim) if isinstance(head, str) else head
        if not isinstance(shape, HeadShape):
            raise TypeError(f"head must be the name of a kind or a HeadShape, got {head!r:.60}")
        if not {use_predictor, normalize_output} <= {True, False, None}:
            raise ValueError(f"must be True or False: {use_predictor=!r:.60}, {normalize_output=!r:.60}")
        if shape.input_dim != dim:
            raise ValueError(f"the head takes vectors of length {shape.input_dim}, the base gives {dim}")
        predicts = self.always_predicts if use_predictor is None else use_predictor
        if self.always_predicts and not predicts:
            raise ValueError(f"a {self.system} encoder always has a predictor; leave use_predictor out")
        if query_embedding not in QUERY_EMBEDDINGS:
            raise ValueError(f"query_embedding must be one of {', '.join(QUERY_EMBEDDINGS)}, got {query_embedding!r}")
        if query_embedding == "prediction" and not predicts:
            raise ValueError("query_embedding 'prediction' needs a predictor; set use_predictor")
        if self.base.keeps_documents and shape.output_dim != dim:
            raise ValueError(f"documents keep the length {dim} of the target model's vectors, got {shape.output_dim}")
        if normalize_output and predicts:
            raise ValueError("normalize_output cannot be combined with a predictor; leave one of them out")
        self.query_embedding = query_embedding
        self.normalize_output = normalize_output
        self.head = Head(shape)
        # of documents that stay as they are it is the identity
        kept = Head(HeadShape("linear", dim, dim)).requires_grad_(False) if self.base.keeps_documents else None
        self.documents: Head | None = kept
        self.dimension = shape.output_dim
        self.predictor: Stackable | None = None
        if predicts:
            kind = self.predictor_kind if predictor is None else predictor
            if isinstance(kind, str):
                kind = replace(shape, kind=kind, matrix_skip=False, start="preserving")
            self.predictor = self.predictor_class(replace(kind, input_dim=self.dimension, output_dim=self.dimension))
        self.shows = frozenset() if self.predictor is None else self.predictor.shows

    @property
    def document_head(self) -> Head:
        """The head of documents, that of queries where they share it."""
        return self.head if self.documents is None else self.documents

    def freeze_side(self, side: Role) -> None:
        """Freeze the head of queries or of documents."""
        if self.documents is None:
            super().freeze_side(side)
        (self.head if side == "query" else self.document_head).requires_grad_(False)

    def embed_query(self, vectors: Float[Tensor, "batch base_dim"]) -> Float[Tensor, "batch dim"]:
        """Project; where `query_embedding` says so, predict the document's embedding from that."""
        query = self._through(self.head, vectors)
        return query if self.query_embedding == "projection" or self.predictor is None else self.predictor(query)

    def embed_document(self, vectors: Float[Tensor, "batch base_dim"]) -> Float[Tensor, "batch dim"]:
        """Project."""
        return self._through(self.document_head, vectors)

    def _through(self, head: Head, vectors: Float[Tensor, "batch base_dim"]) -> Float[Tensor, "batch dim"]:
        if not torch.is_grad_enabled() and self._passes_on(head):
            return vectors
        return self.finish(head(vectors))

    def _passes_on(self, head: Head) -> bool:
        """Whether a head gives the base's vectors bit for bit: an identity, after which length 1 needs no scaling."""
        return (self.base.normalize or not self.normalize_output) and head.stack().is_identity

    def finish(self, embeddings: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """Scale rows to length 1 where `normalize_output` says so."""
        return self.base.finish(embeddings, self.normalize_output)

    def project(self, batch: PairBatch) -> dict[str, Any]:
        """Return the fields of `Views` that all systems share: projections, masks."""
        fields = ("query", "positive", "negative", "pool")
        inputs = {name: part for name in fields if (part := getattr(batch, name)) is not None}
        if all(isinstance(part, Tensor) for part in inputs.values()):
            sizes, vectors = list(map(len, inputs.values())), self.base(torch.cat(list(inputs.values())))
        else:
            each = [self.base(part) for part in inputs.values()]
            sizes, vectors = list(map(len, each)), torch.cat(each)
        if self.document_head is self.head:
            rows = self.finish(self.head(vectors)).split(sizes)
        else:
            query = self.finish(self.head(vectors[: sizes[0]]))
            rows = query, *self.finish(self.document_head(vectors[sizes[0] :])).split(sizes[1:])
        masks = {name: getattr(batch, name) for name in ("negative_mask", "relevant", "pool_relevant", "teacher")}
        return dict(zip(inputs, rows, strict=True)) | masks

    def forward(self, batch: PairBatch) -> Views:
        """Project queries, positives and negatives; with a predictor, guess the positive from the query."""
        shown = self.project(batch)
        if self.predictor is None:
            return Views(**shown)
        return Views(**shown, **self.predictor.predict(shown["query"]), target=shown["positive"])

    def start_from(self, vectors: Float[Tensor, "n base_dim"]) -> None:
        """Start heads that cut dimensions as the projection that preserves these vectors best."""
        for head in {self.head, self.document_head}:
            head.start_from(vectors)

    def start_as(self, weight: ArrayLike, query_shift: ArrayLike) -> None:
        """Start heads as ``W x`` for documents and ``W (x − g)`` for queries, whose base vectors have length 1.

        One head for both starts as ``W x``: it cannot hold a shift of queries alone.
        """
        if not self.base.normalize:
            raise ValueError("this start needs base vectors of length 1; load the base with normalize=True")
        matrix, shift = torch.as_tensor(weight), torch.as_tensor(query_shift)
        self.head.start_as(matrix, -matrix @ shift)
        self.document_head.start_as(matrix, torch.zeros(len(matrix)))

    def parts(self) -> Mapping[str, nn.Module]:
        """Head, or heads, and predictor where there is one."""
        heads = self.head if self.document_head is self.head else nn.ModuleList([self.head, self.document_head])
        return {"head": heads} | ({} if self.predictor is None else {"predictor": self.predictor})

    def to_config(self) -> dict[str, Any]:
        """Return the shapes of head and predictor, and what an embedding is."""
        predictor = None if self.predictor is None else self.predictor.config.to_dict()
        settings = {"query_embedding": self.query_embedding, "normalize_output": self.normalize_output}
        return {"head": self.head.config.to_dict(), "predictor": predictor, **settings}

    @classmethod
    def from_config(cls, base: Base, config: dict[str, Any]) -> Self:
        """Build the encoder of `to_config`; without ``normalize_output``, embeddings are not normalised."""
        predictor = None if config["predictor"] is None else HeadShape(**config["predictor"])
        settings = {"query_embedding": config["query_embedding"], "predictor": predictor}
        settings |= {"use_predictor": predictor is not None, "normalize_output": config.get("normalize_output", False)}
        return cls(base, head=HeadShape(**config["head"]), **settings)

    def export_modules(self) -> list[nn.Module]:
        """Return the head as ``Dense`` and ``Normalize``, behind a ``Router`` where queries and documents differ."""
        from sentence_transformers.sentence_transformer.modules import Router

        query = self._dense(self.head)
        if self.query_embedding == "prediction" and self.predictor is not None:
            query += dense_modules(self.predictor.stack())
        elif self.document_head is self.head:
            return query
        if self.base.keeps_documents:
            return query
        return [Router.for_query_document(query, self._dense(self.document_head))]  # type: ignore[arg-type]

    def _dense(self, head: Head) -> list[nn.Module]:
        from sentence_transformers.sentence_transformer.modules import Normalize

        scaling = [Normalize()] if self.normalize_output and not self._passes_on(head) else []
        return [*dense_modules(head.stack()), *scaling]


def interpolate_with_base(
    encoder: ProjectionEncoder, share: float, vectors: Mapping[Role, ArrayLike] | None = None
) -> ProjectionEncoder:
    """Return an encoder whose embedding is ``[√(1 − share)·h(x), √share·x]``; h is the head and x what it sees.

    Squared Euclidean distances are then exactly ``(1 − share)·‖h(q) − h(d)‖² + share·‖q − d‖²``.

    Where the encoder scales embeddings to length 1, h(x) is divided by the mean length of the heads' outputs on
    `vectors` (cached base vectors of either side or both), and the whole is scaled to length 1: exact where all outputs
    have one length. The base is shared, heads are copied. A share of 0 returns the encoder itself.
    """
    if encoder.predictor is not None:
        raise ValueError(f"a {encoder.system} encoder with a predictor cannot be interpolated; train without")
    if share == 0:
        return encoder
    length = _mean_length(encoder, vectors or {}) if encoder.normalize_output else 1.0
    factors = sqrt(1 - share) / length, sqrt(share)
    shape = encoder.head.config
    shape = replace(shape, output_dim=shape.output_dim + shape.input_dim)
    if shape.kind != "linear":
        shape = replace(shape, kind="residual", matrix_skip=True)
    wider = type(encoder).from_config(encoder.base, encoder.to_config() | {"head": shape.to_dict()})
    for head, copied in {encoder.head: wider.head, encoder.document_head: wider.document_head}.items():
        _copy_beside_input(head, copied, *factors)
    return wider.to(next(encoder.head.parameters()).device).train(encoder.training)


@torch.no_grad()
def _copy_beside_input(head: Head, wider: Head, of_head: float, of_input: float) -> None:
    """Set a wider head so that it computes ``[of_head·head(x), of_input·x]``."""
    stack, last, dim = head.stack(), wider.linears[-1], head.config.input_dim
    wider.layers[:-1].load_state_dict(head.layers[:-1].state_dict())
    weight, bias = stack.layers[-1]
    identity = of_input * torch.eye(dim).to(weight)
    below = identity if wider.skip is None else weight.new_zeros(dim, weight.shape[1])
    last.weight.copy_(torch.cat([of_head * weight, below]))
    last.bias.copy_(torch.cat([of_head * bias, bias.new_zeros(dim)]))
    if wider.skip is not None:
        above = weight.new_zeros(head.config.output_dim, dim) if stack.skip is None else of_head * stack.skip
        wider.skip.copy_(torch.cat([above, identity]))


def _mean_length(encoder: ProjectionEncoder, vectors: Mapping[Role, ArrayLike]) -> float:
    if not encoder.base.normalize:
        raise ValueError("embeddings of length 1 need base vectors of length 1; load the base with normalize=True")
    raw = copy.copy(encoder)
    raw.normalize_output = False
    given = [(role, np.asarray(rows, dtype=np.float32)) for role, rows in vectors.items()]
    means = [np.linalg.norm(raw.embed(rows, role).astype(float), axis=1).mean() for role, rows in given if len(rows)]
    if not means:
        raise ValueError("embeddings of length 1 are scaled by the mean length of the head's outputs; give vectors")
    length = float(np.mean(means))
    if not 0 < length < float("inf"):
        raise ValueError(f"the mean length of the head's outputs must be above 0 and finite, got {length}")
    return length
