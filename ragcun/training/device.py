"""The accelerator of a run: device, precision, processes; and how tensors get to its device."""

from __future__ import annotations

import logging

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor

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
    native = not cpu and torch.cuda.is_bf16_supported(including_emulation=False)
    precision = choose_precision(config.mixed_precision, not cpu, native)
    handlers = [DistributedDataParallelKwargs(find_unused_parameters=True)]
    return Accelerator(mixed_precision=precision, cpu=cpu, kwargs_handlers=handlers)


def choose_precision(asked: str, gpu: bool, native_bf16: bool) -> str:
    """Return the precision to train in: what is asked for, or for ``auto`` what the hardware does natively.

    Args:
        asked: no, fp16, bf16 or auto.
        gpu: whether training runs on a GPU; a CPU's ``auto`` is no.
        native_bf16: whether the GPU multiplies bfloat16 without emulation (a T4 does not, so its ``auto`` is fp16).

    Raises:
        InputError: fp16 is asked for on a CPU.
    """
    if asked == "fp16" and not gpu:
        raise InputError("--mixed_precision fp16 needs a GPU; use bf16, auto or no on a CPU")
    if asked == "bf16" and gpu and not native_bf16:
        logger.warning("--mixed_precision bf16: this GPU only emulates it, which is slow; auto takes fp16")
    if asked != "auto":
        return asked
    if not gpu:
        logger.info("--mixed_precision auto: float32, since there is no GPU")
        return "no"
    return "bf16" if native_bf16 else "fp16"


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the CPU on a device; a GPU copies it from pinned memory, while the CPU goes on."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
