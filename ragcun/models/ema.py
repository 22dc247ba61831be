"""Copies of modules whose weights follow the originals by an exponential moving average."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import nn

Part = TypeVar("Part", bound=nn.Module)


def following(online: Part, share_frozen: bool = False) -> Part:
    """Return a copy that is never trained and in evaluation mode.

    Args:
        online: the original.
        share_frozen: whether the copy uses the very weights that are frozen in `online`.
    """
    frozen: dict[int, Any] = {id(weight): weight for weight in online.parameters() if not weight.requires_grad}
    return copy.deepcopy(online, frozen if share_frozen else {}).requires_grad_(False).eval()


@torch.no_grad()
def follow(target: nn.Module, online: nn.Module, decay: float) -> None:
    """Move the target's weights θ′ towards the online ones θ: θ′ ← decay·θ′ + (1 − decay)·θ; buffers are copied.

    Weights that both share stay as they are.
    """
    pairs = zip(target.parameters(), online.parameters(), strict=True)
    if moving := [pair for pair in pairs if pair[0] is not pair[1]]:
        torch._foreach_lerp_([pair[0] for pair in moving], [pair[1] for pair in moving], 1 - decay)
    for buffer, source in zip(target.buffers(), online.buffers(), strict=True):
        buffer.copy_(source)
