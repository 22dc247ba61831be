"""Where the collections of an evaluation lie: folders by name, sets of BEIR and their parts, fetched where asked."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ragcun.data.beir import Collection, find_collections, load_collection
from ragcun.data.beir_sets import QUICK_SETS, SETS, BeirSet
from ragcun.errors import InputError

logger = logging.getLogger(__name__)

ALL, QUICK = "all", "quick"
Fetch = Callable[[BeirSet], None]
"""Brings a set into the folder of collections."""


@dataclass(frozen=True)
class CollectionFolder:
    """A collection that is not read yet.

    Attributes:
        name: ``set``, or ``set/part`` where a set has parts.
        path: its folder.
        split: the judgments to read.
    """

    name: str
    path: Path
    split: str

    def load(self) -> Collection:
        """Read it; another number of judged queries than BEIR's is warned of.

        Raises:
            InputError: a file is missing or wrong, or an id holds white space, which run files are split at.
        """
        collection = replace(load_collection(self.path, self.split), name=self.name)
        _require_words(collection, self.path)
        known = SETS.get(self.name)
        if known is not None and self.split == known.split and len(collection.qrels) != known.queries:
            count = len(collection.qrels)
            logger.warning(
                "%s: %d judged queries, BEIR's has %d: compare with no published figure",
                self.name,
                count,
                known.queries,
            )
        return collection


def find_sets(
    data_dir: str | Path, names: Sequence[str], split: str | None = None, fetch: Fetch | None = None
) -> list[CollectionFolder]:
    """Return the collections that names stand for, each set's parts one after the other; nothing is read.

    A name is that of a folder in `data_dir`, of a set of BEIR, ``quick`` (`QUICK_SETS`) or ``all``: every folder with
    a test split, and with `fetch` also the sets of BEIR that are not there, those left out that cannot be fetched.

    Args:
        data_dir: the folder of collections.
        names: what is asked for; repeats count once.
        split: the judgments to read; None takes those that BEIR evaluates: dev of MS MARCO, else test.
        fetch: brings a set that is not there; None fetches nothing.

    Raises:
        InputError: a collection, a part of one or its judgments are not there, and what to do about it.
    """
    data_dir = Path(data_dir)
    if ALL in names:
        chosen = _all(data_dir, fetch is not None)
    else:
        chosen = list(dict.fromkeys(each for name in names for each in (QUICK_SETS if name == QUICK else (name,))))
    absent = [name for name in chosen if not is_there(data_dir, name)]
    for name in absent:
        _require_known(data_dir, name, fetch is not None)
    if fetch is not None:
        for name in absent:
            fetch(SETS[name])
    folders = [folder for name in chosen for folder in _folders(data_dir, name, split)]
    for folder in folders:
        if not (folder.path / "qrels" / f"{folder.split}.tsv").is_file():
            raise InputError(
                f"{folder.path}: no judgments for the split {folder.split!r} (qrels/{folder.split}.tsv); name another "
                "one with --split, or another collection"
            )
    return folders


def is_there(data_dir: Path, name: str) -> bool:
    """Say whether a collection, or a set with all of its parts, lies in `data_dir`.

    Raises:
        InputError: some parts of a set are there and some are not.
    """
    if name in _plain(data_dir):
        return True
    parts = SETS[name].parts if name in SETS else ()
    lacking = [part for part in parts if not (data_dir / name / part / "corpus.jsonl").is_file()]
    if 0 < len(lacking) < len(parts):
        raise InputError(f"{data_dir / name} lacks {', '.join(lacking)}; add what is missing, or move the folder away")
    return bool(parts) and not lacking


def _require_words(collection: Collection, path: Path) -> None:
    """Refuse now what `write_run` would refuse after all texts were encoded."""
    for file, keys in (("corpus.jsonl", collection.documents), ("queries.jsonl", collection.queries)):
        for key in keys:
            if key.split() != [key]:
                raise InputError(
                    f"{path / file}: the _id {key!r:.60} has white space, which no run file can hold; rename it"
                )


def _plain(data_dir: Path) -> set[str]:
    """Return the names of the folders that are one collection."""
    return {path.parent.name for path in data_dir.glob("[!.]*/corpus.jsonl")}


def _all(data_dir: Path, fetches: bool) -> list[str]:
    there = {name for name in _plain(data_dir) if (data_dir / name / "qrels" / "test.tsv").is_file()}
    there |= {name for name, beir_set in SETS.items() if beir_set.parts and is_there(data_dir, name)}
    if not fetches:
        if not there:
            find_collections(data_dir, [ALL])
        return sorted(there)
    for name in sorted(SETS.keys() - there):
        if SETS[name].md5 is None:
            logger.info("%s is left out: it cannot be downloaded, ask for it at %s", name, SETS[name].source)
    return sorted(there | {name for name, beir_set in SETS.items() if beir_set.md5 is not None})


def _require_known(data_dir: Path, name: str, fetches: bool) -> None:
    """Refuse a name that is not there and cannot be fetched."""
    if name not in SETS:
        near = difflib.get_close_matches(name, SETS, n=1)
        if near:
            raise InputError(f"no collection {name!r} in {data_dir}; did you mean {near[0]!r}, a set of BEIR?")
        find_collections(data_dir, [name])
        raise InputError(f"no collection {name!r} in {data_dir}; name a folder in it that holds corpus.jsonl")
    if SETS[name].md5 is None:
        raise InputError(
            f"{name} cannot be downloaded: ask for it at {SETS[name].source}, and put it into {data_dir / name} as "
            "corpus.jsonl, queries.jsonl and qrels/test.tsv"
        )
    if not fetches:
        raise InputError(f"{name} is not in {data_dir}; give --download (or --mirror URL), or put its folder there")


def _folders(data_dir: Path, name: str, split: str | None) -> list[CollectionFolder]:
    split = split or (SETS[name].split if name in SETS else "test")
    if name in _plain(data_dir):
        return [CollectionFolder(name, data_dir / name, split)]
    return [CollectionFolder(f"{name}/{part}", data_dir / name / part, split) for part in SETS[name].parts]
