"""Gradient caching: the gradient of a loss on a large batch in the memory of a small one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ragcun.batch import PairBatch, Views
from ragcun.errors import InputError
from ragcun.losses.objective import LossOutput

MASKS = ("negative_mask", "relevant", "pool_relevant")
NAMES = tuple(field.name for field in fields(Views))


def require_independent_rows(model: nn.Module) -> None:
    """Refuse a model in which a row's embedding depends on the others of its chunk.

    Raises:
        InputError: it has batch normalisation that is in training mode.
    """
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.training:
            raise InputError(f"--grad_cache_size: {name} normalises over the batch, which chunks change; leave it out")


def cached_backward(
    model: nn.Module,
    chunks: Sequence[PairBatch],
    loss: Callable[[Views], LossOutput],
    scaled: Callable[[Tensor], Tensor] = lambda total: total,
) -> LossOutput:
    """Add the gradient of the loss of all chunks together to that of the model's weights; return the loss.

    Each chunk is embedded without a graph; the loss of all embeddings gives its gradient by them, g; then each chunk is
    embedded again, with a graph and with the random numbers of the first time, and Σ ⟨g, embeddings⟩ goes backward. The
    memory is that of the graph of one chunk and of all embeddings. Embedding costs one forward pass more.

    Source: Gao et al. 2021, arXiv:2101.06983, section 3.

    Args:
        model: embeds a chunk, each row by itself.
        chunks: parts of a batch in order; their masks have a column for each document of the whole batch.
        loss: the loss of the whole batch.
        scaled: gives what is to go backward instead of the loss: a multiple of it.

    Raises:
        ValueError: there is no chunk.
    """
    if not chunks:
        raise ValueError("gradient caching needs at least 1 chunk, got 0")
    device = next(model.parameters()).device
    states, shown = [], []
    with torch.no_grad():
        for chunk in chunks:
            states.append(_random_state(device))
            shown.append(model(chunk))
    leaves = _leaves(shown)
    output = loss(leaves)
    scaled(output.total).backward()
    slopes = {name: each.grad for name in NAMES if (each := getattr(leaves, name)) is not None}
    sizes = {name: [_rows(views, name) for views in shown] for name in NAMES}
    for place, chunk in enumerate(chunks):
        _set_random_state(states[place], device)
        _backward(model(chunk), {n: s.split(sizes[n])[place] for n, s in slopes.items() if s is not None})
    return output


def _leaves(shown: Sequence[Views]) -> Views:
    """Return the chunks' views as one batch, without a graph; its embeddings take a gradient."""
    joined = {}
    for name in NAMES:
        parts = [value for views in shown if (value := getattr(views, name)) is not None]
        if parts:
            joined[name] = torch.cat(parts).detach().requires_grad_(name not in MASKS)
    return replace(Views(joined.pop("query"), joined.pop("positive")), **joined)


def _rows(views: Views, name: str) -> int:
    value = getattr(views, name)
    return 0 if value is None else len(value)


def _backward(views: Views, slopes: dict[str, Tensor]) -> None:
    """Send gradients by embeddings backward, where these have a graph."""
    shown = {name: getattr(views, name) for name in slopes}
    reached = [name for name, value in shown.items() if value is not None and value.requires_grad]
    torch.autograd.backward([shown[name] for name in reached], [slopes[name] for name in reached])


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
