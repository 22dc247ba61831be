"""Texts through a model in batches of nearly equal length, each within a budget of tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ragcun.batch import Features

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from ragcun.dtype import Dtype

Rows = NDArray[np.int64]
Preprocess = Callable[[list[str]], Features]

ROWS = 1024
"""Texts in one batch, at most, where nothing else is said."""
CPU_TOKENS, GPU_TOKENS = 2048, 32768
"""Padded tokens in one batch. A CPU is fastest where activations fit its caches (``benchmarks/encoding.py``)."""
BLOCK_CHARACTERS, BLOCK_ROWS = 1_000_000, 4096
"""Texts tokenised at a time: characters, were all as long as the longest, and how many."""
SAMPLE = 64
"""Texts by which the tokens of many are estimated."""


@dataclass(frozen=True)
class Batch:
    """Texts that go through the model together.

    Attributes:
        rows: their places among the texts they were taken from.
        features: what the model takes.
        tokens: how many tokens they have, without padding.
    """

    rows: Rows
    features: Features
    tokens: int


def token_budget(device: torch.device) -> int:
    """Return how many tokens, padding included, one batch has on a device."""
    return CPU_TOKENS if device.type == "cpu" else GPU_TOKENS


def pack(lengths: Sequence[int] | Rows, budget: int, most: int) -> list[Rows]:
    """Group places by length, longest first; ``longest · rows ≤ budget`` and ``rows ≤ most`` in each group.

    A length above the budget makes a group of its own.

    Raises:
        ValueError: budget or `most` are below 1.
    """
    if budget < 1 or most < 1:
        raise ValueError(f"a batch needs at least 1 token and 1 row, got {budget} and {most}")
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


def batches(texts: Sequence[str], preprocess: Preprocess, budget: int, most: int) -> Iterator[Batch]:
    """Tokenise texts, each once, and yield them in batches of at most `budget` padded tokens and `most` rows.

    A model without a mask of padding has nothing to gain from it: its batches have `most` rows.
    """
    for block in blocks(texts):
        features = preprocess([texts[i] for i in block])
        mask = features.get("attention_mask")
        if mask is None or not _is_rectangular(features, len(block)):
            for start in range(0, len(block), most):
                rows = block[start : start + most]
                part = preprocess([texts[i] for i in rows])
                yield Batch(rows, part, count_tokens(part, len(rows)))
            continue
        lengths = mask.sum(dim=1).numpy()
        for group in pack(lengths, budget, most):
            yield Batch(block[group], _cut(features, group), int(lengths[group].sum()))


def _is_rectangular(features: Features, rows: int) -> bool:
    """Whether every tensor has a row for each text and a column for each token, so that rows can be taken out."""
    shape = features["attention_mask"].shape
    tensors = [value for value in features.values() if isinstance(value, Tensor)]
    # Positions of query expansion lie outside the mask, so columns that it leaves out cannot be cut off.
    return (
        len(shape) == 2 and shape[0] == rows and "query_expansion_positions" not in features and _same(tensors, shape)
    )


def _same(tensors: list[Tensor], shape: torch.Size) -> bool:
    return all(tensor.shape == shape for tensor in tensors)


def _cut(features: Features, rows: Rows) -> Features:
    """Take rows out of features, without the columns that are padding in all of them."""
    places = torch.from_numpy(rows)
    used = features["attention_mask"][places].any(dim=0).nonzero()
    first, last = (int(used[0]), int(used[-1])) if len(used) else (0, 0)
    return {
        name: value[places, first : last + 1] if isinstance(value, Tensor) else value
        for name, value in features.items()
    }


def count_tokens(features: Features, texts: int) -> int:
    """Count the tokens of tokenised texts, without padding; where there is no telling, one for each text."""
    mask, ids = features.get("attention_mask"), features.get("input_ids")
    if isinstance(mask, Tensor):
        return int(mask.sum())
    return ids.numel() if isinstance(ids, Tensor) else texts


def estimate_tokens(texts: Sequence[str], preprocess: Preprocess) -> int:
    """Estimate how many tokens texts have, from every n-th by length; of at most `SAMPLE` texts it is exact."""
    if not texts:
        return 0
    order = np.argsort([len(text) for text in texts], kind="stable")
    places = np.linspace(0, len(texts), min(SAMPLE, len(texts)), endpoint=False)
    step = len(texts) / len(places)
    sample = [texts[order[int(place + step / 2)]] for place in places]
    return round(count_tokens(preprocess(sample), len(sample)) * step)


@torch.no_grad()
def pooled(model: SentenceTransformer, features: Features, role: str, dtype: Dtype) -> Float[Tensor, "batch dim"]:
    """Return pooled vectors as float32, of matrix products computed in `dtype` and sums in float32.

    The weights stay as they are (`torch.autocast`). Under ``float32`` a model whose weights were published in half
    precision computes in that.
    """
    from sentence_transformers.util import batch_to_device

    device = model.device
    half = dtype != "float32"
    with torch.autocast(device.type, dtype=getattr(torch, dtype) if half else None, enabled=half):
        vectors = model(batch_to_device(dict(features), device), task=role)["sentence_embedding"]
    return vectors[:, : model.truncate_dim].float()
