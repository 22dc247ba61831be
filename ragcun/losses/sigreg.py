"""SIGReg (LeJEPA): the Epps–Pulley statistic of random one-dimensional views of a batch.

The statistic needs Σₙ cos mθₙ and Σₙ sin mθₙ for m = 1…M, because its knots are the multiples of one step. They come
from the angles 0, 1, 2, 3 and 0, 7, 14 times θ, since every m up to 17 is a sum or difference of one of the first and
one of the second: cos(g ± q)θ = cos gθ cos qθ ∓ sin gθ sin qθ. So eleven functions of θ and one small matrix product
per slice give every sum, and the same table read backwards gives the gradient.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from ragcun.config import ObjectiveConfig
from ragcun.losses import register_loss
from ragcun.losses.covariance import in_full_precision

# Distance of neighbouring knots and their number, without the knot 0, where both characteristic functions are 1.
KNOTS: dict[str, tuple[float, int]] = {"reference": (3 / 16, 16), "paper": (5 / 8, 8)}

# Elements of a slice times slices in one block: what stays in a CPU's cache, what fills a GPU.
BLOCK_ELEMENTS = {"cpu": 2**18, "cuda": 2**22}

# Row and factor of cos(aθ) and sin(aθ) for the angles a of `_fill`; ONE is the row of ones, last of the small angles
# and first of the large ones.
ONE = 6
COS = {0: (ONE, 1), 1: (0, 1), 2: (2, 1), 3: (4, -1), 7: (7, -1), 14: (9, 1)}
SIN = {0: (ONE, 0), 1: (1, 1), 2: (3, 2), 3: (5, 1), 7: (8, 1), 14: (10, -2)}
COS |= {-angle: place for angle, place in COS.items()}
SIN |= {-angle: (row, -factor) for angle, (row, factor) in SIN.items()}
SUMS = ((0, COS, COS, 1), (0, SIN, SIN, -1), (1, SIN, COS, 1), (1, COS, SIN, 1))


class _Quadrature(NamedTuple):
    rows: int
    target: Float[Tensor, " series"]
    weights: Float[Tensor, " series"]
    to_series: Float[Tensor, "products series"]
    to_slope: Float[Tensor, "series products"]


@lru_cache(maxsize=8)
def _quadrature(knots: str, dtype: torch.dtype, device: torch.device) -> _Quadrature:
    """Constants of one set of knots; a series is cos θ…cos Mθ, sin θ…sin Mθ, a product a large times a small row."""
    step, count = KNOTS[knots]
    rows = 11 if count > 10 else 9
    table = torch.zeros(2, count, rows - ONE, ONE + 1, dtype=torch.float64)
    for m in range(1, count + 1):
        large = 7 * ((m + 3) // 7)
        for part, left, right, factor in SUMS:
            (i, a), (j, b) = left[large], right[m - large]
            table[part, m - 1, i - ONE, j] += factor * a * b
    cosine, sine = table.flatten(2)
    t = step * torch.arange(1, count + 1, dtype=torch.float64)
    target = torch.exp(-t.square() / 2)
    weights = 2 * step * target
    weights[-1] /= 2
    slope = (2 * weights * t)[:, None]
    constants = (
        torch.cat([target, torch.zeros_like(target)]),
        weights.repeat(2),
        torch.cat([cosine, sine]).T,
        torch.cat([-slope * sine, slope * cosine]),
    )
    return _Quadrature(rows, *(constant.to(device, dtype).contiguous() for constant in constants))


def _fill(rows: tuple[Tensor, ...], theta: Float[Tensor, "slices n"]) -> None:
    """Write cos θ, sin θ, cos 2θ, sin 2θ / 2, −cos 3θ, sin 3θ, (1), −cos 7θ, sin 7θ and cos 14θ, −sin 14θ / 2."""
    cos1, sin1, cos2, sin2, cos3, sin3, one, cos7, sin7, *rest = rows
    torch.cos(theta, out=cos1)
    torch.sin(theta, out=sin1)
    torch.addcmul(one, sin1, sin1, value=-2, out=cos2)
    torch.mul(sin1, cos1, out=sin2)
    torch.addcmul(cos1, cos1, cos2, value=-2, out=cos3)
    torch.addcmul(sin1, sin1, cos2, value=2, out=sin3)
    cos4 = torch.addcmul(one, sin2, sin2, value=-8, out=sin7)
    torch.addcmul(cos1, cos4, cos3, value=2, out=cos7)
    torch.addcmul(sin1, sin3, cos4, value=2, out=sin7)
    if rest:
        torch.addcmul(one, sin7, sin7, value=-2, out=rest[0])
        torch.mul(sin7, cos7, out=rest[1])


def statistic_(
    theta: Float[Tensor, "slices n"], knots: str, slope: bool
) -> tuple[Float[Tensor, " slices"], Float[Tensor, ""]]:
    """T of every slice, and N; with `slope`, ∂T/∂s takes the place of theta."""
    constants = _quadrature(knots, theta.dtype, theta.device)
    slices, n = theta.shape
    size = max(1, min(BLOCK_ELEMENTS["cpu" if theta.device.type == "cpu" else "cuda"] // n, -(-slices // 2)))
    space = theta.new_empty(constants.rows, size, n)
    space[ONE] = 1
    products = theta.new_empty(size, constants.rows - ONE, n)
    statistic = []
    for block in theta.split(size):
        rows = space[:, : len(block)]
        small, large = rows[: ONE + 1].transpose(0, 1), rows[ONE:].transpose(0, 1)
        each = rows.unbind()
        _fill(each, block)
        sums = torch.bmm(large, small.mT).flatten(1)
        total = sums[:, ONE, None]
        deviation = (sums @ constants.to_series).div_(total).sub_(constants.target)
        statistic.append((deviation.square() @ constants.weights).mul_(total[:, 0]))
        if slope:
            factors = (deviation @ constants.to_slope).view(len(block), -1, ONE + 1)
            partial = torch.bmm(factors, small, out=products[: len(block)]).unbind(1)
            torch.addcmul(partial[0], partial[1], each[ONE + 1], out=block)
            for product, row in zip(partial[2:], each[ONE + 2 :], strict=True):
                block.addcmul_(product, row)
    return torch.cat(statistic), total[0, 0]


class _MeanOverSlices(torch.autograd.Function):
    """The mean of T/N over slices; keeps its gradient by z, which is smaller than the projections."""

    @staticmethod
    def forward(
        ctx: Any, z: Float[Tensor, "n dim"], directions: Float[Tensor, "dim slices"], knots: str, slope: bool
    ) -> Float[Tensor, ""]:
        theta = directions.T @ (z * KNOTS[knots][0]).T
        statistic, total = statistic_(theta, knots, slope)
        scale = 1 / total
        if slope:
            ctx.save_for_backward(theta.T @ directions.T, scale * (1 / len(theta)))
        return statistic.mean() * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_mean: Float[Tensor, ""]) -> tuple[Float[Tensor, "n dim"], None, None, None]:
        slope, scale = ctx.saved_tensors
        return slope * (to_mean * scale), None, None, None


def random_slices(dim: int, num_slices: int, step: int, seed: int = 0) -> Float[Tensor, "dim num_slices"]:
    """Draw unit vectors in random directions, one per column, from the arguments alone; a column of zeros stays one.

    Drawn on the CPU by a generator of their own, so that all ranks and devices see the same directions.

    >>> [round(norm, 6) for norm in random_slices(8, 3, step=5).norm(dim=0).tolist()]
    [1.0, 1.0, 1.0]
    """
    if num_slices < 1:
        raise ValueError(f"SIGReg needs at least 1 slice, got {num_slices}")
    # The generator takes 32 bits; an odd multiplier keeps the steps of different seeds apart.
    generator = torch.Generator("cpu").manual_seed((seed * 0x9E3779B1 + step) % 2**32)
    directions = torch.randn(dim, num_slices, generator=generator, dtype=torch.float32)
    norms = directions.square().sum(0).sqrt_()  # ten times as fast as norm(dim=0)
    return directions.div_(norms.clamp_min_(torch.finfo(torch.float32).tiny))


@in_full_precision
def mean_epps_pulley(
    z: Float[Tensor, "n dim"], directions: Float[Tensor, "dim slices"], knots: str = ObjectiveConfig.knots
) -> Float[Tensor, ""]:
    """Mean over slices of T/N, T being the Epps–Pulley statistic of the n values s of a column of z @ directions.

    It says how far they are from the standard normal law: T/N = ∫ |φ̂(t) − φ(t)|² φ(t) dt with φ̂(t) the mean of
    exp(its) and φ(t) = exp(−t²/2), by the trapezoidal rule Σₖ wₖ [(mean cos tₖs − φ(tₖ))² + (mean sin tₖs)²]. Knots
    ``reference``: 17 on [0, 3] with weights doubled, which stands for [−3, 3]; ``paper``: 17 on [−5, 5]. Standard
    normal values give E T = Σ w (1 − exp(−t²)), 1.05 with the first knots. Differentiable once, by z alone.

    Source: Balestriero and LeCun 2025 (LeJEPA), arXiv:2511.08544, algorithm 1 (``paper``) and their published code
    (``reference``), there T.

    >>> round(mean_epps_pulley(torch.zeros(256, 1), torch.ones(1, 1)).item(), 6)
    0.402048
    """
    mean: Tensor = _MeanOverSlices.apply(z, directions, knots, torch.is_grad_enabled() and z.requires_grad)
    return mean


@in_full_precision
def sigreg(
    z: Float[Tensor, "n dim"],
    step: int,
    num_slices: int = ObjectiveConfig.num_slices,
    knots: str = ObjectiveConfig.knots,
    seed: int = 0,
) -> Float[Tensor, ""]:
    """`mean_epps_pulley` of the rows of `z` on `random_slices` of this step.

    T grows with N off its target, so its weight would be tied to the batch size; that of T/N is not. Rows of unit norm
    score almost like a collapse; at total collapse the gradient is 0.
    """
    if z.dim() != 2 or not z.numel():
        raise ValueError(f"expected a matrix of at least 1 row and 1 column, got shape {tuple(z.shape)}")
    return mean_epps_pulley(z, random_slices(z.shape[1], num_slices, step, seed).to(z), knots)


register_loss("sigreg", lambda z, config, step: sigreg(z, step, config.num_slices, config.knots))
