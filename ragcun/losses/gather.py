"""Ranks of a distributed run: sums over them, and the views of all of them joined; without one there is one rank."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor
from torch import distributed as dist

from ragcun.batch import Views

ROWWISE = ("query", "positive", "predicted", "target", "residual")  # all ranks show them or none


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

    A rank has any number of rows and pool documents. `relevant` and `pool_relevant` have a row for each of its queries
    and a column for each positive, or pool document, of all ranks in their order, or of its own alone.
    """
    batch, pool, device = len(views.query), 0 if views.pool is None else len(views.pool), views.query.device
    shows = [view is not None for view in (views.negative, views.relevant, views.pool_relevant)]
    table = [torch.empty(5, dtype=torch.long, device=device) for _ in range(world_size())]
    dist.all_gather(table, torch.tensor([batch, pool, *shows], device=device))
    rows, pools, *shown = torch.stack(table).T.tolist()
    negative, relevant, pool_relevant = map(any, shown)
    joined = {name: _gather_rows(value, rows) for name in ROWWISE if (value := getattr(views, name)) is not None}
    if negative:
        own, mask = views.negative, views.negative_mask
        mask = torch.full((batch,), own is not None, device=device) if mask is None else mask
        joined["negative"] = _gather_rows(torch.zeros_like(views.query) if own is None else own, rows)
        joined["negative_mask"] = _gather_rows(mask.byte(), rows).bool()
    if relevant:
        known = torch.eye(batch, dtype=torch.bool, device=device) if views.relevant is None else views.relevant
        joined["relevant"] = _mask(known, rows, rows)
    if any(pools):
        joined["pool"] = _gather_rows(views.query[:0] if views.pool is None else views.pool, pools)
        if pool_relevant:
            none = torch.zeros(batch, pool, dtype=torch.bool, device=device)
            joined["pool_relevant"] = _mask(none if views.pool_relevant is None else views.pool_relevant, rows, pools)
    return Views(**joined)


def _mask(mask: Bool[Tensor, "batch columns"], rows: list[int], columns: list[int]) -> Bool[Tensor, "all_rows all"]:
    rank, total = dist.get_rank(), sum(columns)
    if mask.shape[1] != total:
        start = sum(columns[:rank])
        mask = torch.nn.functional.pad(mask, (start, total - start - columns[rank]))
    return _gather_rows(mask.byte(), rows).bool()
