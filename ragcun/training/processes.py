"""The processes of one run: the main one decides and writes files, the others wait for what it decided."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import distributed as dist

from ragcun.errors import InputError

T = TypeVar("T")
U = TypeVar("U")
LONGEST_WAIT = timedelta(days=7)
FAILED = "the main process failed; its own message says why"


class Processes:
    """The processes of a run; alone, each method just calls.

    What the main process decides is sent through the CPU, as JSON, and waited for as long as it takes: an evaluation
    may last longer than a GPU's collectives wait.

    Args:
        accelerator: knows how many there are.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.count, self.rank = accelerator.num_processes, accelerator.process_index
        self.main = accelerator.is_main_process
        self._group: Any = dist.new_group(backend="gloo", timeout=LONGEST_WAIT) if self.count > 1 else None

    def on_main(self, work: Callable[[], Any]) -> Any:
        """Let the main process do `work`, and return its result, which JSON can hold, in all of them.

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
            answer = self._from_main(answer)
        if "error" in answer:
            raise InputError(answer["error"])
        return answer["result"]

    def main_first(self, work: Callable[[], T]) -> T:
        """Let the main process do `work`, and the others after it, who find in caches what it left there."""
        done: list[T] = []
        self.on_main(lambda: done.append(work()))
        return done[0] if done else work()

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

    def settings(self) -> dict[str, int]:
        """Return how many processes there are, where a resumed run has to have as many."""
        return {"processes": self.count} if self.count > 1 else {}

    def array(self, work: Callable[[], NDArray[np.int64]]) -> NDArray[np.int64]:
        """Let the main process compute integers, and return them in all."""
        made: list[NDArray[np.int64]] = []

        def shape() -> list[int]:
            made.append(work())
            return list(made[0].shape)

        size = self.on_main(shape)
        if self.count > 1:
            tensor = torch.from_numpy(made[0]).contiguous() if made else torch.empty(size, dtype=torch.int64)
            dist.broadcast(tensor, 0, group=self._group)
            return tensor.numpy()
        return made[0]

    def _from_main(self, answer: dict[str, Any]) -> dict[str, Any]:
        text = torch.frombuffer(bytearray(json.dumps(answer).encode()), dtype=torch.uint8)
        length = torch.tensor([len(text)])
        dist.broadcast(length, 0, group=self._group)
        if not self.main:
            text = torch.empty(int(length), dtype=torch.uint8)
        dist.broadcast(text, 0, group=self._group)
        found: dict[str, Any] = json.loads(text.numpy().tobytes())
        return found
