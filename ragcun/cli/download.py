"""Flags of ``scripts/download_msmarco.py`` and ``download_wiki.py``."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragcun.cli.parser import ArgumentParser
from ragcun.errors import InputError
from ragcun.options import flag

if TYPE_CHECKING:
    from ragcun.data.msmarco import Gathered
    from ragcun.data.pairs import Row
    from ragcun.models.cached_encoder import CachedEncoder


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
    resume: bool = flag(False, "leave a complete download as it is")
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
    resume: bool = flag(False, "leave a complete download as it is")
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


logger = logging.getLogger(__name__)

NO_SETTINGS = ("output_dir", "output", "cache_dir", "device", "resume", "overwrite")
"""Flags that do not change what a download holds."""


def download_msmarco(options: MsmarcoOptions) -> str:
    """Write pairs of MS MARCO, split by query, their statistics and a manifest, and return a summary.

    Raises:
        InputError: a setting is wrong, files are in the way, or the source or the disk fails.
    """
    from ragcun.data.hub import Download, open_rows
    from ragcun.data.msmarco import SOURCES, DevSplit, gather, write_split_pairs

    folder = Path(options.output_dir)
    statistics = folder / "statistics.json"
    files = (folder / "train.jsonl", folder / "dev.jsonl", statistics)
    download = Download(folder / "manifest.json", files, _settings(options))
    if download.is_complete(options.resume, options.overwrite):
        return f"{download.manifest}: this download is complete; nothing to do"
    mine = _miner(options)
    name, subset = SOURCES.get(options.source, (options.source, None))
    rows = open_rows(name, options.subset or subset, options.split, options.revision)
    fraction = DEV_FRACTION if options.dev_fraction is None else options.dev_fraction
    dev = DevSplit(options.seed, fraction, options.num_dev)
    found = gather(rows, dev, options.max_train_samples, keep_offered=options.negatives != "none")
    pairs, report = mine(found)
    made = write_split_pairs(folder, pairs, found.dev, {"rows": dict(found.counts), **report})
    download.write_manifest(rows.source, found.counts, [*made, statistics])
    return "\n".join([*(f"{path}: {count} pairs" for path, count in made.items()), str(statistics)])


def download_wiki(options: WikiOptions) -> str:
    """Write passages of Wikipedia and a manifest beside them, and return a summary.

    Raises:
        InputError: a setting is wrong, a file is in the way, or the source or the disk fails.
    """
    from ragcun.data.hub import Download, open_rows
    from ragcun.data.wikipedia import read_passages, write_passages

    path = Path(options.output)
    download = Download(path.with_name(f"{path.name}.manifest.json"), [path], _settings(options))
    if download.is_complete(options.resume, options.overwrite):
        return f"{download.manifest}: this download is complete; nothing to do"
    folder, subset = Path(options.source), f"{options.date}.{options.language}"
    is_subset = folder.is_dir() and not (folder / subset).is_dir()
    rows = open_rows(options.source, None if is_subset else subset, "train", options.revision, options.seed)
    counts: Counter[str] = Counter()
    write_passages(path, read_passages(rows, options.num_passages, options.max_length, options.min_length, counts))
    download.write_manifest(rows.source, counts, [path])
    few = "" if counts["passages"] == options.num_passages else f" of {options.num_passages} asked for"
    return f"{path}: {counts['passages']} passages{few} from {counts['articles']} articles"


def _settings(options: MsmarcoOptions | WikiOptions) -> dict[str, Any]:
    return {name: value for name, value in asdict(options).items() if name not in NO_SETTINGS}


def _miner(options: MsmarcoOptions) -> Callable[[Gathered], tuple[list[Row], dict[str, Any]]]:
    """Return what gives pairs negatives as the flags say, with what is to be reported of it."""
    if options.negatives in ("given", "none"):
        count = options.negatives_per_query if options.negatives == "given" else 0
        return lambda found: (found.given(count), {})
    from ragcun.data.negatives import MiningSettings
    from ragcun.retrieval.negatives import mine_negatives

    words = {"auto": None, "none": -math.inf}
    word = options.negative_margin.lower()
    try:
        margin = words[word] if word in words else float(word)
        chosen = (options.negatives_per_query, *options.negative_ranks, margin, options.negative_choice, options.seed)
        settings = MiningSettings(options.negatives, *chosen)  # type: ignore[arg-type]
    except ValueError as error:
        raise InputError(f"negatives cannot be mined so: {error}") from error
    encoder = _encoder(options) if options.negatives == "dense" else None

    def mine(found: Gathered) -> tuple[list[Row], dict[str, Any]]:
        how = {"settings": settings, "encoder": encoder}
        mined = mine_negatives(found.pairs, options.source, found.pool, found.known, **how)  # type: ignore[arg-type]
        logger.info("%s", mined.report)
        return mined.rows, {"mining": mined.report.to_dict()}

    return mine


def _encoder(options: MsmarcoOptions) -> CachedEncoder:
    from ragcun.embeddings.cache import EmbeddingCache
    from ragcun.embeddings.text_base import TextBase
    from ragcun.models.cached_encoder import CachedEncoder

    base = TextBase.load(options.base_model, device=options.device)
    return CachedEncoder(EmbeddingCache(base, options.cache_dir))


def parse_download(description: str | None) -> argparse.Namespace:
    """Parse the flags of `download_beir`."""
    parser = ArgumentParser(description=description)
    names = "sets of BEIR, quick (5 small sets), or all (every downloadable set; default: quick)"
    parser.add_argument("--datasets", nargs="+", default=["quick"], metavar="NAME", help=names)
    parser.add_argument("--data_dir", default="data", metavar="DIR", help="where folders are made (default: data)")
    place = "where NAME.zip lie, https:// or file:// (default: $RAGCUN_BEIR_MIRROR, or the hub)"
    parser.add_argument("--mirror", metavar="URL", help=place)
    return parser.parse_args()


def download_beir(flags: argparse.Namespace) -> str:
    """Fetch the sets that are not there, and return where all of them are.

    Raises:
        InputError: a set is unknown, or cannot be downloaded.
    """
    from ragcun.data.beir_download import fetch_from
    from ragcun.data.beir_sets import find_sets

    data_dir = Path(flags.data_dir)
    found = find_sets(data_dir, flags.datasets, fetch=fetch_from(flags.mirror, data_dir))
    return "\n".join(f"{folder.name}: {folder.path}, {folder.split}" for folder in found)
