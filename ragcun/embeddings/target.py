"""TargetBase: a small model's queries in the space of another model, whose document vectors stay as they are."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ragcun.batch import Features, Role
from ragcun.embeddings.base import DerivedBase, Vectors, VectorSource
from ragcun.embeddings.encode import ROWS
from ragcun.embeddings.text_base import TextBase
from ragcun.errors import InputError
from ragcun.tensors import normalize, tensors_digest

if TYPE_CHECKING:
    from sentence_transformers.sentence_transformer.modules import Dense
    from tqdm.auto import tqdm

DOCUMENTS = "document_vectors"
FITTED = 20_000
"""Texts of each side, evenly spaced, on which the map is fitted."""
PENALTIES = np.logspace(-6, 3, 19)


class Target:
    """The model that embeds documents, loaded when first asked for: its name, and the digest of its weights.

    Vectors come from its `source`, such as a cache, if there is one; copies of a `TargetBase` share it.
    """

    def __init__(self, name: str, dimension: int = 0, digest: str = "") -> None:
        self.name, self.dimension, self.digest = name, dimension, digest
        self.source: VectorSource | None = None
        self._base: TextBase | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Target:
        return self

    def __str__(self) -> str:
        return f"documents are embedded by {self.name!r} (digest of its weights: {self.digest}), which is not copied"

    def base(self, device: str | None = None) -> TextBase:
        """Return the model, by which a new target is described (InputError: it is not there, or another one)."""
        if self._base is None:
            base = TextBase.load(self.name, device=device)
            digest = tensors_digest(base.model.state_dict())
            if self.digest not in ("", digest):
                raise InputError(f"{self}; what is there has other weights ({digest}): restore that model")
            self._base, self.dimension, self.digest = base, base.dimension, digest
        return self._base


class TargetBase(DerivedBase):
    """A small text model, `dense`, for queries, and a `Target` for documents.

    Query vectors are ``W unit(x) + b``, W and b being `mapping`, which is not trained.
    """

    reads_texts = routes_roles = keeps_documents = True
    dense: TextBase

    def __init__(self, dense: TextBase, target: Target, mapping: Dense, normalize: bool = True) -> None:
        super().__init__(target.dimension, normalize, name=dense.name)
        self.dense, self.target, self.mapping = dense, target, mapping.requires_grad_(False)

    @property
    def documents(self) -> TextBase:
        """The text model of documents, which computes as the other does."""
        base = self.target.base(str(self.text_model.device))
        base.compute_in(self.dense.dtype, self.dense.backend)
        return base

    def mapped(self, vectors: Float[Tensor, "batch dense_dim"]) -> Float[Tensor, "batch dim"]:
        """Map vectors of the small model into the target's space."""
        weight = self.mapping.linear.weight
        mapped: Tensor = self.mapping.linear(nn.functional.normalize(vectors.to(weight), dim=-1))
        return mapped.to(weight.dtype)

    def encode(
        self, texts: list[str], role: Role, batch_size: int = ROWS, progress: tqdm[Any] | None = None
    ) -> Vectors:
        """Encode queries into mapped vectors, documents into the target's pooled ones, without gradient."""
        if role == "query":
            return self.mapped(torch.from_numpy(self.dense.encode(texts, role, batch_size, progress))).cpu().numpy()
        if self.target.source is not None:
            return self.target.source.encode(texts, role)
        return self.documents.encode(texts, role, batch_size, progress)

    def features(self, texts: list[str], role: Role) -> Features:
        """Return tokens of queries, or vectors of documents, as `forward` takes them."""
        tokens = role == "query"
        return self.dense.features(texts, role) if tokens else {DOCUMENTS: torch.from_numpy(self.encode(texts, role))}

    def forward(self, inputs: Float[Tensor, "batch dim"] | Features) -> Float[Tensor, "batch dim"]:
        """Return what the head sees: vectors as `encode` gives them, or what `features` gives, normalised if asked."""
        if not isinstance(inputs, Tensor):
            inputs = inputs[DOCUMENTS] if DOCUMENTS in inputs else self.mapped(self.dense(inputs))
        return self.finish(inputs, self.normalize)

    def first_modules(self) -> list[nn.Module]:
        """Return the modules of queries."""
        from sentence_transformers.sentence_transformer.modules import Normalize

        return [*self.dense.first_modules(), Normalize(), self.mapping]

    def fingerprint(self) -> str:
        """Digest of both models and the map."""
        parts = f"{self.dense.fingerprint()} {self.target.digest} {tensors_digest(self.mapping.state_dict())}"
        return hashlib.sha256(parts.encode()).hexdigest()

    def to_config(self) -> dict[str, Any]:
        """Return what is needed, beside the modules of queries, to make it again."""
        target = {name: getattr(self.target, name) for name in ("name", "dimension", "digest")}
        return {"dense": self.dense.to_config(), "target": target, "normalize": self.normalize}


def fit_mapping(dense: VectorSource, target: VectorSource, texts: Mapping[Role, Sequence[str]]) -> Dense:
    """Return the linear map from unit vectors of one model to those of another, by ridge regression on texts.

    The penalty, one of `PENALTIES`, is that of the least squared error of texts that are left out one at a time.
    """
    from sentence_transformers.sentence_transformer.modules import Dense
    from sklearn.linear_model import RidgeCV

    sampled = {role: some[:: -(-len(some) // FITTED)] for role, some in texts.items() if some}
    given, wanted = (
        np.concatenate([normalize(source.encode(some, role)).astype(float) for role, some in sampled.items()])
        for source in (dense, target)
    )
    fitted = RidgeCV(PENALTIES).fit(given, wanted)
    weight, bias = (torch.from_numpy(each).float() for each in (fitted.coef_, fitted.intercept_))
    return Dense(given.shape[1], wanted.shape[1], True, None, weight, bias)
