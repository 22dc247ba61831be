"""Too little memory for a step: one sentence with the flags that help."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ragcun.errors import InputError
from ragcun.training.config import TrainConfig

CPU_MESSAGE = "can't allocate memory"
"""What torch says of a CPU without memory, which has no exception of its own."""


def is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    """Whether an error means that a device, or the CPU, has too little memory."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or CPU_MESSAGE in str(error)


def flags_that_save_memory(config: TrainConfig) -> str:
    """Name the flags that make a step smaller, those first that change the result least."""
    flags = []
    if not config.freeze_base:
        flags += [] if config.gradient_checkpointing else ["--gradient_checkpointing"]
        flags += ["a smaller --grad_cache_size" if config.grad_cache_size else f"--grad_cache_size {_half(config)}"]
    flags += ["--mixed_precision auto"] if config.mixed_precision == "no" and torch.cuda.is_available() else []
    flags += ["a smaller --num_slices"] if config.isotropy == "sigreg" and config.lambda_isotropy else []
    flags += ["a smaller --mined_negatives"] if config.mines else []
    smaller = (
        f"--batch_size {_half(config)} with --gradient_accumulation_steps {2 * config.gradient_accumulation_steps}"
    )
    return ", or ".join([*flags, smaller])


@contextmanager
def explaining_memory(config: TrainConfig, pairs: int) -> Iterator[None]:
    """Explain within it that there is too little memory for a batch of `pairs` pairs.

    Raises:
        InputError: there is.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(
            f"out of memory at a batch of {pairs} pairs (--batch_size {config.batch_size}); "
            f"start again with {flags_that_save_memory(config)}"
        ) from error


def _half(config: TrainConfig) -> int:
    return max(2, config.batch_size // 2)
