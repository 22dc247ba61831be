"""``ragcun download``: MS MARCO, Wikipedia and BEIR."""

from __future__ import annotations

import functools
import logging
from collections import Counter
from dataclasses import MISSING, asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from ragcun.cli.flags import MiningFlags, SetFlags
from ragcun.config import SEED_HELP
from ragcun.errors import InputError
from ragcun.options import check_one_of, flag

logger = logging.getLogger(__name__)

NEGATIVES = ("bm25", "given", "random", "dense", "none")
DEV_FRACTION = 0.02
NO_SETTINGS = ("output_dir", "output", "cache_dir", "device", "resume", "overwrite")
"""Flags that do not change what a download holds."""
COMPLETE = ": this download is complete; nothing to do"


@dataclass(kw_only=True)
class HubFlags:
    """Where a download comes from, and what becomes of an earlier one."""

    title: ClassVar[str] = "data"
    source: str = flag(MISSING, "data set of the hub (owner/name), or a folder with its files")
    revision: str | None = flag(None, "commit, branch or tag on the hub (default: the newest)")
    seed: int = flag(0, SEED_HELP, at_least=0)
    resume: bool = flag(False, "keep a complete download as it is")
    overwrite: bool = flag(False, "replace an earlier download")

    def __post_init__(self) -> None:
        check_one_of(self, "resume", "overwrite", needed=False)
        if self.revision is not None and Path(self.source).is_dir():
            raise InputError(f"--revision applies to hub data sets, but {self.source} is a folder; leave it out")

    def settings(self) -> dict[str, Any]:
        """Return the flags that change what a download holds."""
        return {name: value for name, value in asdict(self).items() if name not in NO_SETTINGS}


@dataclass(kw_only=True)
class MsmarcoOptions(MiningFlags, HubFlags):
    """Flags of ``ragcun download msmarco``."""

    title: ClassVar[str] = "data"
    output_dir: Path = flag(MISSING, "folder to write: train.jsonl, dev.jsonl, statistics and manifest")
    source: str = flag("ms_marco", "ms_marco, triplets, another data set of the hub (owner/name), or a folder")
    subset: str | None = flag(None, "subset of the source, such as v2.1 (default: v1.1, triplet, or the only one)")
    split: str = flag("train", "split of the source")
    max_train_samples: int | None = flag(None, "stop after this many training pairs", at_least=1)
    dev_fraction: float | None = flag(
        None, f"share of the queries held out for dev (default: {DEV_FRACTION})", at_least=0, below=1
    )
    num_dev: int | None = flag(None, "number of queries held out for dev, instead of a share", at_least=0)
    negatives: str = flag("bm25", "where negatives come from; given: what the source's rows offer", choices=NEGATIVES)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dev_fraction is not None and self.num_dev is not None:
            raise InputError("--dev_fraction and --num_dev contradict each other; give one of them")


@dataclass(kw_only=True)
class WikiOptions(HubFlags):
    """Flags of ``ragcun download wikipedia``."""

    output: Path = flag(MISSING, "file to write: .jsonl, .json, or .txt with a passage a line", metavar="FILE")
    source: str = flag("wikimedia/wikipedia", "data set of the hub (owner/name), or a folder with its files")
    num_passages: int = flag(1_000_000, "number of passages", at_least=1)
    max_length: int = flag(100, "maximum number of words in a passage", at_least=1)
    min_length: int = flag(20, "minimum number of words in a passage; shorter ones are left out", at_least=1)
    language: str = flag("en", "language code of the articles, as in the hub's subset names")
    date: str = flag("20231101", "date of the Wikipedia dump")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_length > self.max_length:
            raise InputError(f"--min_length must be 1 to --max_length, got {self.min_length} and {self.max_length}")
        if self.output.suffix.lower() not in (".jsonl", ".ndjson", ".json", ".txt") or self.output.is_dir():
            raise InputError(f"--output {self.output}: give a file name that ends in .jsonl, .ndjson, .json or .txt")


@dataclass
class BeirOptions(SetFlags):
    """Flags of ``ragcun download beir``."""

    datasets: tuple[str, ...] = flag(("quick",), "sets of BEIR, quick (5 small sets), or all (every downloadable set)")
    data_dir: str = flag("data", "folder to write to, with a subfolder for each set")


def msmarco(options: MsmarcoOptions) -> str:
    """Write pairs of MS MARCO, split by query, their statistics and a manifest, and return a summary."""
    from ragcun.data.hub import is_complete, open_rows, write_manifest
    from ragcun.data.msmarco import SOURCES, gather, held_out_queries, write_split_pairs

    folder = options.output_dir
    manifest, statistics = folder / "manifest.json", folder / "statistics.json"
    files = [folder / "train.jsonl", folder / "dev.jsonl", statistics]
    if is_complete(manifest, files, options.settings(), options.resume, options.overwrite):
        return f"{manifest}{COMPLETE}"
    offered = {"none": 0, "given": options.negatives_per_query}.get(options.negatives)
    miner = options.miner(options.negatives, options.seed) if offered is None else None
    name, subset = SOURCES.get(options.source, (options.source, None))
    rows = open_rows(name, options.subset or subset, options.split, options.revision)
    fraction = DEV_FRACTION if options.dev_fraction is None else options.dev_fraction
    hold_out = functools.partial(held_out_queries, seed=options.seed, fraction=fraction, number=options.num_dev)
    found = gather(rows, hold_out, options.max_train_samples, keep_offered=options.negatives != "none")
    report: dict[str, Any] = {"rows": dict(found.counts)}
    if miner is None:
        pairs = found.rows(offered or 0)
    else:
        mined = miner(found.rows(0), options.source, found.pool, found.known)
        logger.info("%s", mined.report)
        pairs, report["mining"] = mined.rows, vars(mined.report)
    made = write_split_pairs(folder, pairs, found.dev, report)
    write_manifest(manifest, [*made, statistics], options.settings(), rows, found.counts)
    return "\n".join([*(f"{path}: {count} pairs" for path, count in made.items()), str(statistics)])


def wikipedia(options: WikiOptions) -> str:
    """Write passages of Wikipedia and a manifest beside them, and return a summary."""
    from ragcun.data.hub import is_complete, open_rows, read_passages, write_manifest, write_passages

    path, manifest = options.output, options.output.with_name(f"{options.output.name}.manifest.json")
    if is_complete(manifest, [path], options.settings(), options.resume, options.overwrite):
        return f"{manifest}{COMPLETE}"
    folder, subset = Path(options.source), f"{options.date}.{options.language}"
    is_subset = folder.is_dir() and not (folder / subset).is_dir()
    rows = open_rows(options.source, None if is_subset else subset, "train", options.revision, options.seed)
    counts: Counter[str] = Counter()
    write_passages(path, read_passages(rows, options.num_passages, options.max_length, options.min_length, counts))
    write_manifest(manifest, [path], options.settings(), rows, counts)
    few = "" if counts["passages"] == options.num_passages else f" of {options.num_passages} asked for"
    return f"{path}: {counts['passages']} passages{few} from {counts['articles']} articles"


def beir(options: BeirOptions) -> str:
    """Fetch the sets that are not there, and return where all of them are."""
    from ragcun.data.beir_sets import find_sets

    found = find_sets(options.data_dir, options.datasets, fetch=True, mirror=options.mirror)
    return "\n".join(f"{folder.name}: {folder.path}, {folder.split}" for folder in found)
