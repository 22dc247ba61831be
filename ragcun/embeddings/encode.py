"""Texts through a model in batches of nearly equal length, each within a budget of tokens, in a device's own dtype."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ragcun.batch import Features, Role
from ragcun.config import BASE_DTYPES
from ragcun.embeddings.base import Rows
from ragcun.errors import InputError

Dtype = Literal["float32", "bfloat16", "float16", "int8"]
Item = TypeVar("Item")
Result = TypeVar("Result")

ROWS = 1024  # default of the maximum batch size
# Padded tokens in one batch. A CPU is fastest where activations fit its caches (``benchmarks/encoding.py``).
CPU_TOKENS, GPU_TOKENS = 2048, 32768
BLOCK_CHARACTERS, BLOCK_ROWS = 1_000_000, 4096  # texts tokenised at a time; characters with padding
BFLOAT16_FEATURES = ("avx512_bf16", "amx_bf16")  # either multiplies matrices of bfloat16 natively


def cache_folder(given: str | Path | None = None) -> Path:
    """Return the folder of a cache: the given one, ``$RAGCUN_CACHE``, or else ``~/.cache/ragcun``."""
    return Path(given or os.environ.get("RAGCUN_CACHE") or Path.home() / ".cache" / "ragcun").expanduser()


def token_budget(device: torch.device) -> int:
    """Return how many tokens, padding included, one batch has on a device."""
    return CPU_TOKENS if device.type == "cpu" else GPU_TOKENS


def progress_bar(texts: Sequence[str], role: Role) -> tqdm[Any]:
    """Return a bar that counts the characters of texts, shown where encoding takes over 2 s."""
    total, name = sum(map(len, texts)), f"encoding {role} texts"
    return tqdm(total=total, desc=name, unit="char", unit_scale=True, delay=2, leave=None)


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode, and its parts back into their own modes afterwards."""
    modes = [(each, each.training) for each in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for each, mode in modes:
            each.training = mode


def pack(lengths: Sequence[int] | Rows, budget: int, most: int) -> list[Rows]:
    """Group places by length, longest first: ``longest · rows ≤ budget`` (or one row) and ``rows ≤ most``."""
    sizes = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-sizes, kind="stable")
    groups, start = [], 0
    while start < len(order):
        fit = budget // max(1, int(sizes[order[start]]))
        groups.append(order[start : start + min(most, max(1, fit))])
        start += len(groups[-1])
    return groups


def blocks(texts: Sequence[str]) -> list[Rows]:
    """Group the places of texts into what is tokenised at a time, longest first."""
    return pack([len(text) for text in texts], BLOCK_CHARACTERS, BLOCK_ROWS)


def batches(
    texts: Sequence[str], preprocess: Callable[[list[str]], Features], budget: int, most: int
) -> Iterator[tuple[Rows, Features]]:
    """Tokenise each text once; yield places of texts and the model's input of at most `most` rows.

    With a padding mask, a batch has at most `budget` tokens, padding included.
    """
    if not isinstance(most, Integral) or most < 1:
        raise ValueError(f"batch_size must be a whole number of at least 1, got {most!r:.60}")
    for block in blocks(texts):
        features = preprocess([texts[i] for i in block])
        if _is_rectangular(features, len(block)):
            for group in pack(features["attention_mask"].sum(dim=1).numpy(), budget, most):
                yield block[group], _cut(features, group)
        else:
            for start in range(0, len(block), most):
                rows = block[start : start + most]
                yield rows, preprocess([texts[i] for i in rows])


def in_threads(work: Callable[[Item], Result], items: Iterator[Item], threads: int) -> Iterator[tuple[Item, Result]]:
    """Yield each item with its result, in order; a few items a thread are in memory."""
    if threads == 1:
        yield from ((item, work(item)) for item in items)
        return
    running: deque[tuple[Item, Future[Result]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            running.append((item, pool.submit(work, item)))
            if len(running) > 2 * threads:
                first, future = running.popleft()
                yield first, future.result()
        yield from ((item, future.result()) for item, future in running)


def _is_rectangular(features: Features, rows: int) -> bool:
    # Positions of query expansion lie outside the mask, so columns that it leaves out cannot be cut off.
    mask = features.get("attention_mask")
    if mask is None or mask.ndim != 2 or len(mask) != rows or "query_expansion_positions" in features:
        return False
    return all(value.shape == mask.shape for value in features.values() if isinstance(value, Tensor))


def _cut(features: Features, rows: Rows) -> Features:
    places = torch.from_numpy(rows)
    used = features["attention_mask"][places].any(dim=0)
    used[0] |= not used.any()
    return {name: value[places][:, used] if isinstance(value, Tensor) else value for name, value in features.items()}


def resolve_device(asked: str | None) -> str:
    """Return the device asked for, or for None a GPU, else the CPU; InputError if it is unknown or not there."""
    if asked is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.ones(1, device=asked).item()
    except (RuntimeError, AssertionError, ImportError, TypeError) as error:
        raise InputError(f"--device {asked}: there is no such device here; give cpu, or leave it out") from error
    return asked


def resolve_dtype(asked: str, device: torch.device) -> Dtype:
    """Return the dtype for a device, its fastest native one for ``auto``; InputError if unknown or impossible there."""
    if asked not in BASE_DTYPES:
        raise InputError(f"--base_dtype must be one of {', '.join(BASE_DTYPES)}, got {asked!r}")
    if asked == "float16" and device.type == "cpu":
        raise InputError("--base_dtype float16 needs a GPU; use bfloat16, auto or float32 on a CPU")
    if asked != "auto":
        return cast("Dtype", asked)
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    if device.type == "cpu" and torch.backends.mkldnn.is_available() and bfloat16_features():
        return "bfloat16"
    return "float32"


def bfloat16_features() -> list[str]:
    """Return the names of this processor's instructions for products of bfloat16 matrices; it may have none.

    A torch that cannot tell (before 2.10) counts as none.
    """
    if not hasattr(torch.cpu, "get_capabilities"):
        return []
    return [name for name in BFLOAT16_FEATURES if torch.cpu.get_capabilities().get(name, False)]
