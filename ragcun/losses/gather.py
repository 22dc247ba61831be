"""Ranks of a distributed run: sums over them, and the views of all of them joined; without one there is one rank."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch import distributed as dist

from ragcun.batch import Views


def world_size() -> int:
    """Return the number of ranks, 1 outside a distributed run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks_(x: Tensor) -> Tensor:
    """Replace `x`, contiguous and without gradient, by its sum over all ranks; every rank has to call."""
    if world_size() > 1:
        dist.all_reduce(x)
    return x


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace each gradient there is by its mean over ranks, which all have to call with the same ones."""
    world = world_size()
    if world > 1:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        for sent in [dist.all_reduce(gradient, async_op=True) for gradient in gradients]:
            sent.wait()
        torch._foreach_div_(gradients, world)


def _gather_rows(rows: Shaped[Tensor, "n ..."], counts: list[int]) -> Shaped[Tensor, "all ..."]:
    """Return the rows of all ranks, in their order and `counts`, with gradient; every rank has to call.

    Every rank is to compute the same value from them. The gradient by its own rows is multiplied by the number of
    ranks: the mean over ranks that DistributedDataParallel takes is then that of one process with all rows.
    """
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows.detach()
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    gathered = [part[:count] for part, count in zip(parts, counts, strict=True)]
    if rows.requires_grad and torch.is_grad_enabled():
        own = rows.clone()
        own.register_hook(lambda gradient: gradient * len(counts))
        gathered[dist.get_rank()] = own
    return torch.cat(gathered)


def gather_views(views: Views) -> Views:
    """Return the views of all ranks as one batch, with gradient as of `_gather_rows`; every rank has to call.

    All show the same fields, but a pool, which a rank may lack, and any number of rows. `relevant` and `pool_relevant`
    have a row for each query of a rank and a column for each positive, or pool document, of all ranks in their order.
    """
    pool = views.query[:0] if views.pool is None else views.pool
    sizes = torch.tensor([len(views.query), len(pool)], device=pool.device)
    table = [torch.empty_like(sizes) for _ in range(world_size())]
    dist.all_gather(table, sizes)
    rows, pools = torch.stack(table).T.tolist()
    joined = {"pool": _gather_rows(pool, pools)} if any(pools) else {}
    for name, value in vars(views).items():
        if value is not None and name != "pool":
            is_mask = value.dtype == torch.bool
            joined[name] = _gather_rows(value.byte(), rows).bool() if is_mask else _gather_rows(value, rows)
    return Views(**joined)
