"""What ``scripts/search_corpus.py`` does: its flags, the search in shards, and what is shown."""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ragcun.cli.encoding_flags import add_computing_flags
from ragcun.cli.parser import ArgumentParser
from ragcun.errors import InputError

if TYPE_CHECKING:
    from ragcun.data.beir_sets import CollectionFolder
    from ragcun.distributed.search import Runner, ShardedSearch

LEAST = {"shards": 1, "workers": 0, "top_k": 1, "memory_budget": 1, "batch_size": 1, "block_rows": 1, "threads": 1}
"""Flags that count something, and the least that makes sense."""
MIB = 1 << 20


def parse_search(description: str | None) -> argparse.Namespace:
    """Parse the flags of `search_corpus`."""
    parser = ArgumentParser(description=description)
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--model_path", metavar="DIR", help="checkpoint folder")
    model.add_argument("--model", metavar="NAME", help="hub name, folder, minilm, or contriever")
    names = "folders in --data_dir, or sets of BEIR there"
    parser.add_argument("--datasets", nargs="+", required=True, metavar="NAME", help=names)
    parser.add_argument("--data_dir", default="data", metavar="DIR", help="folder of BEIR collections (default: data)")
    parser.add_argument("--split", help="judgments whose queries are searched for (default: test; dev of msmarco)")
    place = "TREC run file to write; of several datasets FILE has their names before its suffix"
    parser.add_argument("--output_file", "--output", type=Path, required=True, metavar="FILE", help=place)
    parser.add_argument("--top_k", type=int, default=100, metavar="K", help="documents a query (default: %(default)s)")
    parser.add_argument("--distance", choices=("euclidean", "cosine", "dot"), help="compared by (default: the model's)")
    _add_places(parser)
    _add_computing(parser)
    return parser.parse_args()


def _add_places(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shards", type=int, default=1, metavar="N", help="parts of the corpus (default: 1)")
    folder = "vectors and results of shards, DIR/NAME each; all machines must see it (default: --output_file + .work)"
    parser.add_argument("--work_dir", type=Path, metavar="DIR", help=folder)
    where = parser.add_mutually_exclusive_group()
    workers = "Ray processes on this machine (default: 0, which is this process, without Ray)"
    where.add_argument("--workers", type=int, default=0, metavar="N", help=workers)
    address = "head of a running Ray cluster (HOST:PORT), or auto on one of its machines"
    where.add_argument("--address", metavar="ADDRESS", help=address)
    gpus = "GPUs of a Ray task (default: 0)"
    parser.add_argument("--gpus_per_task", type=float, default=0, metavar="N", help=gpus)


def _add_computing(parser: argparse.ArgumentParser) -> None:
    threads = "CPU threads of a task, and the CPUs that Ray counts for it (default: %(default)s)"
    parser.add_argument("--threads", type=int, default=1, metavar="N", help=threads)
    budget = "working memory of a search, in MiB (default: %(default)s)"
    parser.add_argument("--memory_budget", type=int, default=1024, metavar="MIB", help=budget)
    block = "documents encoded apart from all others; shards are whole blocks (default: %(default)s)"
    parser.add_argument("--block_rows", type=int, default=1024, metavar="N", help=block)
    add_computing_flags(parser)


def search_corpus(flags: argparse.Namespace) -> str:
    """Search collections in shards, write a run file of each, and return their NDCG and where the files are.

    Raises:
        InputError: a flag, a model or a collection is wrong, or Ray is missing or fails.
    """
    _check(flags)
    from ragcun.data.beir_sets import find_sets
    from ragcun.distributed.search import search_collection
    from ragcun.retrieval.comparison import MODEL
    from ragcun.retrieval.metrics import evaluate_run, mean
    from ragcun.retrieval.runs import write_run

    folders, lines = find_sets(flags.data_dir, flags.datasets, flags.split), []
    with _runner(flags) as runner:
        for folder in folders:
            output = flags.output_file if len(folders) == 1 else _named(flags.output_file, folder)
            search = _search(flags, folder)
            run, qrels = search_collection(folder, search, runner)
            write_run(output, run, MODEL)
            cutoff = min(10, flags.top_k)
            score = mean(evaluate_run(run, qrels, (cutoff,)))[f"NDCG@{cutoff}"]
            lines.append(f"{folder.name}: NDCG@{cutoff} {score:.4f}; run file: {output}, vectors: {search.folder}")
    return "\n".join(lines)


def _check(flags: argparse.Namespace) -> None:
    for name, least in LEAST.items():
        if getattr(flags, name) < least:
            raise InputError(f"--{name} must be at least {least}, got {getattr(flags, name)}; give a larger number")
    if not 0 <= flags.gpus_per_task < math.inf:
        raise InputError(f"--gpus_per_task must be a number of at least 0, got {flags.gpus_per_task}; give such a one")
    if flags.gpus_per_task and not (flags.workers or flags.address):
        raise InputError("--gpus_per_task is of Ray tasks; add --workers or --address, or leave it out")
    if (flags.model_path or flags.model) == "bm25":
        raise InputError("bm25 has no embeddings; name a checkpoint or an embedding model")


@contextlib.contextmanager
def _runner(flags: argparse.Namespace) -> Iterator[Runner]:
    """Give what runs tasks; Ray is connected first, so that nothing is read where it cannot be.

    Ray prints on stdout what it has to say of dead workers; that is sent to stderr.
    """
    from ragcun.distributed.ray import ray_runner
    from ragcun.distributed.search import run_here

    if not (flags.workers or flags.address):
        yield run_here
        return
    with (
        contextlib.redirect_stdout(sys.stderr),
        ray_runner(flags.workers, flags.address, flags.threads, flags.gpus_per_task) as runner,
    ):
        yield runner


def _search(flags: argparse.Namespace, folder: CollectionFolder) -> ShardedSearch:
    """Describe the search of a collection, folders by their absolute paths: tasks run in other folders."""
    from ragcun.distributed.search import ShardedSearch

    work = flags.work_dir or flags.output_file.with_name(f"{flags.output_file.name}.work")
    model = flags.model_path or flags.model
    return ShardedSearch(
        work.resolve() / folder.name,
        str(Path(model).resolve()) if Path(model).is_dir() else model,
        flags.shards,
        flags.top_k,
        flags.distance,
        flags.memory_budget * MIB,
        flags.device,
        flags.base_dtype,
        flags.batch_size,
        flags.block_rows,
        flags.threads,
    )


def _named(output: Path, folder: CollectionFolder) -> Path:
    return output.with_name(f"{output.stem}.{folder.name.replace('/', '-')}{output.suffix}")
