"""Losses: functions of tensors, their names by kind, and the way to add one from outside the package."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from ragcun.batch import Views
    from ragcun.config import ObjectiveConfig

Kind = Literal["isotropy", "contrastive"]
IsotropyLoss = Callable[[Float[Tensor, "rows dim"], "ObjectiveConfig", int], Float[Tensor, ""]]
ContrastiveLoss = Callable[["Views", "ObjectiveConfig"], Float[Tensor, ""]]

ISOTROPY: dict[str, IsotropyLoss] = {"none": lambda z, config, step: z.new_zeros(())}
CONTRASTIVE: dict[str, ContrastiveLoss] = {}
_LOSSES: dict[str, dict[str, Any]] = {"isotropy": ISOTROPY, "contrastive": CONTRASTIVE}


def register_loss(name: str, function: Callable[..., Float[Tensor, ""]], kind: Kind = "isotropy") -> None:
    """Make a loss known by name, for ``--isotropy`` or ``--contrastive`` and `ObjectiveConfig`.

    An isotropy loss is called with the embeddings ``(rows, dim)`` of queries and positives, the `ObjectiveConfig` and
    the step; a contrastive one with the `Views` of the batch and the `ObjectiveConfig`. It returns a scalar.
    """
    if kind not in _LOSSES:
        raise ValueError(f"kind must be one of {', '.join(_LOSSES)}, got {kind!r}")
    if _LOSSES[kind].setdefault(name, function) is not function:
        raise ValueError(f"{kind} loss {name!r} is already registered; choose another name")
