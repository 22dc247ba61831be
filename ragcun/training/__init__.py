"""Training: configuration, batches, the loop, resume points. `fit` is imported when it is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ragcun.config import TrainConfig

if TYPE_CHECKING:
    from ragcun.training.loop import fit

__all__ = ["TrainConfig", "fit"]


def __getattr__(name: str) -> Any:
    if name == "fit":
        from ragcun.training.loop import fit

        return fit
    raise AttributeError(f"module 'ragcun.training' has no attribute {name!r}")
