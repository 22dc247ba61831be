"""Where tasks run: in this process, or as Ray tasks on this machine or a cluster. Ray is imported when it is used."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from ragcun.errors import InputError

if TYPE_CHECKING:
    from ragcun.distributed.tasks import Task

Chain = Sequence["Task"]
"""What is done for one shard, one after the other."""
Runner = Callable[[Sequence[Chain]], None]
KNOCK_SECONDS = 10.0
OBJECT_STORE_BYTES = 80 * 1024 * 1024
"""Near the least that Ray takes: what tasks exchange is files."""


def run_here(chains: Sequence[Chain]) -> None:
    """Run all tasks in this process, one after the other."""
    for chain in tqdm(chains, desc="shards", unit="shard", delay=2):
        _do(chain)


@dataclass(frozen=True)
class RayRunner:
    """Run chains of tasks in Ray, each as one Ray task.

    A Ray that this process is connected to already is used as it is, and left running.

    Attributes:
        workers: tasks at a time in a Ray started on this machine; without effect where there is an address.
        address: of a running cluster (``host:port`` of its head, or ``auto`` on one of its machines); None starts Ray
            on this machine alone.
        cpus_per_task: CPUs that a chain takes.
        gpus_per_task: GPUs that a chain takes.
        retries: how often a chain is tried again whose worker died; its finished tasks are not done again.
    """

    workers: int = 1
    address: str | None = None
    cpus_per_task: int = 1
    gpus_per_task: float = 0
    retries: int = 3

    def __call__(self, chains: Sequence[Chain]) -> None:
        """Do all tasks.

        Raises:
            InputError: Ray is missing or cannot be reached, a task failed of wrong input, or its worker kept dying.
        """
        if not chains:
            return
        with self.connected() as ray:
            resources = {"num_cpus": self.cpus_per_task, "num_gpus": self.gpus_per_task, "max_retries": self.retries}
            do = ray.remote(**resources)(_do)
            pending = [do.remote(chain) for chain in chains]
            with tqdm(total=len(chains), desc="shards", unit="shard", delay=2) as bar:
                while pending:
                    done, pending = ray.wait(pending, num_returns=1)
                    self._require_success(ray, done)
                    bar.update(len(done))

    @contextlib.contextmanager
    def connected(self) -> Iterator[Any]:
        """Give Ray, connected; where it was not before, it is stopped in the end.

        Raises:
            InputError: it is missing, cannot be reached, or has less than a chain takes.
        """
        ray = import_ray()
        if ray.is_initialized():
            self._require_resources(ray)
            yield ray
            return
        self._connect(ray)
        try:
            self._require_resources(ray)
            yield ray
        finally:
            ray.shutdown()

    def _connect(self, ray: Any) -> None:
        quiet = {"logging_level": "ERROR", "log_to_driver": False}
        alone = {
            "num_cpus": self.workers * self.cpus_per_task,
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
            "_system_config": {"task_oom_retries": self.retries},
        }
        try:
            if self.address:
                _knock(self.address)
            ray.init(**quiet, **({"address": self.address} if self.address else {"address": "local", **alone}))
        except (ConnectionError, TimeoutError, socket.gaierror) as error:
            raise InputError(
                f"no Ray cluster answers at --address {self.address}; start one with ray start --head"
            ) from error

    def _require_resources(self, ray: Any) -> None:
        there = ray.cluster_resources()
        for name, needed in (("CPU", self.cpus_per_task), ("GPU", self.gpus_per_task)):
            if there.get(name, 0) < needed:
                raise InputError(
                    f"a task takes {needed:g} {name}s (--threads, --gpus_per_task), and Ray has "
                    f"{there.get(name, 0):g}; ask for fewer, or add machines"
                )

    def _require_success(self, ray: Any, done: Sequence[Any]) -> None:
        """Raise what a task raised where that is about the user's input or files, not Ray's account of it."""
        errors = ray.exceptions
        try:
            ray.get(done)
        except errors.RayTaskError as error:
            if isinstance(error.cause, (InputError, OSError)):
                raise error.cause from error
            raise
        except (errors.WorkerCrashedError, errors.OutOfMemoryError, errors.NodeDiedError) as error:
            raise InputError(
                f"the worker of a shard died each of the {self.retries + 1} times, mostly for want of memory; take "
                "more --shards or fewer --workers (finished shards are kept)"
            ) from error


def _knock(address: str) -> None:
    """Raise an OSError where nothing listens at ``host:port``: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "/" not in host:
        socket.create_connection((host, int(port)), KNOCK_SECONDS).close()


def import_ray() -> Any:
    """Import Ray, its usage reports switched off.

    Raises:
        InputError: it is not installed.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if importlib.util.find_spec("ray") is None:
        raise InputError("several workers need the package ray: pip install 'ragcun[distributed]'")
    import ray

    return ray


def _do(chain: Chain) -> None:
    for task in chain:
        task()
