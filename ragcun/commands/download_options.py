"""Flags of ``scripts/download_msmarco.py`` and ``download_wiki.py``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from ragcun.cli import flag
from ragcun.errors import InputError

NEGATIVES = ("bm25", "given", "random", "dense", "none")
DEV_FRACTION = 0.02


@dataclass
class MsmarcoOptions:
    """Flags of ``scripts/download_msmarco.py``."""

    output_dir: str = flag(dataclasses.MISSING, "folder to write train.jsonl, dev.jsonl and what was counted into")
    source: str = flag("ms_marco", "ms_marco, triplets, another data set of the hub (owner/name), or a folder")
    subset: str | None = flag(
        None, "which set of the source, such as v2.1 or triplet-50; else v1.1, triplet, or the only one"
    )
    revision: str | None = flag(None, "commit, branch or tag on the hub; else the newest")
    split: str = flag("train", "split of the source")
    max_train_samples: int | None = flag(None, "stop after this many pairs of query and positive for training")
    dev_fraction: float | None = flag(None, f"fraction of the queries that is held out for dev; else {DEV_FRACTION}")
    num_dev: int | None = flag(None, "number of queries that is held out for dev, instead of a fraction")
    negatives: str = flag("bm25", "where negatives come from; given: what the source's rows offer", choices=NEGATIVES)
    negatives_per_query: int = flag(1, "how many negatives a pair gets, a line for each")
    negative_ranks: tuple[int, ...] = flag((0, 100), "bm25, dense: take ranks A to B - 1, counted from 0")
    negative_margin: str = flag("auto", "keep candidates up to (1 - margin) of the positive's score; none: all")
    negative_choice: str = flag("drawn", "take the hardest of what is left, or draw", choices=("drawn", "hardest"))
    base_model: str = flag("minilm", "dense: model that ranks; a hub name, a folder or minilm")
    cache_dir: str | None = flag(None, "dense: folder of the model's cached vectors")
    device: str | None = flag(None, "dense: where the model runs, cpu or cuda")
    seed: int = flag(0, "of which queries are held out and which negatives are drawn")
    resume: bool = flag(False, "leave a complete download as it is; an unfinished one is gone on with in any case")
    overwrite: bool = flag(False, "replace an earlier download")

    def __post_init__(self) -> None:
        _check_common(self.source, self.revision, self.resume, self.overwrite)
        if Path(self.output_dir).is_file():
            raise InputError(f"--output_dir {self.output_dir} is a file; give a folder")
        if self.dev_fraction is not None and self.num_dev is not None:
            raise InputError("--dev_fraction and --num_dev contradict each other; give one of them")
        if self.dev_fraction is not None and not 0 <= self.dev_fraction < 1:
            raise InputError(f"--dev_fraction must be at least 0 and below 1, got {self.dev_fraction}")
        if self.num_dev is not None and self.num_dev < 0:
            raise InputError(f"--num_dev must be at least 0, got {self.num_dev}")
        if self.max_train_samples is not None and self.max_train_samples < 1:
            raise InputError(f"--max_train_samples must be at least 1, got {self.max_train_samples}")
        if len(self.negative_ranks) != 2:
            raise InputError(f"--negative_ranks are two numbers, such as 0 100, got {self.negative_ranks}")
        if self.negatives_per_query < 1:
            raise InputError(f"--negatives_per_query must be at least 1, got {self.negatives_per_query}")


@dataclass
class WikiOptions:
    """Flags of ``scripts/download_wiki.py``."""

    output: str = flag(dataclasses.MISSING, "file to write: .jsonl, .json, or .txt with a passage a line")
    num_passages: int = flag(1_000_000, "how many passages")
    max_length: int = flag(100, "most words of a passage")
    min_length: int = flag(20, "fewest words of a passage; shorter ones are left out")
    language: str = flag("en", "language of the articles, as the hub's subsets have it")
    date: str = flag("20231101", "date of the dump")
    source: str = flag("wikimedia/wikipedia", "data set of the hub (owner/name), or a folder with its files")
    revision: str | None = flag(None, "commit, branch or tag on the hub; else the newest")
    seed: int = flag(0, "of the order in which the source's files are read")
    resume: bool = flag(False, "leave a complete download as it is; an unfinished one is gone on with in any case")
    overwrite: bool = flag(False, "replace an earlier download")

    def __post_init__(self) -> None:
        _check_common(self.source, self.revision, self.resume, self.overwrite)
        if self.num_passages < 1:
            raise InputError(f"--num_passages must be at least 1, got {self.num_passages}")
        if not 1 <= self.min_length <= self.max_length:
            raise InputError(f"--min_length must be 1 to --max_length, got {self.min_length} and {self.max_length}")
        if Path(self.output).suffix.lower() not in (".jsonl", ".ndjson", ".json", ".txt"):
            raise InputError(f"--output {self.output}: name the file .jsonl, .ndjson, .json or .txt")
        if Path(self.output).is_dir():
            raise InputError(f"--output {self.output} is a folder; name a file")


def _check_common(source: str, revision: str | None, resume: bool, overwrite: bool) -> None:
    if resume and overwrite:
        raise InputError("--resume and --overwrite contradict each other; give one of them")
    if revision is not None and Path(source).is_dir():
        raise InputError(f"--revision is of a data set on the hub, and {source} is a folder; leave it out")
