"""``ragcun search``: a BEIR collection searched in shards, and its TREC run."""

from __future__ import annotations

import contextlib
import math
import sys
from dataclasses import MISSING, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ragcun.cli.flags import ComputeFlags, HybridFlags, ModelFlags, RankedFlags
from ragcun.config import Distance
from ragcun.errors import InputError
from ragcun.options import check_one_of, flag

if TYPE_CHECKING:
    from ragcun.data.beir import Qrels
    from ragcun.data.beir_sets import CollectionFolder
    from ragcun.distributed.search import Runner, ShardedSearch
    from ragcun.retrieval.runs import Run

MIB = 1 << 20


@dataclass(kw_only=True)
class Options(ComputeFlags, HybridFlags, RankedFlags, ModelFlags):
    """Flags of ``ragcun search``."""

    title: ClassVar[str] = "search"
    datasets: tuple[str, ...] = flag(MISSING, "folders in --data_dir, sets of BEIR, quick, or all")
    output_file: Path = flag(MISSING, "TREC run to write; of several datasets FILE.NAME.trec", short="output")
    top_k: int = flag(100, "documents per query", at_least=1)
    distance: Distance | None = flag(None, "distance of the model (default: its own)", choices=Distance)
    vectors: str | None = flag(None, "vectors of the sets (or DIR/NAME), for a checkpoint without texts", metavar="DIR")
    shards: int = flag(1, "parts of the corpus", at_least=1)
    work_dir: Path | None = flag(
        None, "vectors and results of shards, DIR/NAME each; all machines must see it (default: --output_file + .work)"
    )
    workers: int = flag(0, "Ray processes on this machine; 0 is this process, without Ray", at_least=0)
    address: str | None = flag(None, "head of a Ray cluster, or auto on one of its machines", metavar="HOST:PORT")
    gpus_per_task: float = flag(0.0, "GPUs of a Ray task", at_least=0, below=math.inf)
    threads: int = flag(1, "CPU threads of a task, and the CPUs that Ray counts for it", at_least=1)
    memory_budget: int = flag(1024, "working memory of a search, in MiB", at_least=1)
    block_rows: int = flag(1024, "documents encoded apart from all others; shards are whole blocks", at_least=1)

    def __post_init__(self) -> None:
        check_one_of(self, "model_path", "model")
        check_one_of(self, "workers", "address", needed=False)
        self.require_embeddings()
        self.require_hybrid()
        if self.feedback_weight is not None and not self.feedback:
            raise InputError("--feedback_weight is of --feedback, which is off; give that too, or leave it out")
        if self.vectors and (self.shards > 1 or self.workers or self.address or self.model_path is None):
            raise InputError("--vectors is of a checkpoint in --model_path, searched here as one shard; change that")
        if self.gpus_per_task and not (self.workers or self.address):
            raise InputError("--gpus_per_task is of Ray tasks; add --workers or --address, or leave it out")


def run(options: Options) -> str:
    """Search collections in shards, write a run file of each, and return their NDCG and where the files are.

    Ray is connected first, so that nothing is read where it cannot be; what it prints of dead workers goes to stderr.
    """
    from ragcun.distributed.ray import ray_runner
    from ragcun.distributed.search import run_here
    from ragcun.retrieval.metrics import MODEL, evaluate_run, mean
    from ragcun.retrieval.runs import write_run

    folders, lines = options.collections(), []
    tasks = (options.workers, options.address, options.threads, options.gpus_per_task)
    on_ray = options.workers or options.address
    runners = ray_runner(*tasks) if on_ray else contextlib.nullcontext(run_here)
    with contextlib.redirect_stdout(sys.stderr), runners as runner:
        for folder in folders:
            output = options.output_file
            if len(folders) > 1:
                output = output.with_name(f"{output.stem}.{folder.name.replace('/', '-')}{output.suffix}")
            search = _search(options, folder)
            rankings, qrels = _ranked(options, folder, search, runner)
            write_run(output, rankings, MODEL)
            cutoff = min(10, options.top_k)
            score = mean(evaluate_run(rankings, qrels, (cutoff,)))[f"NDCG@{cutoff}"]
            place = options.vectors or search.folder
            lines.append(f"{folder.name}: NDCG@{cutoff} {score:.4f}; run file: {output}, vectors: {place}")
    return "\n".join(lines)


def _ranked(options: Options, folder: CollectionFolder, search: ShardedSearch, runner: Runner) -> tuple[Run, Qrels]:
    """Search, and fuse with the rankings of other systems; what is not given of a fusion has its fixed value.

    Other systems, and a checkpoint on vectors, search in this process.
    """
    from ragcun.data.overlap import read_seen
    from ragcun.distributed.search import ShardedRetriever, search_collection
    from ragcun.models.checkpoint import is_checkpoint
    from ragcun.retrieval.hybrid import HybridRetriever
    from ragcun.retrieval.systems import Retriever, given_vectors, open_system

    if not (options.hybrid or options.vectors):
        return search_collection(folder, search, runner)
    encoding, collection = options.encoding(), folder.load()
    first: Retriever = ShardedRetriever(search.model, search, runner)
    if options.vectors:
        encoding = replace(encoding, vectors=given_vectors(options.vectors, search.model, [collection]))
        first = open_system(search.model, encoding, options.distance).retriever
    if not options.hybrid:
        return first.retrieve(collection, options.top_k), collection.qrels
    others = [open_system(each, encoding).retriever for each in options.hybrid]
    feedback = (options.feedback, options.feedback_weight) if options.feedback else None
    trained = is_checkpoint(search.model) and read_seen(search.model) != frozenset()
    how: dict[str, Any] = {"feedback": feedback, "trained": trained}
    hybrid = HybridRetriever((first, *others), options.hybrid_weight, options.fusion, **how)
    return hybrid.retrieve(collection, options.top_k), collection.qrels


def _search(options: Options, folder: CollectionFolder) -> ShardedSearch:
    """Describe the search of a collection, folders by their absolute paths: tasks run in other folders."""
    from ragcun.distributed.search import ShardedSearch
    from ragcun.embeddings.hub import model_folder
    from ragcun.retrieval.hybrid import DEPTH

    work = options.work_dir or options.output_file.with_name(f"{options.output_file.name}.work")
    model = model_folder(options.spec)
    model = str(Path(model).resolve()) if Path(model).is_dir() else model
    same = ("shards", "distance", "device", "base_dtype", "base_backend", "batch_size", "block_rows", "threads")
    settings: dict[str, Any] = {name: getattr(options, name) for name in same}
    k, budget = max(options.top_k, DEPTH if options.hybrid else 0), options.memory_budget * MIB
    return ShardedSearch(work.resolve() / folder.name, model, k=k, memory_budget_bytes=budget, **settings)
