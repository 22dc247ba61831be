"""JoinedBase: dense vectors with a lexical channel beside them, of word pieces also as plain sentence-transformers."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from tokenizers import Tokenizer
from torch import Tensor, nn

from ragcun.batch import Features, Role
from ragcun.embeddings.analysis import Analyser
from ragcun.embeddings.base import ROLES, Base, DerivedBase, Vectors, VectorSource, as_texts
from ragcun.embeddings.encode import ROWS
from ragcun.embeddings.lexical import LexicalChannel
from ragcun.errors import InputError
from ragcun.tensors import normalize

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense
    from tqdm.auto import tqdm

    from ragcun.config import LexicalConfig

logger = logging.getLogger(__name__)

WEIGHED = 10_000
"""Documents, evenly spaced, whose dense vectors choose the weight."""
LEXICAL = "lexical"
POOLED = ("mean", "cls")
ALL_TOKENS = 1e9  # more than a text has: all of them become one


def lexical_weight(documents: Vectors) -> float:
    """Return the weight a of a channel, without labels: 2 (‖mean of the unit document vectors‖ − 0.15), in [0.1, 0.5].

    The more of their direction documents have in common, the less dense vectors tell them apart. The numbers were
    chosen on dev queries of five collections with MiniLM and MPNet: docs/lexical.md.
    """
    shared = float(np.linalg.norm(normalize(documents).mean(axis=0)))
    return min(0.5, max(0.1, 2 * (shared - 0.15)))


class JoinedBase(DerivedBase):
    """A base and a channel fitted on its corpus, whose vectors are ``[unit(dense) ; √a · lexical]``.

    `weight` is a, the weight of the channel's similarity beside the dense one's; with `normalize`, `forward` scales the
    whole vector to length 1. Queries and documents may have different vectors.
    """

    routes_roles = True

    def __init__(self, dense: Base, channel: LexicalChannel, weight: float, normalize: bool = True) -> None:
        if not (weight > 0 and math.isfinite(weight)):
            raise ValueError(f"the channel's weight must be above 0 and finite, got {weight}; or use the base alone")
        super().__init__(dense.dimension + channel.dimension, normalize, name=dense.name)
        self.dense, self.channel, self.weight, self.reads_texts = dense, channel, float(weight), dense.reads_texts

    def lexical(self, texts: Sequence[str], role: Role) -> Vectors:
        """Return the channel's vectors of texts ``(len(texts), channel.dimension)``; pieces are of prompted texts."""
        prompt = self.prompt(role) if self.channel.analyser.pieces else ""
        return self.channel.encode([prompt + text for text in texts] if prompt else texts, role)

    def join(self, dense: Vectors, lexical: Vectors) -> Vectors:
        """Return the joined vectors ``(n, dimension)`` of pooled dense vectors and the channel's."""
        unit = normalize(dense) if len(dense) else dense
        return np.hstack([unit, np.float32(math.sqrt(self.weight)) * lexical])

    def encode(
        self, texts: list[str], role: Role, batch_size: int = ROWS, progress: tqdm[Any] | None = None
    ) -> Vectors:
        """Encode texts into joined vectors ``(len(texts), dimension)``, without gradient."""
        texts = as_texts(texts, role)
        return self.join(self.dense.encode(texts, role, batch_size, progress), self.lexical(texts, role))

    def first_modules(self) -> list[nn.Module]:
        """Return built-in modules of a channel of word pieces, else one module that cannot be saved."""
        if self.channel.analyser.pieces:
            return joined_modules(self.dense, self.channel, self.weight)
        return [JoinedModule(self)]

    def features(self, texts: list[str], role: Role) -> Features:
        """Tokenise texts into what `forward` takes, with the channel's vectors beside the tokens."""
        return {**self.dense.features(texts, role), LEXICAL: torch.from_numpy(self.lexical(texts, role))}

    def forward(self, inputs: Float[Tensor, "batch dim"] | Features) -> Float[Tensor, "batch dim"]:
        """Return what the head sees: joined vectors, or texts as `features` gives them, normalised if asked."""
        if not isinstance(inputs, Tensor):
            tokens = dict(inputs)
            lexical = tokens.pop(LEXICAL)
            dense = nn.functional.normalize(self.dense(tokens), dim=-1)
            inputs = torch.cat([dense, math.sqrt(self.weight) * lexical.to(dense)], dim=-1)
        return self.finish(inputs, self.normalize)

    def fingerprint(self, dense: str | None = None) -> str:
        """Digest of the text model (that of `dense`, if it is known), the channel and its weight."""
        parts = f"{dense or self.dense.fingerprint()} {self.channel.fingerprint()} {self.weight!r}"
        return hashlib.sha256(parts.encode()).hexdigest()

    def to_config(self) -> dict[str, Any]:
        """Return what is needed, beside the text model and the channel's folder, to make it again."""
        return {"dense": self.dense.to_config(), "weight": self.weight, "normalize": self.normalize}


class JoinedModule(nn.Module):
    """A joined base as the first module of a sentence-transformers model, in memory alone."""

    def __init__(self, base: JoinedBase) -> None:
        super().__init__()
        self.base, self.tokenizer = base, base.text_model.tokenizer
        self.max_seq_length, self.modalities = base.text_model.max_seq_length, ["text"]

    def preprocess(self, texts: list[str], prompt: str | None = None, task: Role | None = None, **_: Any) -> Features:
        """Return what `forward` takes; the prompt is that of the task."""
        return self.base.features(list(texts), task or "document")

    def forward(self, features: Features, **_: Any) -> Features:
        """Return the joined vectors as the embeddings of sentences."""
        return {"sentence_embedding": self.base(features)}

    def get_embedding_dimension(self) -> int:
        """Length of the vectors."""
        return self.base.dimension

    def get_config_dict(self) -> dict[str, Any]:
        """Return what decides the vectors, beside weights."""
        return {"channel": self.base.channel.fingerprint(), "weight": self.base.weight}


def fit_channel(
    dense: VectorSource, documents: Sequence[str], settings: LexicalConfig, channel: LexicalChannel | None = None
) -> tuple[LexicalChannel, float]:
    """Return a channel of documents (the one given, if any) and its weight beside the dense vectors of a text model."""
    if channel is None:
        pieces = settings.lexical_terms == "pieces"
        analyser = piece_analyser(dense.base) if pieces else Analyser.of(documents, settings.lexical_language)
        channel = LexicalChannel.fit(documents, settings.lexical_dim or None, analyser)
    weight = settings.lexical_weight
    if weight is None:
        weight = lexical_weight(dense.encode(documents[:: -(-len(documents) // WEIGHED)], "document"))
        logger.info("weight of the lexical channel: %.2f, chosen from the documents", weight)
    return channel, weight


def piece_analyser(base: Base) -> Analyser:
    """Return the analyser whose terms are the word pieces that a text model reads, but for those of its prompts.

    Raises:
        InputError: vectors of the model joined with a channel of its pieces cannot be written as built-in modules.
    """
    if importlib.util.find_spec("sentence_transformers.multi_vector_encoder") is None:
        raise InputError("word pieces need sentence-transformers 6; upgrade it, or use --lexical_terms words")
    model = base.text_model
    modules = [type(module).__name__ for module in model.children()]
    pooling = getattr(list(model.children())[-1], "pooling_mode", None)
    fast = getattr(model.tokenizer, "backend_tokenizer", None)
    if modules != ["Transformer", "Pooling"] or pooling not in POOLED or fast is None:
        needed = f"a fast tokenizer and pooling by {' or '.join(POOLED)} alone"
        problem = f"a lexical channel of word pieces takes {needed}, not {', '.join(modules)} with pooling {pooling}"
        raise InputError(f"base model {base.name!r}: {problem}; choose --lexical_terms words")
    tokenizer = Tokenizer.from_str(fast.to_str())
    tokenizer.no_truncation()
    if model.max_seq_length is not None:
        tokenizer.enable_truncation(int(model.max_seq_length) - tokenizer.num_special_tokens_to_add(False))
    analyser = Analyser(pieces=tokenizer.to_str())
    prompts = analyser.split([base.prompt("query"), base.prompt("document")])
    return replace(analyser, dropped=sorted({piece for pieces in prompts for piece in pieces}))


def joined_modules(dense: Base, channel: LexicalChannel, weight: float) -> list[nn.Module]:
    """Return the modules of the joined vectors of a text model and a channel of its pieces, not scaled as a whole.

    Pieces that are in the text, times their idf, are projected to the lexical vector, which waits as that of the first
    token; one cluster of all tokens, which is their mean scaled to length 1, is the dense vector.
    """
    from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling, MultiVectorMask
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
    from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding

    model = dense.text_model
    numbers: dict[str, int] = model.tokenizer.get_vocab()
    rows = [numbers[piece] for piece in channel.vocabulary]
    idf, projection = torch.zeros(len(numbers)), torch.zeros(channel.dimension, len(numbers))
    idf[rows], projection[:, rows] = torch.from_numpy(channel.idf), torch.from_numpy(channel.projection.T)
    modules: list[nn.Module] = [
        model[0],
        SparseStaticEmbedding(model.tokenizer, idf, frozen=True),
        _dense(projection),
        Normalize(),
        _dense(math.sqrt(weight) * torch.eye(channel.dimension), "cls_token_embeddings"),
    ]
    if model[1].pooling_mode == "cls":
        others = [piece for piece in numbers if piece != model.tokenizer.cls_token]
        modules.append(MultiVectorMask(others, skiplist_tasks=list(ROLES)))
    return [
        *modules,
        HierarchicalTokenPooling(ALL_TOKENS, num_protected_tokens=0, normalize_embeddings=True, tasks=list(ROLES)),
        Pooling(dense.dimension, ("mean", "cls")),
    ]


def restore_pooling(model: SentenceTransformer) -> None:
    """Put the text model's pooling in its place again in a model that begins with `joined_modules`."""
    from sentence_transformers.sentence_transformer.modules import Pooling

    transformer: Any = model[0]
    first_token = any(type(module).__name__ == "MultiVectorMask" for module in model.children())
    model[1] = Pooling(transformer.get_embedding_dimension(), "cls" if first_token else "mean")


def _dense(weight: Tensor, output: str | None = None) -> Dense:
    from sentence_transformers.sentence_transformer.modules import Dense

    return Dense(weight.shape[1], weight.shape[0], False, None, weight, module_output_name=output)
