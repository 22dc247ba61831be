"""What ``scripts/download_msmarco.py`` and ``download_wiki.py`` do, and the files that they leave."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragcun.commands.download_options import DEV_FRACTION, MsmarcoOptions, WikiOptions
from ragcun.errors import InputError

if TYPE_CHECKING:
    from ragcun.data.download_files import Download
    from ragcun.data.msmarco import Gathered
    from ragcun.data.pairs import Row
    from ragcun.data.part_file import Keeper, PartFile
    from ragcun.models.cache import CachedEncoder

logger = logging.getLogger(__name__)

NO_SETTINGS = ("output_dir", "output", "cache_dir", "device", "resume", "overwrite")
"""Flags that do not change what a download holds."""


def download_msmarco(options: MsmarcoOptions) -> str:
    """Write pairs of MS MARCO, split by query, their statistics and a manifest, and return a summary.

    Raises:
        InputError: a setting is wrong, files are in the way, or the source or the disk fails.
    """
    from ragcun.data.dev_queries import DevQueries
    from ragcun.data.download_files import Download
    from ragcun.data.msmarco import SOURCES, PairKeeper, gathered, write_split_pairs

    folder = Path(options.output_dir)
    fraction = DEV_FRACTION if options.dev_fraction is None else options.dev_fraction
    dev = DevQueries(options.seed, fraction, options.num_dev)
    files = tuple(folder / name for name in ("train.jsonl", "dev.jsonl", "statistics.json"))
    download = Download(folder / "manifest.json", files, folder / "rows.part")
    mine = _miner(options)

    def finish(part: PartFile) -> str:
        rows, mined = mine(gathered(part.rows(), dev, options.max_train_samples))
        made = write_split_pairs(folder, rows, dev, {"rows": dict(part.counts), **mined})
        download.write_manifest(part, {path.name: path for path in made})
        download.clear_part()
        return "\n".join([f"{path}: {count} pairs" for path, count in made.items() if count] + [f"{files[2]}"])

    name, subset = SOURCES.get(options.source, (options.source, None))
    place = (name, options.subset or subset, options.split)
    keeper = PairKeeper(dev, options.max_train_samples, keep_offered=options.negatives != "none")
    return _run(download, options, place, keeper, finish)


def download_wiki(options: WikiOptions) -> str:
    """Write passages of Wikipedia and a manifest beside them, and return a summary.

    Raises:
        InputError: a setting is wrong, a file is in the way, or the source or the disk fails.
    """
    from ragcun.data.download_files import Download
    from ragcun.data.wikipedia import PassageKeeper, subset_of, write_passages

    path = Path(options.output)
    download = Download(path.with_name(f"{path.name}.manifest.json"), (path,), path.with_name(f"{path.name}.part"))

    def finish(part: PartFile) -> str:
        if not part.counts["passages"]:
            raise InputError(f"{part.source} has no passages of {options.min_length} words; lower --min_length")
        if path.suffix.lower() in (".jsonl", ".ndjson"):
            download.write_manifest(part, {path.name: part.path})
            os.replace(part.path, path)
        else:
            write_passages(path, part.rows())
            download.write_manifest(part, {path.name: path})
        download.clear_part()
        few = "" if part.counts["passages"] == options.num_passages else f" of {options.num_passages} asked for"
        return f"{path}: {part.counts['passages']} passages{few} from {part.counts['articles']} articles"

    place = (options.source, subset_of(options.source, options.date, options.language), "train")
    keeper = PassageKeeper(options.num_passages, options.max_length, options.min_length)
    return _run(download, options, place, keeper, finish, shuffle_files=options.seed)


def _run(
    download: Download,
    options: MsmarcoOptions | WikiOptions,
    place: tuple[str, str | None, str],
    keeper: Keeper,
    finish: Callable[[PartFile], str],
    shuffle_files: int | None = None,
) -> str:
    """Bring rows into the part file, or the rest of them, and make the files of it."""
    from ragcun.atomic import ROOM
    from ragcun.data.disk import full_disk_named
    from ragcun.data.hub_data import open_rows
    from ragcun.data.hub_split import resolve_split
    from ragcun.data.part_file import PartFile, gather, restore

    flags = {name: value for name, value in asdict(options).items() if name not in NO_SETTINGS}
    settings = json.loads(json.dumps(flags))
    with download.locked(), full_disk_named(download.part, ROOM):
        if not options.overwrite and download.is_complete(settings, options.resume):
            return f"{download.manifest}: this download is complete; nothing to do"
        part = PartFile(download.part, settings, fresh=options.overwrite)
        restore(part, keeper)
        if not part.finished:
            stream = open_rows(resolve_split(*place, part.revision or options.revision), shuffle_files)
            keeper.expect(stream)
            if options.overwrite:
                download.clear()
            gather(stream, part, keeper)
        return finish(part)


def _miner(options: MsmarcoOptions) -> Callable[[Gathered], tuple[list[Row], dict[str, Any]]]:
    """Return what gives pairs negatives as the flags say, with what is to be reported of it."""
    if options.negatives in ("given", "none"):
        count = options.negatives_per_query if options.negatives == "given" else 0
        return lambda found: (found.given(count), {})
    from ragcun.data.hard_negatives import MiningSettings
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
    from ragcun.models.base import TextBase
    from ragcun.models.cache import CachedEncoder, EmbeddingCache

    base = TextBase.load(options.base_model, device=options.device)
    return CachedEncoder(EmbeddingCache(base, options.cache_dir))
