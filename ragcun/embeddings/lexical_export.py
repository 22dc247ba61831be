"""A joined base of word pieces as built-in modules of sentence-transformers, which compute its vectors exactly."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer

from ragcun.errors import InputError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense
    from torch import Tensor, nn

    from ragcun.embeddings.base import Base
    from ragcun.embeddings.lexical import LexicalChannel

POOLED = ("mean", "cls")
ROLES = ["query", "document"]
ALL_TOKENS = 1e9
"""More tokens than a text has: all of them become one."""


def piece_tokenizer(base: Base) -> Tokenizer:
    """Return the tokenizer of a text model that gives the word pieces which the model reads, as truncated there.

    Raises:
        InputError: vectors of the model joined with a channel of its pieces cannot be written as built-in modules.
    """
    model = base.text_model
    modules = [type(module).__name__ for module in model.children()]
    pooling = getattr(list(model.children())[-1], "pooling_mode", None)
    fast = getattr(model.tokenizer, "backend_tokenizer", None)
    if modules != ["Transformer", "Pooling"] or pooling not in POOLED or fast is None:
        raise InputError(
            f"base model {base.name!r} ({', '.join(modules)}; pooling {pooling}) has no lexical channel of its pieces, "
            f"which takes a fast tokenizer and pooling by {' or '.join(POOLED)} alone; choose --lexical_terms words"
        )
    tokenizer = Tokenizer.from_str(fast.to_str())
    tokenizer.no_truncation()
    if model.max_seq_length is not None:
        tokenizer.enable_truncation(int(model.max_seq_length) - tokenizer.num_special_tokens_to_add(False))
    return tokenizer


def joined_modules(dense: Base, channel: LexicalChannel, weight: float) -> list[nn.Module]:
    """Return the modules of the joined vectors of a text model and a channel of its pieces, not scaled as a whole.

    Pieces that are in the text, times their idf, are projected to the lexical vector, which waits as that of the first
    token; one cluster of all tokens, which is their mean scaled to length 1, is the dense vector.
    """
    from sentence_transformers.base.modules import Normalize
    from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling, MultiVectorMask
    from sentence_transformers.sentence_transformer.modules import Pooling
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
        modules.append(MultiVectorMask(others, skiplist_tasks=ROLES))
    return [
        *modules,
        HierarchicalTokenPooling(ALL_TOKENS, num_protected_tokens=0, normalize_embeddings=True, tasks=ROLES),
        Pooling(dense.dimension, ("mean", "cls")),
    ]


def dense_model(model: SentenceTransformer) -> SentenceTransformer:
    """Return the text model of a model that begins with `joined_modules`, without a closing ``Normalize``."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    first_token = any(type(module).__name__ == "MultiVectorMask" for module in model.children())
    transformer: Any = model[0]
    return SentenceTransformer(
        modules=[transformer, Pooling(transformer.get_embedding_dimension(), "cls" if first_token else "mean")],
        prompts={name: prompt or "" for name, prompt in model.prompts.items()},
        default_prompt_name=model.default_prompt_name,
        device=str(model.device),
    )


def _dense(weight: Tensor, output: str | None = None) -> Dense:
    from sentence_transformers.sentence_transformer.modules import Dense

    return Dense(weight.shape[1], weight.shape[0], False, None, weight, module_output_name=output)
