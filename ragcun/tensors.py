"""Named tensors: their checksum, and loading them strictly."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors on the CPU, without gradient, each contiguous in memory."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the BLAKE2b digest of names, types, shapes and bytes, in the order of names."""
    digest = hashlib.blake2b(digest_size=32)
    for name, tensor in sorted(contiguous(tensors).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


@torch.no_grad()
def copy_strictly(target: Mapping[str, Tensor], source: Mapping[str, Tensor]) -> None:
    """Copy every tensor of `source` into the one of the same name in `target`.

    Raises:
        ValueError: names or shapes differ; then nothing is copied.
    """
    if target.keys() != source.keys():
        odd = sorted(target.keys() ^ source.keys())
        raise ValueError(f"{len(odd)} weights are missing or unknown, first {odd[0]!r}")
    for name, tensor in target.items():
        if tensor.shape != source[name].shape:
            raise ValueError(f"{name} has shape {tuple(source[name].shape)}, expected {tuple(tensor.shape)}")
    for name, tensor in target.items():
        tensor.copy_(source[name])
