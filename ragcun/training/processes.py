"""The processes of a run: what the main one decides, their device and memory, and the signals that end them."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from types import FrameType
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor
from torch import distributed as dist
from typing_extensions import Self

from ragcun.config import TrainConfig
from ragcun.embeddings.encode import resolve_device
from ragcun.errors import InputError

logger = logging.getLogger(__name__)

T = TypeVar("T")
U = TypeVar("U")
LONGEST_WAIT = timedelta(days=7)
FAILED = "the main process failed; its own message says why"
SIGNALS = (signal.SIGTERM, signal.SIGINT)
ECHO = 1.0
"""Seconds within which a launcher may pass on a Ctrl-C that its processes have had from the terminal already."""


class Processes:
    """The processes of a run; alone, each method just calls.

    What the main process decides is sent through the CPU, and waited for as long as it takes: an evaluation may last
    longer than a GPU's collectives wait.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator, self.device = accelerator, accelerator.device
        self.count, self.rank = accelerator.num_processes, accelerator.process_index
        self.main = accelerator.is_main_process
        self._group: Any = dist.new_group(backend="gloo", timeout=LONGEST_WAIT) if self.count > 1 else None

    def on_main(self, work: Callable[[], Any]) -> Any:
        """Let the main process do `work`, and return its result in all of them.

        Raises:
            InputError: the work raised it, or, in the other processes, ended in any other exception.
        """
        if self.count == 1:
            return work()
        answer: dict[str, Any] = {"error": FAILED}
        try:
            if self.main:
                answer = {"result": work()}
        except InputError as error:
            answer = {"error": str(error)}
            raise
        finally:
            box = [answer]
            dist.broadcast_object_list(box, 0, group=self._group)
            answer = box[0]
        if "error" in answer:
            raise InputError(answer["error"])
        return answer["result"]

    def main_first(self, work: Callable[[], T]) -> T:
        """Let the main process do `work`, and the others after it, who find in caches what it left there."""
        done = self.main_only(lambda: [work()], None)
        return work() if done is None else done[0]

    def main_only(self, work: Callable[[], T], otherwise: U) -> T | U:
        """Let the main process do `work`; the others have `otherwise`."""
        done: list[T] = []
        self.on_main(lambda: done.append(work()))
        return done[0] if done else otherwise

    def highest(self, number: int) -> int:
        """Return the highest of the numbers that the processes have; every one has to call."""
        if self.count == 1:
            return number
        shared = torch.tensor(number)
        dist.all_reduce(shared, dist.ReduceOp.MAX, group=self._group)
        return int(shared)

    def seed(self, seed: int, step: int = 0) -> None:
        """Give each process but the main one random numbers of its own, from a step on."""
        if self.rank > 0:
            torch.manual_seed((seed + self.rank) * 2**20 + step)


def make_accelerator(device: str | None, precision: str = "no") -> Accelerator:
    """Return a new accelerator; a run in one process does not inherit an earlier run's precision or device."""
    if AcceleratorState._shared_state and AcceleratorState().num_processes == 1:
        AcceleratorState._reset_state(reset_partial_state=True)
    asked = torch.device(resolve_device(device))
    if asked.type not in ("cpu", "cuda"):
        raise InputError(f"--device {device}: training runs on cpu or cuda; give one of them, or leave it out")
    if (gpu := asked.type == "cuda") and asked.index is not None:
        torch.cuda.set_device(asked)
    precision = choose_precision(precision, gpu, gpu and torch.cuda.is_bf16_supported(including_emulation=False))
    handlers = [DistributedDataParallelKwargs(find_unused_parameters=True)]
    return Accelerator(mixed_precision=precision, cpu=not gpu, kwargs_handlers=handlers)


def choose_precision(asked: str, gpu: bool, native_bf16: bool) -> str:
    """Return the precision to train in: as asked (fp16 on a GPU alone), or for ``auto`` the hardware's own."""
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
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def flags_that_save_memory(config: TrainConfig) -> str:
    """Name the flags that make a step smaller, those first that change the result least."""
    half = max(2, config.batch_size // 2)
    flags = []
    if not config.freeze_base:
        flags += [] if config.gradient_checkpointing else ["--gradient_checkpointing"]
        flags += ["a smaller --grad_cache_size" if config.grad_cache_size else f"--grad_cache_size {half}"]
    flags += ["--mixed_precision auto"] if config.mixed_precision == "no" and torch.cuda.is_available() else []
    flags += ["a smaller --num_slices"] if config.isotropy == "sigreg" and config.lambda_isotropy else []
    flags += ["a smaller --mined_negatives"] if config.mines else []
    accumulation = f"--gradient_accumulation_steps {2 * config.gradient_accumulation_steps}"
    return ", or ".join([*flags, f"--batch_size {half} with {accumulation}"])


@contextmanager
def explaining_memory(config: TrainConfig, pairs: int) -> Iterator[None]:
    """Turn a lack of memory for a batch of `pairs` pairs into an InputError that names flags."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        of_cpu = "can't allocate memory" in str(error)  # for which torch has no exception of its own
        if not (of_cpu or isinstance(error, (torch.OutOfMemoryError, MemoryError))):
            raise
        where = f"out of memory at a batch of {pairs} pairs (--batch_size {config.batch_size})"
        raise InputError(f"{where}; start again with {flags_that_save_memory(config)}") from error


class TrainingStopped(KeyboardInterrupt):
    """A signal ended training after a step, and the resume point of that step is on disk."""

    def __init__(self, number: int, step: int) -> None:
        self.code = 128 + number
        super().__init__(f"stopped by {signal.Signals(number).name} after step {step}; --resume continues from there")


class StopRequest(ExitStack):
    """Notes, while it is entered, a SIGTERM or SIGINT instead of ending the process; a second SIGINT ends it at once.

    The earlier handlers are put back on leaving. A signal that is ignored stays so. Outside the main thread, where
    Python allows no handlers, nothing is noted.
    """

    def __init__(self, echo: float = 0.0) -> None:
        super().__init__()
        self.received, self.echo = 0, echo
        self._since = 0.0

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                before = signal.getsignal(number)
                if before is not signal.SIG_IGN and before is not None:  # None: set by other than Python
                    self.callback(signal.signal, number, signal.signal(number, self._note))
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.received:
            self.received, self._since = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._since >= self.echo:
            raise KeyboardInterrupt
