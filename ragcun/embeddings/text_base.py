"""TextBase: an existing embedding model, what of it is frozen, and which vectors it passes on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ragcun.batch import Features, Role
from ragcun.config import BASE_BACKENDS, DISTANCES
from ragcun.embeddings.base import Base, Unloaded, Vectors, as_texts
from ragcun.embeddings.encode import (
    ROWS,
    Dtype,
    batches,
    evaluating,
    in_threads,
    resolve_device,
    resolve_dtype,
    token_budget,
)
from ragcun.embeddings.hub import apply_convention, load_sentence_transformer, resolve_model
from ragcun.embeddings.openvino import TOKENS, OpenVino
from ragcun.errors import InputError, require_package
from ragcun.io import file_digest, read_json, write_json
from ragcun.options import refuse
from ragcun.tensors import merged, model_digest

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from tqdm.auto import tqdm


MOST, SEVERAL = 0.9, 32  # a few texts of a foreign script are not the tokenizer's fault
FACTORS = (".lora_A.", ".lora_B.")
"""What the weights of an adapter have in their names."""
ABOUT = "ragcun model 1"
"""Format of the description of a model."""


class TextBase(Base):
    """An existing sentence-transformers model that turns texts into vectors, in float32 whatever its files hold.

    A closing ``Normalize`` module is taken off and applied by `forward` if `normalize`, so that cached vectors, the
    pooled ones, serve both settings. `name` is what the user called it; `ends_normalized`, whether the untouched model
    normalises, is read from the model where it is None.
    """

    reads_texts = True
    model: SentenceTransformer
    openvino: OpenVino | None = None
    checkpoint: Path | None = None  # that it is of
    dtype: Dtype = "float32"
    _unloaded: Unloaded | None = None

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
        self.ends_normalized = found if ends_normalized is None else ends_normalized

    @classmethod
    def load(
        cls, name: str | Path, normalize: bool = True, device: str | None = None, cache: Path | None = None
    ) -> TextBase:
        """Load a model by hub name, folder, ``minilm`` (packaged) or ``contriever``; InputError if that fails.

        With the folder of a `cache`, a model in a folder is loaded when first needed (`when_needed`).
        """
        name = os.fspath(name)
        path = resolve_model(name)
        folder = Path(path)
        if cache is not None and folder.is_dir():
            files = {each.relative_to(folder).as_posix(): each for each in folder.rglob("*") if each.is_file()}
            made_of = {each: file_digest(files[each]) for each in files if each[0] != "." and not each.endswith(".md")}
            return cls.when_needed(lambda: cls.load(name, normalize, device), made_of, cache, device, name, normalize)
        model = load_sentence_transformer(path, name, device)
        if not folder.is_dir():
            apply_convention(model, path)
        return cls(model, name, normalize)

    @classmethod
    def when_needed(
        cls, load: Callable[[], TextBase], made_of: Any, cache: Path, device: str | None, name: str, normalize: bool
    ) -> TextBase:
        """Return what `load` does, when it is first needed where `cache` describes a model that is `made_of` this."""
        libraries = [f"{each} {version(each)}" for each in ("sentence-transformers", "transformers", "torch")]
        key = hashlib.sha256(json.dumps([ABOUT, *libraries, made_of], sort_keys=True).encode()).hexdigest()[:32]
        path = cache / "models" / f"{key}.json"
        if not path.is_file():
            base = load()
            write_json(path, base._about())
            return base
        about, base = read_json(path), cls.__new__(cls)
        try:
            Base.__init__(base, about.pop("dimension"), normalize, name=name)
            base.trained, base.ends_normalized = about.pop("trained"), about.pop("ends_normalized")
            base._unloaded = Unloaded(**about, load=load, device=torch.device(resolve_device(device)), path=path)
        except (AttributeError, KeyError, TypeError) as error:
            raise InputError(f"{path} does not describe a model ({error!r}); delete that file") from error
        return base

    def _about(self) -> dict[str, Any]:
        model, names = self.model, ("dimension", "trained", "ends_normalized", "routes_roles")
        known = {name: getattr(model, name) for name in ("similarity_fn_name", "prompts", "default_prompt_name")}
        return {**known, **{name: getattr(self, name) for name in names}, "digest": self.fingerprint()}

    def __getattr__(self, name: str) -> Any:
        if name == "model" and (unloaded := self._unloaded) is not None:
            base = unloaded.load()
            if base.fingerprint() != unloaded.digest:
                raise InputError(f"{unloaded.path} describes another model than {self.name}; delete that file")
            self.model, self._unloaded = base.model, None
        return super().__getattr__(name)

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

    @property
    def settings(self) -> SentenceTransformer | Unloaded:
        """What has the model's distance, prompts and device, whether it is loaded or not."""
        return self._unloaded or self.model

    @property
    def routes_roles(self) -> bool:
        """Whether queries and documents go through different modules."""
        return self._unloaded.routes_roles if self._unloaded else super().routes_roles

    def compute_in(self, dtype: str, backend: str = "torch") -> None:
        """Compute vectors with this dtype and backend from now on; the weights stay as loaded, also in checkpoints.

        A backend other than torch keeps the weights of its first batch.
        """
        resolved = resolve_dtype(dtype, self.settings.device)
        known = f"--base_backend must be one of {', '.join(BASE_BACKENDS)}, got {backend!r}"
        narrow = "--base_dtype int8 needs --base_backend openvino; add it, or choose another dtype"
        refuse({known: backend not in BASE_BACKENDS, narrow: resolved == "int8" and backend == "torch"})
        found = OpenVino(self.model, resolved, self.name, self.checkpoint) if backend == "openvino" else None
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
        computing = self.openvino.computing(self, role) if self.openvino else nullcontext(1)
        budget, unknown, tokens = TOKENS if self.openvino else token_budget(self.model.device), 0, 0
        with evaluating(self.model), computing as threads:
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
        stacks = self._layers("freeze_early_layers", early_layers)
        embeddings = [module for name, module in self.model.named_modules() if name.endswith("embeddings")]
        for module in (*embeddings, *(layer for layers in stacks for layer in layers[:early_layers])):
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

        last = last_layers or 0  # of which a slice takes all
        layers = [layer for each in self._layers("lora_layers", last) for layer in each[-last:]]
        inside = {part for layer in layers for part in layer.modules() if isinstance(part, (nn.Linear, Conv1D))}
        names = [name for name, part in self.model.named_modules() if part in inside]
        none = f"base model {self.name!r} has no linear maps in transformer layers, which --lora_rank adapts"
        refuse({f"{none}; train it by --freeze_base False, or choose another": not names})
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha or 2 * rank, target_modules=names), self.model)

    def _layers(self, flag: str, least: int) -> list[list[nn.Module]]:
        """Return the layers of each transformer: the longest list in it of modules of one class."""
        stacks = []
        for part in [each for each in self.model.modules() if type(each).__name__ == "Transformer"] or [self.model]:
            lists = [list(module) for module in part.modules() if isinstance(module, nn.ModuleList)]
            stacks.append(max((each for each in lists if len({*map(type, each)}) == 1), key=len, default=[]))
        if least > (found := min(map(len, stacks))):
            there = f"base model {self.name!r} has {found} transformer layers"
            raise InputError(f"{there}, give at most that many as --{flag}, not {least}")
        return stacks

    def train(self, mode: bool = True) -> TextBase:
        """Set training mode; a frozen model stays in evaluation mode (no dropout)."""
        super().train(mode)
        if self.frozen and not self._unloaded:
            self.model.eval()
        return self

    def fingerprint(self) -> str:
        """Digest of all that decides the vectors: `model_digest`, and what computes them but for torch in float32."""
        how = f"openvino {self.openvino.settings}" if self.openvino else self.dtype
        if self._unloaded:
            digest = self._unloaded.digest
        else:
            with merged(self.model):
                digest = model_digest(self.model)
        return digest if how == "float32" else hashlib.sha256(f"{digest} {how}".encode()).hexdigest()
