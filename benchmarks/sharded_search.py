"""Search in shards: Ray with two workers on this machine against one process, from no vectors to the run file.

Each side encodes and searches the collection in a new folder; starting Ray and opening the model in its workers counts.
The run files must be the same, byte for byte.
"""

import argparse
import contextlib
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from ragcun.cli.parser import run_script
from ragcun.data.beir import write_collection
from ragcun.data.beir_sets import CollectionFolder, find_sets
from ragcun.distributed.ray import ray_runner
from ragcun.distributed.search import Runner, ShardedSearch, run_here, search_collection
from ragcun.retrieval.runs import write_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--dataset", default="cranfield")
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--block_rows", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--documents", type=int, help="search only so many, the first (default: all)")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as data:
        compare(flags, first_documents(flags, Path(data)))


def first_documents(flags: argparse.Namespace, place: Path) -> CollectionFolder:
    """Return the collection, cut to its first documents in a folder of its own if that is asked for."""
    (source,) = find_sets(flags.data_dir, [flags.dataset])
    if flags.documents is None:
        return source
    whole = source.load()
    documents = dict(islice(whole.documents.items(), flags.documents))
    write_collection(place / flags.dataset, documents, whole.queries, {"test": whole.qrels})
    return CollectionFolder(flags.dataset, place / flags.dataset, "test")


def compare(flags: argparse.Namespace, source: CollectionFolder) -> None:

    @contextlib.contextmanager
    def in_process() -> Iterator[Runner]:
        yield run_here

    sides = {
        "one process, 1 shard": (in_process, 1),
        f"Ray, {flags.workers} workers, {4 * flags.workers} shards": (
            lambda: ray_runner(flags.workers),
            4 * flags.workers,
        ),
    }
    for _ in range(flags.rounds):
        seconds, runs = [], set()
        for name, (runner, shards) in sides.items():
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                search = ShardedSearch(
                    Path(folder) / "work", flags.model, shards, device="cpu", block_rows=flags.block_rows
                )
                with runner() as run_shards:
                    run, _ = search_collection(source, search, run_shards)
                write_run(Path(folder) / "run.trec", run, "model")
                seconds.append(time.perf_counter() - start)
                runs.add((Path(folder) / "run.trec").read_bytes())
            print(f"{name}: {seconds[-1]:.1f} s")
        same = "the same run file" if len(runs) == 1 else "DIFFERENT run files"
        print(f"one process / Ray: {seconds[0] / seconds[1]:.2f}; {same}")


if __name__ == "__main__":
    run_script(main)
