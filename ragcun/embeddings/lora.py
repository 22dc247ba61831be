"""LoRA through peft: low-rank adapters in a text model's transformer layers, and the plain weights they amount to.

A layer computes ``(W + α/r · B A) x`` with its own W frozen; A (r × in) starts random and B (out × r) as zero, so that
the model starts as the base.

Source: Hu et al. 2021, arXiv:2106.09685, section 4.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from ragcun.errors import require_package

FACTORS = (".lora_A.", ".lora_B.")
"""What the weights of an adapter have in their names."""
ALPHA = 2  # over the rank


def add_adapters(model: nn.Module, layers: Sequence[nn.Module], rank: int, alpha: int | None) -> None:
    """Put adapters into all linear maps of some of a model's layers; `alpha` is by default twice the rank."""
    require_package("peft", "lora")
    from peft import LoraConfig, inject_adapter_in_model
    from transformers.pytorch_utils import Conv1D

    inside = {part for layer in layers for part in layer.modules() if isinstance(part, (nn.Linear, Conv1D))}
    names = [name for name, part in model.named_modules() if part in inside]
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha or ALPHA * rank, target_modules=names), model)


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
