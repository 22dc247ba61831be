"""Heads: small networks on the base's vectors, and the built-in sentence-transformers modules that equal them."""

from __future__ import annotations

import abc
import itertools
from dataclasses import asdict, dataclass, replace
from numbers import Real
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ragcun.config import HeadConfig

if TYPE_CHECKING:
    from sentence_transformers.sentence_transformer.modules import Dense

HEADS = ("residual", "linear", "mlp")
ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU, "tanh": nn.Tanh}
STARTS = ("preserving", "random")
TANH_SCALE = 2.0**-12


@dataclass(frozen=True)
class HeadShape:
    """Architecture of a head, as a checkpoint records it; defaults are those of training.

    Attributes:
        kind: ``residual`` (skip + network whose last layer starts at 0), ``linear`` or ``mlp`` (random start).
        depth: linear layers of the network (1 for ``linear``, else 2–4).
        expansion: hidden width as a multiple of `input_dim` (1–4).
        matrix_skip: whether a residual head's skip is a stored matrix even where dimensions agree.
        start: ``preserving`` (as `kind` says), or ``random``, as in PyTorch.
    """

    kind: str
    input_dim: int
    output_dim: int
    depth: int = HeadConfig.head_depth
    expansion: float = HeadConfig.head_expansion
    activation: str = HeadConfig.activation
    dropout: float = HeadConfig.dropout
    matrix_skip: bool = False
    start: str = "preserving"

    def __post_init__(self) -> None:
        for name in ("input_dim", "output_dim", "depth", "expansion", "dropout"):
            value, whole = getattr(self, name), name not in ("expansion", "dropout")
            if not isinstance(value, Real) or isinstance(value, bool) or (whole and value % 1):
                raise ValueError(f"head {name} must be a {'whole ' if whole else ''}number, got {value!r:.60}")
            object.__setattr__(self, name, int(float(value)) if whole else float(value))
        for setting, known in (("kind", HEADS), ("activation", ACTIVATIONS), ("start", STARTS)):
            if (value := getattr(self, setting)) not in known:
                raise ValueError(f"head {setting} must be one of {', '.join(known)}, got {value!r}")
        if self.output_dim < 1:
            raise ValueError(f"output_dim must be at least 1, got {self.output_dim}")
        for name, least, most in (("depth", 2, 4), ("expansion", 1, 4)):
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"head {name} must be {least} to {most}, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"head dropout must be at least 0 and below 1, got {self.dropout}")

    def to_dict(self) -> dict[str, str | int | float]:
        """Return the fields as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Stack:
    """Linear layers (weight ``(out, in)``, bias), activations between them, and a skip ``(output_dim, input_dim)``."""

    layers: list[tuple[Tensor, Tensor]]
    activations: list[nn.Module]
    skip: Tensor | None

    @property
    def is_identity(self) -> bool:
        """Whether it gives its input, bit for bit: by one layer alone, or by a skip around a last layer of zeros."""
        weight, bias = self.layers[-1]
        kept, changed = (weight, len(self.layers) > 1) if self.skip is None else (self.skip, bool(weight.any()))
        return not changed and not bias.any() and torch.equal(kept, torch.eye(len(kept)).to(kept))


class Stackable(nn.Module, abc.ABC):
    """A head or predictor of the shape `config`, which can say what `Stack` it computes in evaluation mode.

    `shows` are the optional fields of `Views` that a predictor fills by `predict`.
    """

    config: HeadShape
    shows: ClassVar[frozenset[str]] = frozenset({"predicted"})

    @abc.abstractmethod
    def stack(self) -> Stack:
        """Return the layers."""

    def predict(self, query: Float[Tensor, "batch dim"]) -> dict[str, Tensor]:
        """Return the fields of `shows`."""
        return {"predicted": self(query)}


class Head(Stackable):
    """A skip connection, a network, or both: ``head(x) = S x + network(x)``.

    `skip` is S ``(output_dim, input_dim)``, None for the identity; only residual heads have one. Skip and linear layer
    start as the identity, cut or padded with zeros, if `starts_preserving`.
    """

    skip: Tensor | None

    def __init__(self, config: HeadShape) -> None:
        super().__init__()
        self.config = config
        hidden = [round(config.input_dim * config.expansion)] * (0 if config.kind == "linear" else config.depth - 1)
        widths = itertools.pairwise([config.input_dim, *hidden, config.output_dim])
        self.linears = [nn.Linear(before, after) for before, after in widths]
        layers: list[nn.Module] = []
        for linear in self.linears[:-1]:
            layers += [linear, ACTIVATIONS[config.activation](), nn.Dropout(config.dropout)]
        self.layers = nn.Sequential(*layers, self.linears[-1])
        self.has_skip = config.kind == "residual"
        self.starts_preserving = config.start == "preserving" and config.kind != "mlp"
        if self.starts_preserving:
            (nn.init.zeros_ if self.has_skip else nn.init.eye_)(self.linears[-1].weight)
            nn.init.zeros_(self.linears[-1].bias)
        is_matrix = self.has_skip and (config.matrix_skip or config.input_dim != config.output_dim)
        self.register_buffer("skip", torch.eye(config.output_dim, config.input_dim) if is_matrix else None)

    def forward(self, x: Float[Tensor, "batch input_dim"]) -> Float[Tensor, "batch output_dim"]:
        """Map base vectors to embeddings."""
        if x.shape[-1] != self.config.input_dim:
            raise ValueError(f"the head takes vectors of length {self.config.input_dim}, got {x.shape[-1]}")
        change = self.layers(x)
        if not self.has_skip:
            return change
        return change + (x if self.skip is None else nn.functional.linear(x, self.skip))

    def stack(self) -> Stack:
        """Return the layers as they compute in evaluation mode."""
        layers: list[tuple[Tensor, Tensor]] = [(layer.weight, layer.bias) for layer in self.linears]
        skip = self.skip
        if self.has_skip and skip is None:
            skip = torch.eye(self.config.input_dim).to(layers[0][0])
        return Stack(layers, [ACTIVATIONS[self.config.activation]() for _ in layers[1:]], skip)

    @torch.no_grad()
    def start_from(self, vectors: Float[Tensor, "n input_dim"]) -> None:
        """Where dimensions are cut, start as the projection that keeps most of these vectors' distances."""
        if self.config.output_dim >= self.config.input_dim or not (self.has_skip or self.starts_preserving):
            return
        target = self.skip if self.skip is not None else self.linears[0].weight
        target.copy_(preserving_projection(vectors, self.config.output_dim))

    @torch.no_grad()
    def start_as(self, weight: Float[Tensor, "output_dim input_dim"], bias: Float[Tensor, " output_dim"]) -> None:
        """Start as ``x ↦ W x + b``, exactly in evaluation mode; ValueError if an mlp cannot carry x.

        A residual head takes W as its skip and b as its last bias; an mlp carries x by `carry_linear_map`.
        """
        config = self.config
        expected = (config.output_dim, config.input_dim), (config.output_dim,)
        if (given := (tuple(weight.shape), tuple(bias.shape))) != expected:
            raise ValueError("weight and bias must be {} and {}, got {} and {}".format(*expected, *given))
        if not self.has_skip:
            carries = config.activation != "tanh" and self.linears[0].out_features >= 2 * config.input_dim
            if len(self.linears) > 1 and not carries:
                raise ValueError(
                    "an mlp starts as a given matrix with gelu, relu or silu and an expansion of at least 2 alone, got "
                    f"{config.activation} and {config.expansion}; change them, or take a linear or residual head"
                )
            carry_linear_map(self.linears, weight, bias)
            return
        last = self.linears[-1]
        if self.skip is None:
            self.skip = torch.empty_like(weight, dtype=last.weight.dtype, device=last.weight.device)
            self.config = replace(config, matrix_skip=True)
        self.skip.copy_(weight)
        last.weight.zero_()
        last.bias.copy_(bias)


@torch.no_grad()
def carry_linear_map(layers: list[nn.Linear], weight: Float[Tensor, "out dim"], bias: Float[Tensor, " out"]) -> None:
    """Set layers, with gelu, relu or silu between them, so that they compute ``W x + b``.

    The first 2·dim units of each hidden layer hold x and −x; what goes out of the others to the last layer becomes 0.
    """
    weight = weight.to(layers[-1].weight)
    split, join = unit_pairs(weight)
    given = torch.eye(weight.shape[1]).to(weight)
    for layer in layers:
        last = layer is layers[-1]
        block, goal = (weight, bias) if last else (split, torch.zeros(len(split)))
        rows = layer.weight[: len(block)].zero_()
        rows[:, : given.shape[1]] = block @ given
        layer.bias[: len(block)] = goal
        given = join


def preserving_projection(vectors: Float[Tensor, "n input_dim"], output_dim: int) -> Float[Tensor, "out input_dim"]:
    """Return the orthonormal projection that keeps most of the squared distances: the first `principal_axes`."""
    if len(vectors) < 2:
        raise ValueError(f"a projection needs at least 2 vectors, got {len(vectors)}")
    return principal_axes(vectors)[1][:output_dim].to(vectors.dtype)


def principal_axes(vectors: Float[Tensor, "n dim"]) -> tuple[Float[Tensor, " dim"], Float[Tensor, "dim dim"]]:
    """Return eigenvalues of the unbiased covariance, falling, and its eigenvectors as rows, in float64.

    Each eigenvector has its largest entry positive.
    """
    covariance = torch.cov(vectors.detach().double().T).reshape(vectors.shape[1], vectors.shape[1])
    values, columns = torch.linalg.eigh(covariance)
    axes = columns.flip(1).T
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    return values.flip(0), axes * largest.sign()


def dense_modules(stack: Stack) -> list[Dense]:
    """Express a head or predictor as ``Dense`` modules that give the same embeddings in evaluation mode.

    A skip is carried through the activations by pairs of units: ``act(x) − act(−x) = x`` for gelu, relu and silu; tanh
    carries it scaled, ``tanh(εx)/ε = x − ε²x³/3 + …``, a relative error below 2·10⁻⁸·x² for ε = 2⁻¹².
    """
    from sentence_transformers.sentence_transformer.modules import Dense

    layers = stack.layers if stack.skip is None else _carry_skip(stack, stack.skip)
    copies = [(weight.detach().clone(), bias.detach().clone()) for weight, bias in layers]
    after = [*stack.activations, None]
    return [Dense(w.shape[1], len(w), True, activation, w, b) for (w, b), activation in zip(copies, after, strict=True)]


def _carry_skip(stack: Stack, skip: Tensor) -> list[tuple[Tensor, Tensor]]:
    split, join = unit_pairs(skip)
    tanh = [isinstance(activation, nn.Tanh) for activation in stack.activations]
    splits = [split * (TANH_SCALE if scaled else 1.0) for scaled in tanh]
    joins = [join * (1 / (2 * TANH_SCALE) if scaled else 1.0) for scaled in tanh]
    first, last = stack.layers[0], stack.layers[-1]
    zeros = split.new_zeros(len(split))
    layers = [(torch.cat([splits[0], first[0]]), torch.cat([zeros, first[1]]))]
    for i, (weight, bias) in enumerate(stack.layers[1:-1]):
        layers.append((torch.block_diag(splits[i + 1] @ joins[i], weight), torch.cat([zeros, bias])))
    layers.append((torch.cat([skip @ joins[-1], last[0]], dim=1), last[1]))
    return layers


def unit_pairs(skip: Float[Tensor, "out dim"]) -> tuple[Float[Tensor, "2*dim dim"], Float[Tensor, "dim 2*dim"]]:
    """Return ``[I; −I]`` and ``[I, −I]``, which split a vector into pairs of units and join them again."""
    eye = torch.eye(skip.shape[1], dtype=skip.dtype, device=skip.device)
    return torch.cat([eye, -eye]), torch.cat([eye, -eye], dim=1)
