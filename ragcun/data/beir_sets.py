"""The 19 sets of BEIR by name (Thakur et al., NeurIPS 2021), the folders that names stand for, and downloading sets."""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import re
import shutil
import urllib.request
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock
from tqdm.auto import tqdm

from ragcun.data.beir import RUN_ID, Collection, judgments_of, load_collection
from ragcun.data.hub import naming_hub_errors
from ragcun.errors import InputError, did_you_mean, require_package
from ragcun.io import file_digest, read_json, replacing_file, replacing_folder

if TYPE_CHECKING:
    from datasets import DatasetDict

logger = logging.getLogger(__name__)

ALL, QUICK = "all", "quick"
QUICK_SETS = ("scifact", "nfcorpus", "arguana", "fiqa", "scidocs")
"""Sets that a CPU can do, none of which the models called all-* were trained on."""
MIRROR = "RAGCUN_BEIR_MIRROR"  # environment variable that names where archives lie, instead of the hub
SAFE_URL = re.compile(r"(https://[^/@]+|http://(127\.0\.0\.1|localhost|\[::1\])(:\d+)?|file://)(/.*)?")
"""Addresses whose transport keeps others from changing what comes: https, or a server or file of this machine."""
TIMEOUT = 60.0
NOTHING = "no collection at all"


@dataclass(frozen=True)
class BeirSet:
    """What is known of a set."""

    name: str  # of its folder and its archive
    queries: int  # judged queries of the split that is evaluated, over all parts
    md5: str | None = None  # of BEIR's archive; None where there is nothing to download
    hub: Sequence[tuple[str, str]] = ()  # repository and commit on the hub, for each part
    split: str = "test"  # what is evaluated
    parts: Sequence[str] = ()  # the folders that it is made of; none where it is one collection
    source: str = ""  # who to ask for it, where there is nothing to download


SETS = {each["name"]: BeirSet(**each) for each in read_json(Path(__file__).with_name("beir_sets.json"))}
"""Name, queries and MD5 as in BEIR's description (beir 2.2.0), repository and commit as in mteb 2.26."""


@dataclass(frozen=True)
class CollectionFolder:
    """A collection that is not read yet; its `name` is ``set``, or ``set/part`` where a set has parts."""

    name: str
    path: Path
    split: str
    drop_own_ids: bool = False

    def load(self) -> Collection:
        """Read it; refuse an id that no run file can hold, and warn of another number of judged queries than BEIR's."""
        collection = replace(load_collection(self.path, self.split, None, self.drop_own_ids), name=self.name)
        for file, keys in (("corpus.jsonl", collection.documents), ("queries.jsonl", collection.queries)):
            for key in (key for key in keys if not RUN_ID.fullmatch(key)):
                problem = "has a tab, a line break or blanks around it, which no run file can hold; rename it"
                raise InputError(f"{self.path / file}: the _id {key!r:.60} {problem}")
        known, count = SETS.get(self.name), len(collection.qrels)
        if known is not None and self.split == known.split and count != known.queries:
            message = "%s: %d judged queries, BEIR's has %d: do not compare with published figures"
            logger.warning(message, self.name, count, known.queries)
        return collection


def find_sets(
    data_dir: str | Path, names: Sequence[str], split: str | None = None, fetch: bool = False, mirror: str | None = None
) -> list[CollectionFolder]:
    """Return the collections that names stand for, each set's parts one after the other; nothing is read.

    A name is that of a folder in `data_dir`, of a set of BEIR, ``quick`` (`QUICK_SETS`) or ``all``: every folder with a
    test split, and with `fetch`, which downloads what is not there, also the sets of BEIR that can be downloaded.
    Repeats count once. No `split` takes the judgments that BEIR evaluates: dev of MS MARCO, else test.
    """
    data_dir, mirror = Path(data_dir), mirror_url(mirror) if fetch else None
    if not fetch and not data_dir.is_dir():
        raise InputError(f"no such folder: {data_dir}; name the folder of the BEIR collections, or give --download")
    there = _folders(data_dir)
    expanded = dict.fromkeys(each for name in names for each in (QUICK_SETS if name == QUICK else (name,)))
    chosen = _all(data_dir, there, fetch) if ALL in names else list(expanded)
    absent = [name for name in chosen if name not in there]
    for name in absent:
        _require_known(data_dir, name, list(there), fetch)
    for name in absent:
        fetch_set(SETS[name], data_dir, mirror)
    there = _folders(data_dir)
    found = []
    for name in chosen:
        lacking = [path.name for path in there[name] if not (path / "corpus.jsonl").is_file()]
        if lacking:
            raise InputError(f"{data_dir / name} lacks {', '.join(lacking)}; add what is missing, or move it away")
        own = split or (SETS[name].split if name in SETS else "test")
        found += [CollectionFolder(path.relative_to(data_dir).as_posix(), path, own) for path in there[name]]
    for folder in found:
        judgments_of(folder.path, folder.split)
    return found


def _folders(data_dir: Path) -> dict[str, list[Path]]:
    """Return the folder of each collection, or of each part of a set; one that starts with a dot is half-written."""
    found = {path.parent.name: [path.parent] for path in sorted(data_dir.glob("[!.]*/corpus.jsonl"))}
    for name, beir_set in SETS.items():
        parts = [data_dir / name / part for part in beir_set.parts]
        if name not in found and any((part / "corpus.jsonl").is_file() for part in parts):
            found[name] = parts
    return found


def _all(data_dir: Path, there: dict[str, list[Path]], fetches: bool) -> list[str]:
    chosen = {name for name, paths in there.items() if len(paths) > 1 or (paths[0] / "qrels" / "test.tsv").is_file()}
    if not fetches and not chosen:
        lacks = f"no collection has a test split; there is {', '.join(there) or NOTHING}"
        raise InputError(f"{data_dir}: {lacks}; give --download to fetch the sets of BEIR")
    absent = sorted(SETS.keys() - chosen)
    if absent and not fetches:
        logger.info("all: %s of %s; sets of BEIR that are not there: %s", len(chosen), data_dir, ", ".join(absent))
    for name in absent if fetches else ():
        if SETS[name].md5 is None:
            logger.info("%s is left out: it cannot be downloaded, ask for it at %s", name, SETS[name].source)
        else:
            chosen.add(name)
    return sorted(chosen)


def _require_known(data_dir: Path, name: str, there: list[str], fetches: bool) -> None:
    """Refuse a name that is not there and cannot be fetched."""
    if name not in SETS:
        guess = did_you_mean(name, [*SETS, *there])
        raise InputError(f"no collection {name!r} in {data_dir}; {guess}there is {', '.join(there) or NOTHING}")
    if SETS[name].md5 is None:
        files = f"{data_dir / name} as corpus.jsonl, queries.jsonl and qrels/test.tsv"
        raise InputError(f"{name} cannot be downloaded: ask for it at {SETS[name].source}, and put it into {files}")
    if not fetches:
        raise InputError(f"{name} is not in {data_dir}; give --download (or --mirror URL), or put its folder there")


def mirror_url(given: str | None) -> str | None:
    """Return where archives lie: `given`, else ``$RAGCUN_BEIR_MIRROR``, None for the hub (InputError: it is unsafe)."""
    url = given or os.environ.get(MIRROR)
    return url and _safe(url.rstrip("/"))


def fetch_set(beir_set: BeirSet, data_dir: Path, mirror: str | None = None) -> None:
    """Bring a set into ``data_dir/NAME``, from ``NAME.zip`` at `mirror` or else from the hub; one process at a time.

    BEIR's own archive is taken where it lies in `data_dir` as ``NAME.zip`` already, and left there.
    """
    folder, archive = data_dir / beir_set.name, data_dir / f"{beir_set.name}.zip"
    data_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(data_dir / f".{beir_set.name}.lock"):
        if beir_set.name in _folders(data_dir):
            return
        if folder.exists():
            raise InputError(f"{folder} is there and lacks corpus.jsonl; complete it, or move it away")
        if archive.exists():
            _unpack(archive, folder, beir_set)
        elif mirror is None:
            with replacing_folder(folder) as made:
                for (repository, commit), part in zip(beir_set.hub, beir_set.parts or ("",), strict=True):
                    _write_collection_of_hub(repository, commit, made / part, beir_set.split)
        else:
            _download(f"{mirror}/{archive.name}", archive)
            try:
                _unpack(archive, folder, beir_set)
            finally:
                archive.unlink()


def _write_collection_of_hub(repository: str, commit: str, folder: Path, split: str) -> None:
    """Write a collection of mteb's layout: a subset each for corpus, queries and the judgments of all splits."""
    require_package("datasets", "data")
    from datasets import Features, Value

    logger.info("downloading %s from the hub", repository)
    (folder / "qrels").mkdir(parents=True)
    for name in ("corpus", "queries"):
        splits = _load(repository, commit, name)
        rows = splits[split] if split in splits else next(iter(splits.values()))
        rows = rows if "_id" in rows.column_names else rows.rename_column("id", "_id")
        fields = [field for field in ("_id", "title", "text") if field in rows.column_names]
        rows = rows.select_columns(fields).cast(Features(dict.fromkeys(fields, Value("string"))))
        rows.to_json(folder / f"{name}.jsonl", force_ascii=False)
    judgments = {"query-id": Value("string"), "corpus-id": Value("string"), "score": Value("int32")}
    for name, rows in _load(repository, commit, "default", "qrels").items():
        rows = rows.select_columns(list(judgments)).cast(Features(judgments))
        rows.to_csv(folder / "qrels" / f"{name}.tsv", sep="\t", index=False)


def _load(repository: str, commit: str, *subsets: str) -> DatasetDict:
    """Load the first of some subsets that the repository has."""
    from datasets import get_dataset_config_names, load_dataset

    problem = f"{repository} cannot be downloaded from the hub"
    with naming_hub_errors(problem, "check the connection, or name a --mirror"):
        there = get_dataset_config_names(repository, revision=commit)
        return load_dataset(repository, next(filter(there.__contains__, subsets), subsets[0]), revision=commit)


def _safe(url: str) -> str:
    if not SAFE_URL.fullmatch(url):
        shown = "an address with a user's name" if "@" in url else repr(url)
        raise InputError(f"{shown} is not safe to download from; give https://HOST/FOLDER, or file:///FOLDER")
    return url


def _download(url: str, archive: Path) -> None:
    logger.info("downloading %s", url)
    try:
        with (
            replacing_file(archive) as temporary,
            urllib.request.urlopen(url, timeout=TIMEOUT) as response,  # nosec B310
            temporary.open("wb") as file,
        ):
            _safe(response.url)  # a redirection must not lead to plain http
            with tqdm.wrapattr(response, "read", desc=archive.name, delay=2) as body:
                shutil.copyfileobj(body, file)
    except (OSError, http.client.HTTPException) as error:
        raise InputError(f"{url} cannot be reached ({error}); check the name, or name another --mirror") from error


def _unpack(archive: Path, folder: Path, beir_set: BeirSet) -> None:
    """Unpack the collections in BEIR's own archive of a set, which its MD5 shows it to be."""
    digest = file_digest(archive, hashlib.md5(usedforsecurity=False))
    if digest != beir_set.md5:
        problem = f"{archive} has the MD5 {digest} where {beir_set.md5} is expected"
        raise InputError(f"{problem}: it is damaged or not BEIR's own; use another archive")
    wanted = re.compile(rf"{folder.name}/((({'|'.join(beir_set.parts)})/)?((corpus|queries)\.jsonl|qrels/[^/]+\.tsv))")
    with zipfile.ZipFile(archive) as zipped, replacing_folder(folder) as made:
        for member in zipped.infolist():
            if match := wanted.fullmatch(member.filename):
                member.filename = match[1]
                zipped.extract(member, made)
