"""Shards as Ray tasks, on this machine or a cluster."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Sequence
from typing import Any

from tqdm.auto import tqdm

from ragcun.distributed.search import Runner, Shard
from ragcun.errors import InputError, require_package


@contextlib.contextmanager
def ray_runner(
    workers: int = 1, address: str | None = None, cpus: int = 1, gpus: float = 0, retries: int = 3
) -> Iterator[Runner]:
    """Give a function that runs each shard as a Ray task; a Ray that is connected already is used and left running.

    `workers` is the number of tasks at a time in a Ray started on this machine, without effect with the `address` of a
    running cluster (``host:port`` of its head, or ``auto``); a task takes `cpus` and `gpus`, and runs again up to
    `retries` times where its worker died. Ray's usage reports are off.

    Raises:
        InputError: Ray is missing, cannot be reached or has too little, a task raised it, or its worker kept dying.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    require_package("ray", "distributed")
    import ray

    is_ours = not ray.is_initialized()
    if is_ours:
        _connect(ray, workers * cpus, address, retries)
    try:
        there = ray.cluster_resources()
        for name, needed in (("CPU", cpus), ("GPU", gpus)):
            if there.get(name, 0) < needed:
                taken = f"a task takes {needed:g} {name}s (--threads, --gpus_per_task)"
                raise InputError(f"{taken}, and Ray has {there.get(name, 0):g}; ask for fewer, or add machines")
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=retries)(Shard.run)
        yield lambda shards: _run(ray, task, shards, retries)
    finally:
        if is_ours:
            ray.shutdown()


def _run(ray: Any, task: Any, shards: Sequence[Shard], retries: int) -> None:
    pending, errors = [task.remote(shard) for shard in shards], ray.exceptions
    with tqdm(total=len(shards), desc="shards", unit="shard", delay=2) as bar:
        while pending:
            done, pending = ray.wait(pending, num_returns=1)
            try:
                ray.get(done)
            except errors.RayTaskError as error:
                if isinstance(error.cause, (InputError, OSError)):
                    raise error.cause from error
                raise
            except (errors.WorkerCrashedError, errors.OutOfMemoryError, errors.NodeDiedError) as error:
                problem = f"the worker of a shard died each of the {retries + 1} times, probably out of memory"
                remedy = "give more --shards or fewer --workers (finished shards are kept)"
                raise InputError(f"{problem}; {remedy}") from error
            bar.update(len(done))


def _connect(ray: Any, cpus: int, address: str | None, retries: int) -> None:
    # a small object store: tasks exchange files
    where: dict[str, Any] = {"address": address or "local"}
    if address is None:
        where |= {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": 80 << 20}
        where["_system_config"] = {"task_oom_retries": retries}
    try:
        host, _, port = (address or "").rpartition(":")
        if host and port.isdecimal() and "/" not in host:  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), 10).close()
        ray.init(logging_level="ERROR", log_to_driver=False, **where)
    except (ConnectionError, TimeoutError, socket.gaierror) as error:
        raise InputError(f"no Ray cluster answers at --address {address}; start one with ray start --head") from error
