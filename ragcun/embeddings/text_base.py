"""TextBase: an existing embedding model, what of it is frozen, and which vectors it passes on."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ragcun.batch import Features, Role
from ragcun.embeddings.base import Base, Vectors, as_texts
from ragcun.embeddings.encode import ROWS, Dtype, batches, evaluating, resolve_dtype, token_budget
from ragcun.embeddings.hub import apply_convention, load_sentence_transformer, resolve_model
from ragcun.errors import InputError
from ragcun.tensors import tensors_digest

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from tqdm.auto import tqdm


class TextBase(Base):
    """An existing sentence-transformers model that turns texts into vectors.

    A closing ``Normalize`` module is taken off and applied by `forward` if `normalize`, so that cached vectors, the
    pooled ones, serve both settings. `name` is what the user called it; `ends_normalized`, whether the untouched model
    normalises, is read from the model where it is None.
    """

    reads_texts: ClassVar[bool] = True

    def __init__(
        self, model: SentenceTransformer, name: str, normalize: bool = True, ends_normalized: bool | None = None
    ) -> None:
        super().__init__()
        found = type(model[-1]).__name__ == "Normalize"
        if found:
            del model[-1]
        self.model, self.name, self.normalize = model, name, normalize
        self.trained = False
        self.dtype: Dtype = "float32"
        self.ends_normalized = found if ends_normalized is None else ends_normalized
        dimension = model.get_embedding_dimension()
        if dimension is None:
            raise InputError(f"base model {name!r} does not say how long its vectors are; choose another")
        self.dimension = int(dimension)

    @classmethod
    def load(cls, name: str | Path, normalize: bool = True, device: str | None = None) -> TextBase:
        """Load a model by hub name, folder, ``minilm`` (packaged) or ``contriever``; InputError if that fails."""
        name = os.fspath(name)
        path = resolve_model(name)
        model = load_sentence_transformer(path, name, device)
        if not Path(path).is_dir():
            apply_convention(model, path)
        return cls(model, name, normalize)

    @classmethod
    def from_config(cls, model: SentenceTransformer, config: dict[str, Any]) -> TextBase:
        """Take the base out of an exported model: its first modules, as `to_config` counted them."""
        if not 1 <= config["modules"] <= len(model):
            raise ValueError(f"it speaks of {config['modules']} base modules, the model has {len(model)}")
        del model[config["modules"] :]
        model.similarity_fn_name = config["distance"]
        base = cls(model, config["name"], config["normalize"], config["ends_normalized"])
        base.trained = config.get("trained", False)
        return base

    def to_config(self) -> dict[str, Any]:
        """Return what `from_config` needs beside the exported model."""
        stored = {name: getattr(self, name) for name in ("name", "normalize", "ends_normalized", "distance", "trained")}
        return stored | {"modules": len(self.model)}

    @property
    def text_model(self) -> SentenceTransformer:
        """The sentence-transformers model, without a closing ``Normalize``."""
        return self.model

    def compute_in(self, dtype: str) -> None:
        """Compute vectors with this dtype from now on; the weights stay as loaded, in memory and in checkpoints."""
        self.dtype = resolve_dtype(dtype, self.model.device)

    def encode(
        self, texts: list[str], role: Role, batch_size: int = ROWS, progress: tqdm[Any] | None = None
    ) -> Vectors:
        """Encode texts into pooled vectors ``(len(texts), dimension)``, not normalised, without gradient."""
        texts = as_texts(texts, role)
        out = np.empty((len(texts), self.dimension), dtype=np.float32)
        budget = token_budget(self.model.device)
        with evaluating(self.model):
            for rows, features in batches(texts, lambda some: self.features(some, role), budget, batch_size):
                out[rows] = self._pooled(features, role).cpu().numpy()
                if progress is not None:
                    progress.update(sum(len(texts[row]) for row in rows))
        return out

    @torch.no_grad()
    def _pooled(self, features: Features, role: Role) -> Float[Tensor, "batch dim"]:
        # matrix products are computed in `dtype`, the weights stay as they are
        from sentence_transformers.util import batch_to_device

        device, half = self.model.device, self.dtype != "float32"
        with torch.autocast(device.type, dtype=getattr(torch, self.dtype) if half else None, enabled=half):
            vectors = self.model(batch_to_device(dict(features), device), task=role)["sentence_embedding"]
        return vectors[:, : self.model.truncate_dim].float()

    def forward(self, inputs: Float[Tensor, "batch dim"] | Features) -> Float[Tensor, "batch dim"]:
        """Return what the head sees: cached pooled vectors or tokenised texts, normalised if asked."""
        vectors = inputs if isinstance(inputs, Tensor) else self.model(dict(inputs))["sentence_embedding"]
        return self.finish(vectors, self.normalize)

    def freeze(self, whole: bool = True, early_layers: int = 0) -> None:
        """Freeze the whole model, or its token embeddings and first `early_layers` transformer layers, or nothing."""
        self.model.requires_grad_(not whole)
        self.trained = self.trained or not whole
        if whole or early_layers == 0:
            return
        lists = [list(module) for module in self.model.modules() if isinstance(module, nn.ModuleList)]
        # the transformer layers are the longest list of modules of one class
        layers = max((each for each in lists if len({type(layer) for layer in each}) == 1), key=len, default=[])
        if early_layers > len(layers):
            raise InputError(
                f"base model {self.name!r} has {len(layers)} transformer layers, give at most that many as "
                f"--freeze_early_layers, not {early_layers}"
            )
        embeddings = [module for name, module in self.model.named_modules() if name.endswith("embeddings")]
        for module in (*embeddings, *layers[:early_layers]):
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> TextBase:
        """Set training mode; a frozen model stays in evaluation mode (no dropout)."""
        super().train(mode)
        if self.frozen:
            self.model.eval()
        return self

    def fingerprint(self) -> str:
        """Digest of all that decides the vectors: `model_digest`, and the dtype where it is not float32."""
        digest = model_digest(self.model)
        return digest if self.dtype == "float32" else hashlib.sha256(f"{digest} {self.dtype}".encode()).hexdigest()


def model_digest(model: SentenceTransformer) -> str:
    """Digest of weights, modules, their settings, tokenizer and length limit; not of prompts, nor of the distance."""
    digest = hashlib.sha256(tensors_digest(model.state_dict()).encode())
    for module in model.children():
        digest.update(type(module).__name__.encode())
        if type(module).__name__ != "Transformer":
            settings: Any = module.get_config_dict()  # type: ignore[operator]
            digest.update(json.dumps(dict(settings), sort_keys=True, default=str).encode())
    tokenizer: Any = model.tokenizer
    fast = copy.deepcopy(getattr(tokenizer, "backend_tokenizer", None))
    if fast is not None:
        fast.no_padding()
        fast.no_truncation()
    digest.update((repr(tokenizer) if fast is None else str(fast.to_str())).encode())
    digest.update(str(model.max_seq_length).encode())
    return digest.hexdigest()
