"""TextBase: an existing embedding model, what of it is frozen, and which vectors it passes on."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ragcun.batch import Features, Role
from ragcun.config import BASE_BACKENDS, DISTANCES
from ragcun.embeddings.base import Base, Vectors, as_texts
from ragcun.embeddings.encode import ROWS, Dtype, batches, evaluating, in_threads, resolve_dtype, token_budget
from ragcun.embeddings.hub import apply_convention, load_sentence_transformer, resolve_model
from ragcun.embeddings.openvino import TOKENS, OpenVino
from ragcun.errors import InputError, require_package
from ragcun.options import refuse
from ragcun.tensors import tensors_digest

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from tqdm.auto import tqdm


MOST, SEVERAL = 0.9, 32  # a few texts of a foreign script are not the tokenizer's fault
FACTORS = (".lora_A.", ".lora_B.")
"""What the weights of an adapter have in their names."""


class TextBase(Base):
    """An existing sentence-transformers model that turns texts into vectors, in float32 whatever its files hold.

    A closing ``Normalize`` module is taken off and applied by `forward` if `normalize`, so that cached vectors, the
    pooled ones, serve both settings. `name` is what the user called it; `ends_normalized`, whether the untouched model
    normalises, is read from the model where it is None.
    """

    reads_texts = True

    def __init__(
        self, model: SentenceTransformer, name: str, normalize: bool = True, ends_normalized: bool | None = None
    ) -> None:
        found = type(model[-1]).__name__ == "Normalize"
        if found:
            del model[-1]
        if model.similarity_fn_name not in DISTANCES:
            known = f"set similarity_fn_name in config_sentence_transformers.json to one of {', '.join(DISTANCES)}"
            raise InputError(f"base model {name!r} compares by {model.similarity_fn_name}, unknown here; {known}")
        dimension = model.get_embedding_dimension()
        if dimension is None:
            raise InputError(f"base model {name!r} does not state the length of its vectors; choose another")
        super().__init__(int(dimension), normalize, name=name)
        self.model, self.trained = model.float(), False
        self.dtype: Dtype = "float32"
        self.openvino: OpenVino | None = None
        self.ends_normalized = found if ends_normalized is None else ends_normalized

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
            raise ValueError(f"it names {config['modules']} base modules, the model has {len(model)}")
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

    def compute_in(self, dtype: str, backend: str = "torch") -> None:
        """Compute vectors with this dtype and backend from now on; the weights stay as loaded, also in checkpoints.

        A backend other than torch keeps the weights of its first batch.
        """
        resolved = resolve_dtype(dtype, self.model.device)
        known = f"--base_backend must be one of {', '.join(BASE_BACKENDS)}, got {backend!r}"
        narrow = "--base_dtype int8 needs --base_backend openvino; add it, or choose another dtype"
        refuse({known: backend not in BASE_BACKENDS, narrow: resolved == "int8" and backend == "torch"})
        found = OpenVino(self.model, resolved, self.name) if backend == "openvino" else None
        if self.openvino is None or found is None or self.openvino.settings != found.settings:
            self.openvino = found  # else what it has compiled stays
        self.dtype = resolved

    @property
    def backend(self) -> str:
        """What computes frozen vectors: torch or openvino."""
        return "openvino" if self.openvino else "torch"

    def encode(
        self, texts: list[str], role: Role, batch_size: int = ROWS, progress: tqdm[Any] | None = None
    ) -> Vectors:
        """Encode texts into pooled vectors ``(len(texts), dimension)``, not normalised, without gradient."""
        texts = as_texts(texts, role)
        out = np.empty((len(texts), self.dimension), dtype=np.float32)
        budget, unknown, tokens = TOKENS if self.openvino else token_budget(self.model.device), 0, 0
        with evaluating(self.model), self._computing(role) as threads:
            items = batches(texts, lambda some: self.features(some, role), budget, batch_size)
            for (rows, features), vectors in in_threads(lambda item: self._pooled(item[1], role), items, threads):
                out[rows] = vectors.cpu().numpy()
                unknown, tokens = np.add((unknown, tokens), self._count_tokens(features))
                if progress is not None:
                    progress.update(sum(len(texts[row]) for row in rows))
        if len(texts) >= SEVERAL and unknown > MOST * tokens:
            known = f"{unknown} of the {tokens} tokens of {len(texts)} {role} texts are unknown to its tokenizer"
            raise InputError(f"{self.name}: {known}; check the tokenizer's files, or choose another base")
        for row in np.flatnonzero(~np.isfinite(out).all(axis=1))[:1]:
            what = f"of {role} text {row} (from 0) of {len(texts)}, {texts[row]!r:.60}, is not finite"
            raise InputError(f"{self.name}: the vector {what}; copy the model again, or choose --base_dtype float32")
        return out

    def _computing(self, role: Role) -> AbstractContextManager[int]:
        if self.openvino is None:
            return nullcontext(1)
        return self.openvino.computing(
            self.model, self.fingerprint, lambda texts: self._pooled(self.features(texts, role), role)
        )

    def _count_tokens(self, features: Features) -> tuple[int, int]:
        """Return how many tokens are unknown, and how many there are, special ones left out."""
        tokenizer, mask = self.model.tokenizer, features.get("attention_mask")
        unknown, end = (getattr(tokenizer, f"{kind}_token_id", None) for kind in ("unk", "eos"))
        if mask is None or unknown in (None, end):
            return 0, 0
        special = len(mask) * tokenizer.num_special_tokens_to_add()
        return int(((features["input_ids"] == unknown) & (mask > 0)).sum()), int(mask.sum()) - special

    @torch.no_grad()
    def _pooled(self, features: Features, role: Role) -> Float[Tensor, "batch dim"]:
        # matrix products are computed in `dtype`, the weights stay as they are
        from sentence_transformers.util import batch_to_device

        device, half = self.model.device, self.dtype != "float32" and self.openvino is None
        with torch.autocast(device.type, dtype=getattr(torch, self.dtype) if half else None, enabled=half):
            return self._vectors(batch_to_device(dict(features), device), task=role).float()

    def _vectors(self, features: Features, **task: Role) -> Float[Tensor, "batch dim"]:
        # the one place where what autocast made narrower becomes as wide as the weights
        vectors: Tensor = self.model(dict(features), **task)["sentence_embedding"][:, : self.model.truncate_dim]
        return vectors.to(self.model.dtype)

    def forward(self, inputs: Float[Tensor, "batch dim"] | Features) -> Float[Tensor, "batch dim"]:
        """Return what the head sees: cached pooled vectors or tokenised texts, normalised if asked."""
        return self.finish(inputs if isinstance(inputs, Tensor) else self._vectors(inputs), self.normalize)

    def freeze(self, whole: bool = True, early_layers: int = 0) -> None:
        """Freeze the whole model, or its token embeddings and first `early_layers` transformer layers, or nothing.

        Of a model with adapters nothing but these is ever trained.
        """
        adapters = [weight for name, weight in self.model.named_parameters() if any(part in name for part in FACTORS)]
        self.model.requires_grad_(not whole and not adapters)
        for weight in adapters:
            weight.requires_grad_(not whole)
        self.trained = self.trained or not whole
        if whole or early_layers == 0:
            return
        layers = self._layers("freeze_early_layers", early_layers)
        embeddings = [module for name, module in self.model.named_modules() if name.endswith("embeddings")]
        for module in (*embeddings, *layers[:early_layers]):
            module.requires_grad_(False)

    def add_lora(self, rank: int, alpha: int | None, last_layers: int | None) -> None:
        """Put LoRA adapters into all linear maps of all, or the last, transformer layers; `freeze` says what trains.

        A layer computes ``(W + α/r · B A) x`` with its own W frozen; A (r × in) starts random and B (out × r) as zero,
        so that the model starts as the base. `alpha` is by default twice the rank.

        Source: Hu et al. 2021, arXiv:2106.09685, section 4.1.
        """
        require_package("peft", "lora")
        from peft import LoraConfig, inject_adapter_in_model
        from transformers.pytorch_utils import Conv1D

        layers = self._layers("lora_layers", last_layers or 1)
        layers = layers[-last_layers:] if last_layers else layers
        inside = {part for layer in layers for part in layer.modules() if isinstance(part, (nn.Linear, Conv1D))}
        names = [name for name, part in self.model.named_modules() if part in inside]
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha or 2 * rank, target_modules=names), self.model)

    def _layers(self, flag: str, least: int) -> list[nn.Module]:
        lists = [list(module) for module in self.model.modules() if isinstance(module, nn.ModuleList)]
        # the transformer layers are the longest list of modules of one class
        layers = max((each for each in lists if len({type(layer) for layer in each}) == 1), key=len, default=[])
        if least > len(layers):
            there = f"base model {self.name!r} has {len(layers)} transformer layers"
            raise InputError(f"{there}, give at most that many as --{flag}, not {least}")
        return layers

    def train(self, mode: bool = True) -> TextBase:
        """Set training mode; a frozen model stays in evaluation mode (no dropout)."""
        super().train(mode)
        if self.frozen:
            self.model.eval()
        return self

    def fingerprint(self) -> str:
        """Digest of all that decides the vectors: `model_digest`, and what computes them but for torch in float32."""
        how = f"openvino {self.openvino.settings}" if self.openvino else self.dtype
        with merged(self.model):
            digest = model_digest(self.model)
        return digest if how == "float32" else hashlib.sha256(f"{digest} {how}".encode()).hexdigest()


@contextmanager
def merged(model: nn.Module) -> Iterator[None]:
    """Show layers that have an adapter as plain ones of the merged weights; afterwards all is bit for bit as before."""
    inside = ((parent, name, child) for parent in model.modules() for name, child in parent.named_children())
    # peft, which may not be installed, makes these layers
    places: list[tuple[nn.Module, str, Any]] = [place for place in inside if hasattr(place[2], "get_delta_weight")]
    layers: dict[Any, Any] = {adapted: adapted.get_base_layer() for _, _, adapted in places}
    before = {layer: layer.weight.data for layer in layers.values()}
    try:
        for adapted, layer in layers.items():
            layer.weight.data = layer.weight.data + adapted.get_delta_weight("default").detach()
        for parent, name, adapted in places:
            setattr(parent, name, layers[adapted])
        yield
    finally:
        for layer, weight in before.items():
            layer.weight.data = weight
        for parent, name, adapted in places:
            setattr(parent, name, adapted)


def model_digest(model: SentenceTransformer) -> str:
    """Digest of all that decides vectors but prompts: weights, modules and their settings, configurations, tokenizers.

    Versions of libraries are in it without their last number.
    """
    libraries = ("sentence-transformers", "transformers")
    described: list[Any] = [version(library).rpartition(".")[0] for library in libraries]
    described += [tensors_digest(model.state_dict()), model.truncate_dim, model.max_seq_length]
    for name, module in model.named_modules():
        if hasattr(module, "get_config_dict"):
            config = getattr(module, "config", None)
            settings = {key: value for key, value in config.to_dict().items() if key not in UNSEEN} if config else {}
            described += [name, type(module).__name__, module.get_config_dict(), settings]
            described += [getattr(config, "_attn_implementation", None), *_tokenizer_settings(module)]
    stable = json.dumps(described, sort_keys=True, default=lambda v: sorted(v) if isinstance(v, set) else repr(type(v)))
    return hashlib.sha256(stable.encode()).hexdigest()


UNSEEN = ("_name_or_path", "architectures", "dtype", "transformers_version")
"""What of a transformer's configuration decides no vector."""
SEEN = ("truncation_side", "padding_side", "pad_token_id", "model_max_length", "model_input_names", "chat_template")


def _tokenizer_settings(module: nn.Module) -> list[Any]:
    tokenizer: Any = getattr(module, "tokenizer", None)
    fast = copy.deepcopy(getattr(tokenizer, "backend_tokenizer", tokenizer))
    if not hasattr(fast, "to_str"):
        return [type(tokenizer).__name__, getattr(tokenizer, "__dict__", None)]
    # each call sets these two anew, from the attributes
    fast.no_padding()
    fast.no_truncation()
    return [fast.to_str(), *(getattr(tokenizer, name, None) for name in SEEN)]
