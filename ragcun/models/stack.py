"""Stack: a network seen as linear layers and activations, which is how it is exported."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from ragcun.models.heads import HeadConfig


@dataclass(frozen=True)
class Stack:
    """A network as linear layers with activations between them, around a skip connection or none.

    Attributes:
        layers: weight ``(out, in)`` and bias of each layer.
        activations: what follows each layer but the last.
        skip: matrix ``(output_dim, input_dim)`` by which the input is added to the output; None adds nothing.
    """

    layers: list[tuple[Tensor, Tensor]]
    activations: list[nn.Module]
    skip: Tensor | None


class Stackable(nn.Module, abc.ABC):
    """A module of the shape `config` that can say which `Stack` it computes in evaluation mode."""

    config: HeadConfig

    @abc.abstractmethod
    def stack(self) -> Stack:
        """Return the layers."""
