"""Encoders away from their start, heads as they are exported."""

from typing import TypeVar

import torch

from ragcun.models.encoder import RetrievalEncoder
from ragcun.models.heads import Head, dense_modules

Encoder = TypeVar("Encoder", bound=RetrievalEncoder)


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
