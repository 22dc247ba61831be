"""How fast several processes encode at once on the same cores, beside one alone: documents a second, all together.

Each process encodes the same documents by MiniLM with as many threads as there are cores. Between two products the
threads of libgomp wait by spinning; where others want the core, that wastes it. Compares libgomp's own length of
spinning with the one that ``import ragcun`` sets (`GOMP_SPINCOUNT`), in turn, round by round.
"""

import argparse
import itertools
import multiprocessing
import os
import statistics
import time
from multiprocessing.connection import Connection
from pathlib import Path

import ragcun
from ragcun.cli.parser import run_script

WAITING = {"libgomp's own": "300000", "ragcun's": os.environ.get("GOMP_SPINCOUNT", "10000")}


def encode(documents: list[str], orders: Connection) -> None:
    base = ragcun.TextBase.load("minilm", device="cpu")
    base.freeze(True)
    base.encode(documents[:4], "document")
    orders.send("ready")
    while orders.recv():
        start = time.perf_counter()
        base.encode(documents, "document")
        orders.send(time.perf_counter() - start)


def start(count: int, documents: list[str]) -> list[Connection]:
    """Return connections to `count` processes that are ready to encode."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = zip(*(context.Pipe() for _ in range(count)), strict=True)
    for each in theirs:
        context.Process(target=encode, args=(documents, each), daemon=True).start()
    for connection in ours:
        connection.recv()
    return list(ours)


def rate(processes: list[Connection], documents: int) -> float:
    """Return how many documents a second processes encode together, so many each."""
    for each in processes:
        each.send("encode")
    return len(processes) * documents / max(each.recv() for each in processes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True, help="folder of SciFact")
    parser.add_argument("--documents", type=int, default=64)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    flags = parser.parse_args()
    contents = [document.content for document in ragcun.load_collection(flags.data_dir).documents.values()]
    documents = contents[:: max(1, len(contents) // flags.documents)][: flags.documents]
    ratios: dict[str, list[float]] = {name: [] for name in WAITING}
    alone: dict[str, list[float]] = {name: [] for name in WAITING}
    processes = {}
    for name, os.environ["GOMP_SPINCOUNT"] in WAITING.items():
        processes[name] = start(flags.processes, documents)
    for _ in range(flags.rounds):
        for name, ready in processes.items():
            alone[name].append(rate(ready[:1], len(documents)))
            ratios[name].append(rate(ready, len(documents)) / alone[name][-1])
    for each in itertools.chain(*processes.values()):
        each.send(None)  # end
    print(f"{flags.documents} documents a process, {os.cpu_count()} cores, {flags.rounds} rounds")
    for name, found in ratios.items():
        print(
            f"waiting {name:<14} one process {statistics.median(alone[name]):5.1f} documents/s; {flags.processes} "
            f"together {statistics.median(found):.2f} times that ({min(found):.2f} to {max(found):.2f})"
        )


if __name__ == "__main__":
    run_script(main)
