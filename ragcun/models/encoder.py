"""RetrievalEncoder, which every encoder system is, and the registry of systems."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from safetensors import SafetensorError
from torch import Tensor, nn

from ragcun.batch import Role, Views
from ragcun.data.overlap import HELD_OUT, SEEN, HoldOut
from ragcun.embeddings.base import Base, Vectors, as_texts, check_role
from ragcun.embeddings.encode import ROWS, evaluating, progress_bar, resolve_device
from ragcun.embeddings.hub import model_folder
from ragcun.embeddings.joined import JoinedBase
from ragcun.embeddings.target import TargetBase
from ragcun.embeddings.text_base import TextBase
from ragcun.errors import InputError
from ragcun.io import replacing_folder, write_json, write_text
from ragcun.models.checkpoint import CARD, DENSE, LEXICAL, TRAINED, read_folder, seal_folder
from ragcun.options import load_plugins
from ragcun.tensors import copy_strictly, merged

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from typing_extensions import Self

BLOCK = 8192
PLUGIN = "plugin"
"""The file of an own system's class, in the description of its checkpoints."""
SYSTEMS: dict[str, type[RetrievalEncoder]] = {}
"""The encoder systems by name; the only place where a name becomes a class."""
System = TypeVar("System", bound="type[RetrievalEncoder]")


def register_system(cls: System) -> System:
    """Make an encoder system known by its ``system``, for ``--system`` and for loading its checkpoints; a decorator."""
    name = vars(cls).get("system")
    if not name or SYSTEMS.get(name, cls).__qualname__ != cls.__qualname__:
        raise ValueError(f"{cls.__name__} needs a `system` of its own, beside {', '.join(SYSTEMS)}; got {name!r}")
    SYSTEMS[name] = cls
    return cls


class RetrievalEncoder(nn.Module, abc.ABC):
    """A base with trainable parts on top; a subclass says which parts, and by `forward` turns `PairBatch` into `Views`.

    Embeddings, of length `dimension`, are compared by Euclidean distance. `system` is the name in `SYSTEMS`,
    `predictor_kind` the default kind, `shows` which optional fields of `Views` are filled: predicted, residual.
    """

    system: ClassVar[str]
    always_predicts: ClassVar[bool] = False
    predictor_kind: ClassVar[str] = "residual"
    dimension: int
    shows: frozenset[str]

    def __init__(self, base: Base) -> None:
        super().__init__()
        if not isinstance(base, Base):
            raise TypeError(f"a base is a TextBase, or a model's name or folder, got {type(base).__name__}")
        self.base = base

    @abc.abstractmethod
    def embed_query(self, vectors: Float[Tensor, "batch base_dim"]) -> Float[Tensor, "batch dim"]:
        """Map what `Base.forward` gives for queries to embeddings."""

    @abc.abstractmethod
    def embed_document(self, vectors: Float[Tensor, "batch base_dim"]) -> Float[Tensor, "batch dim"]:
        """Map what `Base.forward` gives for documents to embeddings."""

    @abc.abstractmethod
    def parts(self) -> Mapping[str, nn.Module]:
        """Return the trained parts beside the base, by the name of their learning rate (``head``, ``predictor``)."""

    @abc.abstractmethod
    def to_config(self) -> dict[str, Any]:
        """Return all that is needed, beside weights, to build this encoder again."""

    @classmethod
    @abc.abstractmethod
    def from_config(cls, base: Base, config: dict[str, Any]) -> RetrievalEncoder:
        """Build an encoder from `to_config`'s value."""

    @abc.abstractmethod
    def export_modules(self) -> list[nn.Module]:
        """Return the built-in sentence-transformers modules that follow the base's own in an exported folder."""

    def start_from(self, vectors: Float[Tensor, "n base_dim"]) -> None:
        """Initialise what depends on data (a projection to fewer dimensions) from a sample of base vectors."""

    def start_as(self, weight: ArrayLike, query_shift: ArrayLike) -> None:
        """Initialise heads as the maps ``W x`` of documents and ``W (x − g)`` of queries."""
        raise ValueError(f"a {self.system} encoder cannot start from given matrices")

    def freeze_base(self, whole: bool = True, early_layers: int = 0) -> None:
        """Freeze the base as `TextBase.freeze` does."""
        self.base.freeze(whole, early_layers)

    def freeze_side(self, side: Role) -> None:
        """Freeze the head of queries or of documents."""
        raise ValueError(f"a {self.system} encoder has one head for queries and documents; choose asymmetric")

    def shift_queries(self, shift: Float[Tensor, " base_dim"]) -> None:
        """Set by how much query vectors are moved before the head; nothing happens where queries share it."""

    def after_step(self, decay: float) -> None:
        """Let weights that follow others (an EMA target) take one step, after each optimiser step."""

    def diagnostics(self, views: Views) -> dict[str, float]:
        """Return statistics of a batch that belong to this system alone, for the log."""
        return {}

    def parameter_groups(self, rates: dict[str, float], weight_decay: float = 0.0) -> list[dict[str, Any]]:
        """Return optimiser groups of the trainable parameters, by name; only matrices get weight decay."""
        groups = []
        for name, module in {"base": self.base, **self.parts()}.items():
            trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
            for decay, matrices in ((weight_decay, True), (0.0, False)):
                if members := [parameter for parameter in trained if (parameter.ndim >= 2) == matrices]:
                    groups.append({"params": members, "lr": rates[name], "weight_decay": decay, "name": name})
        if not groups:
            raise ValueError("nothing to train: base, head and predictor are all frozen")
        return groups

    def encode_query(self, texts: str | list[str], **options: Any) -> Vectors | Tensor:
        """Encode queries; see `encode` for the options."""
        return self.encode(texts, role="query", **options)

    def encode_document(self, texts: str | list[str], **options: Any) -> Vectors | Tensor:
        """Encode documents; see `encode` for the options."""
        return self.encode(texts, role="document", **options)

    def encode(
        self,
        texts: str | list[str],
        role: Role = "document",
        batch_size: int = ROWS,
        device: str | None = None,
        show_progress_bar: bool = False,
        convert_to_tensor: bool = False,
    ) -> Vectors | Tensor:
        """Encode a text to ``(dim,)`` or a list of texts to ``(n, dim)``, without gradient.

        `batch_size` is a maximum, smaller for long texts. The encoder moves to `device` unless that is None.
        """
        several = as_texts([texts] if isinstance(texts, str) else texts, role)
        if device is not None:
            self.to(resolve_device(device))
        with progress_bar(several, role) if show_progress_bar else nullcontext() as progress:
            vectors = self.base.encode(several, role, batch_size, progress)
        embeddings = self.embed(vectors, role)
        result = embeddings[0] if isinstance(texts, str) else embeddings
        return torch.from_numpy(result) if convert_to_tensor else result

    @torch.no_grad()
    def embed(self, vectors: Vectors, role: Role) -> Vectors:
        """Map the base's pooled vectors (as cached) to embeddings in evaluation mode, block by block."""
        check_role(role)
        to_embedding = self.embed_query if role == "query" else self.embed_document
        *_, weight = self.parameters()  # of a head: the base's come first, and may have another dtype
        out = np.empty((len(vectors), self.dimension), dtype=np.float32)
        with evaluating(self):
            for start in range(0, len(vectors), BLOCK):
                block = torch.from_numpy(np.ascontiguousarray(vectors[start : start + BLOCK])).to(weight.device)
                out[start : start + BLOCK] = to_embedding(self.base(block).to(weight.dtype)).float().cpu().numpy()
        return out

    @staticmethod
    def similarity(queries: Vectors | Tensor, documents: Vectors | Tensor) -> Float[Tensor, "n m"]:
        """Minus the Euclidean distance of every query embedding to every document embedding."""
        x, y = (torch.as_tensor(z).float() for z in (queries, documents))
        return -torch.cdist(torch.atleast_2d(x), torch.atleast_2d(y), compute_mode="donot_use_mm_for_euclid_dist")

    def own_state(self) -> dict[str, Tensor]:
        """Return the weights and buffers of all parts beside the base, by name."""
        return {name: tensor for name, tensor in self.state_dict().items() if not name.startswith("base.")}

    def trained_state(self) -> dict[str, Tensor]:
        """Return `own_state` and those weights of the base that training changes, by name."""
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        return {n: tensor for n, tensor in self.state_dict().items() if n in trained or not n.startswith("base.")}

    def to_sentence_transformer(self, side: Role | None = None) -> SentenceTransformer:
        """Return this encoder, or one `side` of it, as a sentence-transformers model compared by Euclidean distance.

        Its modules are built-in ones, but for a lexical channel of words, which sentence-transformers cannot save. The
        model of one side embeds whatever it encodes as that side, also by ``encode``. With a target model it is one of
        queries alone.
        """
        if side == "document" and isinstance(self.base, TargetBase):
            raise InputError(f"{self.base.target}: use that model alone")
        # new modules draw weights before they get ours; a saved run is to continue alike
        with torch.random.fork_rng(devices=()):
            return self.base.plain_model(self.base.normalize, "euclidean", self.export_modules(), side)

    def save_pretrained(
        self,
        folder: str | Path,
        card: str | None = None,
        seen: frozenset[str] | None = None,
        held_out: HoldOut | None = None,
        trained: int | None = None,
    ) -> None:
        """Write a sentence-transformers folder that also loads with `from_pretrained`, in place of an older one.

        LoRA adapters are merged into it. A lexical channel is in ``lexical/``; with one of words, ``dense/`` is the
        untouched base as such a folder. A base that OpenVINO computes is in ``openvino/`` as well, converted. `card` is
        the README.md, None for a minimal one; `seen` are hashes of the documents that were training positives,
        `held_out` says which were hidden from training; `trained` is the number of trained parameters.
        """
        description = {"system": self.system, "dimension": self.dimension}
        description |= {"base": self.base.to_config(), "config": self.to_config()}
        description |= {} if trained is None else {TRAINED: trained}
        package, _, module = type(self).__module__.rpartition(".")
        own = {PLUGIN: f"{module.removeprefix('ragcun_plugin_')}.py"}
        description |= {} if package.startswith("ragcun") else own
        channel = self.base.channel if isinstance(self.base, JoinedBase) else None
        with replacing_folder(folder) as temporary, merged(self):
            if channel is not None:
                channel.save(temporary / LEXICAL)
            if self.base.reads_texts:
                words = channel is not None and not channel.analyser.pieces
                model = untouched_model(self.base.untouched) if words else self.to_sentence_transformer()
                model.save_pretrained(str(temporary / DENSE if words else temporary), create_model_card=False)
            if isinstance(text := self.base.untouched, TextBase) and text.openvino:
                text.openvino.export(text, temporary)
            if seen is not None:
                write_json(temporary / SEEN, sorted(seen))
            if held_out is not None:
                write_json(temporary / HELD_OUT, vars(held_out))
            seal_folder(temporary, self.own_state(), description)
            write_text(temporary / CARD, card or f"# {Path(folder).name}\n\nA ragcun `{self.system}` encoder.\n")

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str | None = None, cache: Path | None = None) -> Self:
        """Load a folder written by `save_pretrained`; InputError if it is missing, corrupt, or holds another system.

        With the folder of a `cache`, the text model is loaded when first needed (`TextBase.when_needed`).
        """
        load_plugins()
        folder = Path(model_folder(str(folder)))
        try:
            description, base, parts, to_device = read_folder(folder, device, cache)
            if description["system"] not in SYSTEMS:
                plugin = description.get(PLUGIN, "the Python file that registers it")
                how = f"add --plugins with {plugin}, or import that before"
                raise InputError(f"{folder} holds a {description['system']!r} encoder, which is not registered; {how}")
            system = SYSTEMS[description["system"]]
            if not issubclass(system, cls):
                raise InputError(f"{folder} holds a {system.system!r} encoder, not {cls.system!r}")
            encoder = system.from_config(base, description["config"])
            copy_strictly(encoder.own_state(), parts)
        except InputError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError, OSError, SafetensorError) as error:
            raise InputError(f"checkpoint {folder} is corrupt ({error!r}); copy it again") from error
        return cast("Self", encoder.to(to_device).eval())


def untouched_model(base: Base) -> SentenceTransformer:
    """Return a base as it is without ragcun, with its own normalisation, prompts and distance (InputError: no text)."""
    return base.plain_model(base.ends_normalized, base.distance)
