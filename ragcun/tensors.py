"""Named tensors and models: their checksums, strict loading, merged adapters; rows of length 1."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


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


def normalize(rows: Any, copy: bool = True) -> Any:
    """Scale the rows of a matrix, which may be sparse, to length 1; rows of zeros stay, and NaN is refused."""
    from sklearn import preprocessing  # which imports for a second

    return preprocessing.normalize(rows, copy=copy)


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
