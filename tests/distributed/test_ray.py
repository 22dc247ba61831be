"""A search in shards on Ray: two workers on this machine, one of which is killed."""

import os
import signal
from dataclasses import dataclass

import pytest

from ragcun.distributed.ray import ray_runner
from ragcun.distributed.search import Shard, search_collection
from ragcun.errors import InputError

pytest.importorskip("ray")
pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Dying(Shard):
    """A shard whose worker is killed after the vectors are written, so many times."""

    deaths: int = 0

    def _search(self) -> None:
        marker = self.search.folder / "deaths"
        died = marker.read_text() if marker.exists() else ""
        if len(died) < self.deaths:
            marker.write_text(died + "x")
            os.kill(os.getpid(), signal.SIGKILL)
        super()._search()


@pytest.fixture(scope="module")
def on_ray():
    with ray_runner(workers=2, retries=1) as runner:
        yield runner


def with_deaths(runner, deaths):
    def run(shards):
        runner([shards[0], Dying(**vars(shards[1]), deaths=deaths), *shards[2:]])

    return run


def arrays(folder):
    return {file.name: file.read_bytes() for file in folder.glob("*.np[yz]")}


def test_no_cluster_at_an_address_is_one_sentence_at_once():
    """Before Ray is started here; port 1 has no listener. Ray alone tries for minutes."""
    with pytest.raises(InputError, match=r"127.0.0.1:1;.*ray start --head"), ray_runner(address="127.0.0.1:1"):
        pass


def test_workers_and_the_death_of_one_change_no_byte(on_ray, toy, search_in, tmp_path):
    ours, alone = search_in(tmp_path / "ray", 4), search_in(tmp_path / "alone", 4)
    run, _ = search_collection(toy, ours, with_deaths(on_ray, 1))
    assert (ours.folder / "deaths").read_text() == "x"
    assert run == search_collection(toy, alone)[0]
    assert arrays(ours.folder) == arrays(alone.folder)
    assert not list(ours.folder.glob(".*.tmp"))


def test_a_worker_that_keeps_dying_is_one_sentence_and_its_vectors_are_kept(on_ray, toy, search_in, tmp_path):
    search = search_in(tmp_path / "work", 2)
    with pytest.raises(InputError, match=r"died each of the 2 times.*--shards.*--workers"):
        search_collection(toy, search, with_deaths(on_ray, 9))
    assert (search.folder / "deaths").read_text() == "xx"
    assert (search.folder / "documents-00002-of-00002.json").exists()


def test_wrong_input_in_a_worker_is_one_sentence(on_ray, toy, search_in, tmp_path):
    def missing_texts(shards):
        shards[0].file("texts", "jsonl").unlink()
        on_ray(shards)

    with pytest.raises(InputError, match=r"texts-00001-of-00002.jsonl"):
        search_collection(toy, search_in(tmp_path / "work", 2), missing_texts)


def test_more_than_the_cluster_has_is_refused(on_ray):
    for asked, facts in (({"cpus": 3}, r"3 CPUs.*Ray has 2"), ({"gpus": 99}, "99 GPUs")):
        with pytest.raises(InputError, match=facts), ray_runner(workers=2, **asked):
            pass


def test_usage_reports_are_off(on_ray):
    from ray._common.usage import usage_lib

    assert not usage_lib.usage_stats_enabled()
