"""Base, which gives the vectors that heads stand on, and VectorSource, a place that holds them."""

from __future__ import annotations

import abc
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from ragcun.config import Distance
from ragcun.data.records import is_encodable
from ragcun.errors import InputError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from tqdm.auto import tqdm

    from ragcun.batch import Features, Role

Rows = NDArray[np.int64]
Vectors = NDArray[np.float32]
ROLES = ("query", "document")
NO_TEXTS = "heads on vectors alone have no text model; give vectors (--vectors DIR, or load_head(folder).embed_queries)"


def check_role(role: str) -> None:
    """Raise ValueError unless a role is known."""
    if role not in ROLES:
        raise ValueError(f"role must be {' or '.join(ROLES)}, got {role!r:.60}")


def as_texts(texts: Iterable[str], role: str) -> list[str]:
    """Return texts as a list; TypeError names what is no text, ValueError an unknown role."""
    check_role(role)
    unordered = isinstance(texts, (str, bytes, Mapping, set, frozenset)) or getattr(texts, "ndim", 1) != 1
    if unordered or not isinstance(texts, Iterable):
        raise TypeError(f"texts must be a list (or Series) of str, got {type(texts).__name__}")
    several = list(texts)
    for number, text in enumerate(several):
        if not (isinstance(text, str) and is_encodable(text)):
            raise TypeError(f"texts must be str of Unicode, number {number} (from 0) is {text!r:.60}; leave it out")
    return several


@dataclass(frozen=True)
class Unloaded:
    """What cached vectors need of a model, by sentence-transformers' names, and what loads it."""

    load: Callable[[], Any]  # returns a base
    similarity_fn_name: str
    prompts: dict[str, str]
    default_prompt_name: str | None
    routes_roles: bool
    digest: str
    device: torch.device
    path: Path  # of the description


class Base(nn.Module):
    """Gives the vectors that heads stand on: those of a model that is elsewhere, unless a subclass has a text model.

    Whatever needs one raises InputError. Vectors have the length `dimension`, and `digest` is their fingerprint;
    `forward` scales them to length 1 if `normalize`, the untouched base if `ends_normalized`.
    """

    ends_normalized: bool = False
    reads_texts: bool = False
    keeps_documents: bool = False  # as another model embeds them, with no head

    def __init__(self, dimension: int, normalize: bool = True, digest: str = "", name: str = "vectors") -> None:
        super().__init__()
        self.dimension, self.normalize, self.digest, self.name = dimension, normalize, digest, name

    @property
    def frozen(self) -> bool:
        """Whether no parameter is trained, so that every text need be encoded only once."""
        return not any(parameter.requires_grad for parameter in self.parameters())

    @property
    def text_model(self) -> SentenceTransformer:
        """The sentence-transformers model, without a closing ``Normalize``."""
        raise InputError(NO_TEXTS)

    @property
    def settings(self) -> Any:
        """What has the text model's distance, prompts and device."""
        return self.text_model

    @property
    def distance(self) -> Distance:
        """The distance of the untouched base's embeddings, cosine where it names none."""
        return cast("Distance", self.settings.similarity_fn_name) if self.reads_texts else "cosine"

    @property
    def routes_roles(self) -> bool:
        """Whether queries and documents go through different modules."""
        return any(type(module).__name__ == "Router" for module in self.text_model.children())

    def prompt(self, role: Role) -> str:
        """Return the text that the model's configuration puts before a query or a document."""
        prompts, default = self.settings.prompts, self.settings.default_prompt_name
        names = ("query", default) if role == "query" else ("document", "passage", "corpus", default)
        return next((prompts[name] or "" for name in names if name in prompts), "")

    def encode(self, texts: list[str], role: Role, batch_size: int = 32, progress: tqdm[Any] | None = None) -> Vectors:
        """Encode texts into vectors ``(len(texts), dimension)``, and count their characters on a progress bar."""
        raise InputError(NO_TEXTS)

    def features(self, texts: list[str], role: Role) -> Features:
        """Tokenise texts, with the prompt of their role, into what `forward` takes."""
        return self.text_model.preprocess(texts, prompt=self.prompt(role) or None, task=role)

    def first_modules(self) -> list[nn.Module]:
        """Return the modules that give `forward`'s vectors, but for their scaling, in a sentence-transformers model."""
        return list(self.text_model.children())

    def plain_model(
        self, scaled: bool, distance: Distance, modules: Sequence[nn.Module] = (), side: Role | None = None
    ) -> SentenceTransformer:
        """Return a model of the base's modules, whose vectors may be `scaled` to length 1, and others after them.

        With a `side`, it has the modules and the prompt of that side alone, so that whatever is encoded is of it.
        """
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Normalize, Router

        model = self.text_model
        parts = [*self.first_modules(), *([Normalize()] if scaled else []), *modules]
        prompts, default = {name: prompt or "" for name, prompt in model.prompts.items()}, model.default_prompt_name
        if side is not None:
            routes = (
                part.sub_modules[str(part._resolve_route(side, "text"))].children()
                if isinstance(part, Router)
                else [part]
                for part in parts
            )
            parts = list(itertools.chain.from_iterable(routes))
            prompts, default = dict.fromkeys(ROLES, self.prompt(side)), side
        return SentenceTransformer(
            modules=parts,
            similarity_fn_name=distance,
            prompts=prompts,
            default_prompt_name=default,
            device=str(model.device),
        )

    def checkpoint_activations(self) -> None:
        """Recompute the transformer's activations in the backward pass instead of keeping them."""
        transformer = self.text_model.transformers_model
        if transformer is None:
            raise InputError(f"base model {self.name!r} is not a transformer; leave out --gradient_checkpointing")
        if hasattr(transformer, "activation_checkpointing_enable"):
            transformer.activation_checkpointing_enable()
        else:  # transformers 4, whose default gives no gradients behind frozen layers
            transformer.gradient_checkpointing_enable({"use_reentrant": False})

    def turn_dropout_off(self) -> None:
        """Train the transformer without dropout, which on a CPU keeps attention from its fused implementation."""
        for module in self.text_model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            elif isinstance(getattr(module, "attention_dropout", None), float):  # what a functional call reads
                setattr(module, "attention_dropout", 0.0)  # noqa: B010

    def compute_in(self, dtype: str, backend: str = "torch") -> None:
        """Compute vectors with this dtype and backend from now on, or raise InputError where that is not possible."""
        for flag, value, default in (("dtype", dtype, "float32"), ("backend", backend, "torch")):
            if value != default:
                needs = f"--base_{flag} {value} needs a text model"
                raise InputError(f"{needs}, and {self.name!r} has none; leave it out")

    def add_lora(self, rank: int, alpha: int | None, last_layers: int | None) -> None:
        """Put LoRA adapters into the text model, or raise InputError where there is none."""
        raise InputError(f"--lora_rank {rank} needs a text model, and {self.name!r} has none; leave it out")

    def forward(self, inputs: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """Return what the head sees: the vectors, normalised if asked."""
        return self.finish(inputs, self.normalize)

    def freeze(self, whole: bool = True, early_layers: int = 0) -> None:
        """Freeze all of it, or its first layers, or nothing; InputError where there is nothing to train."""
        if not whole:
            raise InputError("vectors cannot be trained, only heads on them; leave --freeze_base as it is")

    def fingerprint(self) -> str:
        """Digest of all that decides the vectors."""
        return self.digest

    def to_config(self) -> dict[str, Any]:
        """Return what is needed, beside a text model, to make it again."""
        return {"name": self.name, "dimension": self.dimension, "normalize": self.normalize, "digest": self.digest}

    @property
    def untouched(self) -> Base:
        """The model as a user has it without ragcun."""
        return self

    def untouched_array(self, vectors: Vectors) -> Vectors:
        """Return the embeddings of the untouched base, from its pooled vectors."""
        return self.finish(torch.from_numpy(np.ascontiguousarray(vectors)), self.ends_normalized).numpy()

    @staticmethod
    def finish(vectors: Float[Tensor, "batch dim"], normalize: bool) -> Float[Tensor, "batch dim"]:
        """Scale rows to length 1 where asked."""
        return nn.functional.normalize(vectors, dim=-1) if normalize else vectors


class DerivedBase(Base):
    """A base with parts that are never trained around another one, `dense`."""

    dense: Base

    @property
    def untouched(self) -> Base:
        """The inner base alone."""
        return self.dense

    @property
    def text_model(self) -> SentenceTransformer:
        """The inner base's."""
        return self.dense.text_model

    @property
    def settings(self) -> Any:
        """The inner base's."""
        return self.dense.settings

    def freeze(self, whole: bool = True, early_layers: int = 0) -> None:
        """Freeze the inner base as `TextBase.freeze` does."""
        self.dense.freeze(whole, early_layers)

    def add_lora(self, rank: int, alpha: int | None, last_layers: int | None) -> None:
        """Put LoRA adapters into the inner base."""
        self.dense.add_lora(rank, alpha, last_layers)

    def compute_in(self, dtype: str, backend: str = "torch") -> None:
        """Compute dense vectors with this dtype and backend from now on."""
        self.dense.compute_in(dtype, backend)


class VectorSource(abc.ABC):
    """Base vectors of texts: a cache that encodes what is missing, or a store; ``source[rows]`` copies some of them.

    `fingerprint` is the base's.
    """

    base: Base
    dimension: int
    fingerprint: str

    @property
    def untouched(self) -> VectorSource:
        """The vectors of the untouched base."""
        return self

    @abc.abstractmethod
    def __getitem__(self, rows: Rows, /) -> Vectors: ...

    @abc.abstractmethod
    def rows(self, texts: Sequence[str], role: Role) -> Rows:
        """Return the row of each text."""

    def encode(self, texts: Sequence[str], role: Role) -> Vectors:
        """Return the vectors of texts ``(len(texts), dimension)``."""
        return self[self.rows(as_texts(texts, role), role)]
