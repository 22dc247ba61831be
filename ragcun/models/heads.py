"""Heads: small networks on the base's vectors. Two of the three kinds start where the base stands."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ragcun.models.stack import Stack, Stackable

ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU, "tanh": nn.Tanh}


@dataclass(frozen=True)
class HeadConfig:
    """Shape of a head.

    Attributes:
        kind: ``residual`` (skip + network whose last layer starts at 0), ``linear`` or ``mlp`` (random start).
        input_dim: length of the base's vectors.
        output_dim: length of the embeddings.
        depth: linear layers of the network (1 for ``linear``, else 2–4).
        expansion: hidden width as a multiple of `input_dim` (1–4).
        activation: gelu, relu, silu or tanh.
        dropout: share of hidden units dropped in training.
    """

    kind: str
    input_dim: int
    output_dim: int
    depth: int = 2
    expansion: float = 2.0
    activation: str = "gelu"
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.kind not in HEADS:
            raise ValueError(f"head must be one of {', '.join(HEADS)}, got {self.kind!r}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {self.activation!r}")
        if self.output_dim < 1:
            raise ValueError(f"output_dim must be at least 1, got {self.output_dim}")
        if not 2 <= self.depth <= 4:
            raise ValueError(f"head depth must be 2 to 4, got {self.depth}")
        if not 1 <= self.expansion <= 4:
            raise ValueError(f"head expansion must be 1 to 4, got {self.expansion}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"head dropout must be at least 0 and below 1, got {self.dropout}")

    @property
    def hidden_dim(self) -> int:
        """Width of the hidden layers."""
        return round(self.input_dim * self.expansion)

    def to_dict(self) -> dict[str, str | int | float]:
        """Return the fields as plain values."""
        return asdict(self)


class Head(Stackable):
    """A skip connection, a network, or both: ``head(x) = S x + network(x)``.

    `skip` is a fixed matrix ``(output_dim, input_dim)``, the identity where it is None. A head without a skip has
    ``has_skip`` False. Both starts that keep the base, the skip's and the linear layer's, come from
    `preserving_projection`; `start_from` refines them with vectors when dimensions are cut.
    """

    skip: Tensor | None

    def __init__(self, config: HeadConfig, layers: nn.Sequential, has_skip: bool) -> None:
        super().__init__()
        self.config = config
        self.layers = layers
        self.has_skip = has_skip
        needs_matrix = has_skip and config.input_dim != config.output_dim
        self.register_buffer("skip", truncated_identity(config) if needs_matrix else None)

    def forward(self, x: Float[Tensor, "batch input_dim"]) -> Float[Tensor, "batch output_dim"]:
        """Map base vectors to embeddings.

        Raises:
            ValueError: the vectors are not `input_dim` long.
        """
        if x.shape[-1] != self.config.input_dim:
            raise ValueError(f"the head takes vectors of length {self.config.input_dim}, got {x.shape[-1]}")
        change = self.layers(x)
        if not self.has_skip:
            return change
        return change + (x if self.skip is None else nn.functional.linear(x, self.skip))

    def stack(self) -> Stack:
        """Return the layers as they compute in evaluation mode."""
        linears = [layer for layer in self.layers if isinstance(layer, nn.Linear)]
        activations: list[nn.Module] = [ACTIVATIONS[self.config.activation]() for _ in linears[1:]]
        skip = None
        if self.has_skip:
            like = linears[0].weight
            skip = self.skip if self.skip is not None else torch.eye(len(like[0]), dtype=like.dtype, device=like.device)
        return Stack([(layer.weight, layer.bias) for layer in linears], activations, skip)

    @property
    def starts_preserving(self) -> bool:
        """Whether the head begins as the identity or the best-preserving projection."""
        return self.has_skip or self.config.kind == "linear"

    @torch.no_grad()
    def start_from(self, vectors: Float[Tensor, "n input_dim"]) -> None:
        """Where dimensions are cut, start as the projection that keeps most of these vectors' distances.

        Nothing changes for a random head, or where no dimension is cut.
        """
        if not self.starts_preserving or self.config.output_dim >= self.config.input_dim:
            return
        projection = preserving_projection(vectors, self.config.output_dim)
        target = self.skip if self.skip is not None else self.layers[0].weight
        assert isinstance(target, Tensor)
        target.copy_(projection)


def preserving_projection(vectors: Float[Tensor, "n input_dim"], output_dim: int) -> Float[Tensor, "out input_dim"]:
    """Return the orthonormal projection that keeps most of the squared distances between vectors (PCA).

    The rows are the `output_dim` leading eigenvectors of the covariance, in float64, each with its largest entry
    positive. A common mean does not change distances, so none is subtracted when the projection is applied.

    Raises:
        ValueError: fewer than 2 vectors, or `output_dim` larger than their length.
    """
    if len(vectors) < 2:
        raise ValueError(f"a projection needs at least 2 vectors, got {len(vectors)}")
    if output_dim > vectors.shape[1]:
        raise ValueError(f"cannot keep {output_dim} of {vectors.shape[1]} dimensions")
    return principal_axes(vectors)[1][:output_dim].to(vectors.dtype)


def principal_axes(
    vectors: Float[Tensor, "n dim"],
) -> tuple[Float[Tensor, " dim"], Float[Tensor, "dim dim"]]:
    """Return the eigenvalues of the vectors' covariance (with n − 1), largest first, and its eigenvectors as rows.

    Both are in float64; each eigenvector has its largest entry positive.
    """
    covariance = torch.cov(vectors.detach().double().T).reshape(vectors.shape[1], vectors.shape[1])
    values, columns = torch.linalg.eigh(covariance)
    axes = columns.flip(1).T
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    return values.flip(0), axes * largest.sign()


def truncated_identity(config: HeadConfig) -> Float[Tensor, "out input_dim"]:
    """Return the identity, cut or padded with zeros to ``(output_dim, input_dim)``."""
    return torch.eye(config.output_dim, config.input_dim)


def _network(config: HeadConfig) -> nn.Sequential:
    widths = [config.input_dim, *[config.hidden_dim] * (config.depth - 1)]
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), ACTIVATIONS[config.activation](), nn.Dropout(config.dropout)]
    return nn.Sequential(*layers, nn.Linear(widths[-1], config.output_dim))


def _residual(config: HeadConfig) -> Head:
    head = Head(config, _network(config), has_skip=True)
    last = head.layers[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return head


def _linear(config: HeadConfig) -> Head:
    layer = nn.Linear(config.input_dim, config.output_dim)
    with torch.no_grad():
        layer.weight.copy_(truncated_identity(config))
        layer.bias.zero_()
    return Head(config, nn.Sequential(layer), has_skip=False)


def _mlp(config: HeadConfig) -> Head:
    return Head(config, _network(config), has_skip=False)


HEADS: dict[str, Callable[[HeadConfig], Head]] = {"residual": _residual, "linear": _linear, "mlp": _mlp}


def build_head(config: HeadConfig) -> Head:
    """Build the head that `config` describes, with its documented start."""
    return HEADS[config.kind](config)
