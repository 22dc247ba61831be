"""Encoders away from their start, heads as they are exported, a base with prompts."""

from typing import TypeVar

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling

from ragcun import RetrievalEncoder, TextBase
from ragcun.models.heads import Head, dense_modules

Encoder = TypeVar("Encoder", bound=RetrievalEncoder)


def unit(rows: np.ndarray) -> np.ndarray:
    """Return rows, or one vector, at length 1."""
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def prompted(tiny_bert: str, pooling: str = "max", normalize: bool = True) -> TextBase:
    """Return the tiny base with prompts, a length limit of its own, and another pooling."""
    model = SentenceTransformer(tiny_bert, device="cpu")
    prompts = {"query": "word1 word7 ", "document": "word2 "}
    model = SentenceTransformer(modules=[model[0], Pooling(16, pooling), model[2]], device="cpu", prompts=prompts)
    model.max_seq_length = 9
    return TextBase(model, "tiny", normalize)


def moved(encoder: Encoder, scale: float = 0.1, seed: int = 5) -> Encoder:
    """Move all parts away from their start, buffers too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in encoder.parts().values():
            for tensor in (*part.parameters(), *part.buffers()):
                tensor.add_(scale * torch.randn(tensor.shape, generator=generator))
    return encoder


@torch.no_grad()
def exported(head: Head, x: torch.Tensor) -> torch.Tensor:
    """Map vectors by the modules that a head is exported as."""
    features = {"sentence_embedding": x}
    for module in dense_modules(head.stack()):
        features = module(features)
    return features["sentence_embedding"]
