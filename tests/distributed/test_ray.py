"""A search in shards on Ray: two workers on this machine, one of which is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pytest

from ragcun.distributed.cluster import RayRunner, run_here
from ragcun.distributed.model import opened
from ragcun.distributed.pieces import write_matrix
from ragcun.distributed.search import search_collection
from ragcun.distributed.tasks import EncodeShard
from ragcun.errors import InputError
from ragcun.io import read_json_lines

pytest.importorskip("ray")


def pieces(folder):
    return {file.name: file.read_bytes() for file in folder.glob("*.np[yz]")}


def test_workers_and_the_death_of_one_change_no_byte(on_ray, toy, search_in, tmp_path):
    """The worker of shard 2 is killed after its first block, once; the task is tried again elsewhere."""
    marker = tmp_path / "killed"

    @dataclass(frozen=True)
    class Killed(EncodeShard):
        marker: Path

        def __call__(self) -> None:
            if self.marker.exists():
                super().__call__()
                return
            self.marker.write_text(str(os.getpid()))
            texts = [row["text"] for _, row in read_json_lines(self.texts)]

            def blocks():
                yield next(iter(opened(self.spec).encode(texts, "document")))
                os.kill(os.getpid(), signal.SIGKILL)

            write_matrix(self.piece, blocks(), self.record)

    def with_a_death(chains):
        encoding, *rest = chains[1]
        given = {field.name: getattr(encoding, field.name) for field in fields(encoding)}
        on_ray([chains[0], [Killed(**given, marker=marker), *rest], *chains[2:]])

    ours, alone = search_in(tmp_path / "ray", 4), search_in(tmp_path / "alone", 4)
    run, _ = search_collection(toy, ours, with_a_death)
    assert int(marker.read_text()) != os.getpid()
    assert run == search_collection(toy, alone, run_here)[0]
    assert pieces(ours.folder) == pieces(alone.folder)
    assert not list(ours.folder.glob(".*.tmp"))
    assert run == search_collection(toy, search_in(tmp_path / "one", 1), run_here)[0]


def test_a_finished_search_starts_no_task(toy, search_in, tmp_path):
    search = search_in(tmp_path / "work", 2)
    run, _ = search_collection(toy, search, run_here)
    unreachable = RayRunner(address="127.0.0.1:1")
    assert search_collection(toy, search, unreachable)[0] == run


def test_no_cluster_at_an_address_is_one_sentence_at_once():
    """Before Ray is started here, in a process of its own; port 1 has no listener. Ray alone tries for minutes."""
    code = (
        "from ragcun.distributed.cluster import RayRunner\nfrom ragcun.errors import InputError\n"
        "try:\n    RayRunner(address='127.0.0.1:1')([[print]])\nexcept InputError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "no Ray cluster answers at --address 127.0.0.1:1; start one with ray start --head\n"


def test_wrong_input_in_a_worker_is_one_sentence(on_ray):
    class Refuses:
        def __call__(self) -> None:
            raise InputError(f"not in process {os.getpid()}; start again")

    with pytest.raises(InputError, match=r"^not in process \d+; start again$") as caught:
        on_ray([[Refuses()]])
    assert str(os.getpid()) not in str(caught.value)


def test_a_worker_that_keeps_dying_is_one_sentence(on_ray, tmp_path):
    class Dies:
        def __call__(self) -> None:
            with (tmp_path / "deaths").open("a") as file:
                file.write("x")
            os._exit(1)

    with pytest.raises(InputError, match=r"died each of the 2 times.*take more --shards or fewer --workers"):
        replace(on_ray, retries=1)([[Dies()]])
    assert (tmp_path / "deaths").read_text() == "xx"


def test_more_than_the_cluster_has_is_refused(on_ray):
    def work() -> None:
        """Do nothing."""

    with pytest.raises(InputError, match=r"a task takes 3 CPUs.*Ray has 2"):
        RayRunner(workers=2, cpus_per_task=3)([[work]])
    with pytest.raises(InputError, match=r"a task takes 99 GPUs.*ask for fewer"):
        RayRunner(workers=2, gpus_per_task=99)([[work]])


def test_nothing_is_reported_to_anyone(on_ray):
    import ray
    from ray._common.usage import usage_lib

    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert not usage_lib.usage_stats_enabled()
    assert ray.is_initialized()
