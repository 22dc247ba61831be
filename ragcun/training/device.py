"""The accelerator of a run: device, precision, processes."""

from __future__ import annotations

import logging

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs

from ragcun.errors import InputError
from ragcun.training.config import TrainConfig

logger = logging.getLogger(__name__)


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Make the accelerator; a run in one process does not inherit an earlier run's precision or device.

    Raises:
        InputError: the device is not there, or cannot compute in the precision asked for.
    """
    if AcceleratorState._shared_state and AcceleratorState().num_processes == 1:
        AcceleratorState._reset_state(reset_partial_state=True)
    cpu = config.device == "cpu" or not torch.cuda.is_available()
    if config.device is not None and config.device.startswith("cuda") and cpu:
        raise InputError("--device cuda: there is no CUDA GPU here; leave --device out")
    precision = _precision(config.mixed_precision, cpu)
    handlers = [DistributedDataParallelKwargs(find_unused_parameters=True)]
    return Accelerator(mixed_precision=precision, cpu=cpu, kwargs_handlers=handlers)


def _precision(asked: str, cpu: bool) -> str:
    if asked == "fp16" and cpu:
        raise InputError("--mixed_precision fp16 needs a GPU; use bf16, auto or no on a CPU")
    if asked != "auto":
        return asked
    if cpu:
        logger.info("--mixed_precision auto: float32, since there is no GPU")
        return "no"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
