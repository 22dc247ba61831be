"""Downloading sets of BEIR: from the hub, or from a folder or address of zip archives; a set is whole or absent."""

from __future__ import annotations

import functools
import hashlib
import http.client
import logging
import os
import re
import shutil
import urllib.request
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from filelock import FileLock
from tqdm.auto import tqdm

from ragcun.data.beir_sets import BeirSet, Fetch, is_there
from ragcun.data.hub import hub_errors
from ragcun.errors import InputError
from ragcun.io import replacing_file, replacing_folder

if TYPE_CHECKING:
    from datasets import DatasetDict

logger = logging.getLogger(__name__)

MIRROR = "RAGCUN_BEIR_MIRROR"
"""Environment variable that names where archives lie, instead of the hub."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
TIMEOUT, BLOCK = 60.0, 1 << 20
_MEMBER = re.compile(r"(corpus|queries)\.jsonl|qrels/[^/]*\.tsv")


def fetch_from(mirror: str | None, data_dir: Path) -> Fetch:
    """Return what brings a set into `data_dir`: from `mirror`, else from ``$RAGCUN_BEIR_MIRROR``, else from the hub."""
    url = mirror or os.environ.get(MIRROR)
    checked = None if url is None else require_safe_url(url.rstrip("/"))
    return functools.partial(fetch_set, data_dir=data_dir, mirror=checked)


def fetch_set(beir_set: BeirSet, data_dir: Path, mirror: str | None = None) -> None:
    """Bring a set into ``data_dir/NAME``, from ``NAME.zip`` at `mirror` or else from the hub; one process at a time.

    BEIR's own archive is taken where it lies in `data_dir` as ``NAME.zip`` already, and left there.

    """
    folder, archive = data_dir / beir_set.name, data_dir / f"{beir_set.name}.zip"
    data_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(data_dir / f".{beir_set.name}.lock"):
        if is_there(data_dir, beir_set.name):
            return
        if folder.exists():
            raise InputError(f"{folder} is there and lacks corpus.jsonl; complete it, or move it away")
        if archive.exists():
            unpack(archive, folder, beir_set)
        elif mirror is None:
            with replacing_folder(folder) as made:
                for (repository, commit), part in zip(beir_set.hub, beir_set.parts or ("",), strict=True):
                    _write_collection_of_hub(repository, commit, made / part, beir_set.split)
        else:
            _download(f"{mirror}/{archive.name}", archive)
            try:
                unpack(archive, folder, beir_set)
            finally:
                archive.unlink()


def _write_collection_of_hub(repository: str, commit: str, folder: Path, split: str) -> None:
    """Write a collection of mteb's layout: a subset each for corpus, queries and the judgments of all splits."""
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

    try:
        there = get_dataset_config_names(repository, revision=commit)
        subset = next((subset for subset in subsets if subset in there), subsets[0])
        return load_dataset(repository, subset, revision=commit)
    except hub_errors() as error:
        problem = f"{repository} cannot be downloaded from the hub ({' '.join(str(error).split())[:300]})"
        raise InputError(f"{problem}; check the connection, or name a --mirror") from error


def require_safe_url(url: str) -> str:
    """Return `url`, whose transport must keep others from changing what comes: https, or a server or file of this host.

    Raises:
        InputError: it is anything else, or holds a user's name and password.
    """
    try:
        parts = urlsplit(url)
        host, is_anonymous = parts.hostname, parts.username is None
    except ValueError:
        host, is_anonymous = None, False
    if is_anonymous:
        is_local = parts.scheme == "http" and host in LOOPBACK
        is_file = parts.scheme == "file" and not parts.netloc and parts.path.startswith("/")
        if is_local or is_file or (parts.scheme == "https" and host):
            return url
    shown = repr(url) if is_anonymous else "an address with a user's name or without a host"
    raise InputError(f"{shown} is not safe to download from; give https://HOST/FOLDER, or file:///FOLDER")


def _download(url: str, archive: Path) -> None:
    logger.info("downloading %s", url)
    try:
        with (
            replacing_file(archive) as temporary,
            urllib.request.urlopen(url, timeout=TIMEOUT) as response,  # nosec B310
            temporary.open("wb") as file,
        ):
            require_safe_url(response.url)  # a redirection must not lead to plain http
            with tqdm.wrapattr(response, "read", desc=archive.name, delay=2) as body:
                shutil.copyfileobj(body, file, BLOCK)
    except (OSError, http.client.HTTPException) as error:
        raise InputError(f"{url} cannot be reached ({error}); check the name, or name another --mirror") from error


def unpack(archive: Path, folder: Path, beir_set: BeirSet) -> None:
    """Unpack BEIR's own archive of a set into `folder`, which is made whole or not at all.

    Of each collection ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/*.tsv`` are read, each into a plain file of that
    name: other names, links and folders of the archive have no effect. `zipfile` reads no further than the sizes that
    the archive declares, and these must fit on the disk.
    """
    digest = hashlib.md5(usedforsecurity=False)
    with archive.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    if digest.hexdigest() != beir_set.md5:
        problem = f"{archive} has the MD5 {digest.hexdigest()} where {beir_set.md5} is expected"
        raise InputError(f"{problem}: it is damaged or not BEIR's own; use another archive")
    try:
        with zipfile.ZipFile(archive) as zipped, replacing_folder(folder) as made:
            _extract(zipped, made, folder.name, beir_set.parts or (".",))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{archive} is no whole zip archive ({error}); delete it and try again") from error


def _extract(zipped: zipfile.ZipFile, made: Path, name: str, parts: tuple[str, ...]) -> None:
    members: dict[PurePosixPath, zipfile.ZipInfo] = {}
    for part in parts:
        prefix = PurePosixPath(name, part).as_posix() + "/"
        for member in zipped.infolist():
            if member.filename.startswith(prefix) and _MEMBER.fullmatch(member.filename, len(prefix)):
                members[PurePosixPath(part, member.filename[len(prefix) :])] = member
        for file in ("corpus.jsonl", "queries.jsonl"):
            if PurePosixPath(part, file) not in members:
                raise InputError(f"{zipped.filename} holds no {PurePosixPath(name, part, file)}; use another archive")
    size, free = sum(member.file_size for member in members.values()), shutil.disk_usage(made).free
    if size > free:
        raise InputError(f"{zipped.filename} holds {size:,} bytes and {made.parent} has {free:,} left; make room")
    for place, member in members.items():
        (made / place).parent.mkdir(parents=True, exist_ok=True)
        with zipped.open(member) as source, (made / place).open("wb") as target:
            shutil.copyfileobj(source, target, BLOCK)
        if (made / place).stat().st_size != member.file_size:
            raise zipfile.BadZipFile(f"{member.filename} ends early")
