"""Archives of BEIR sets: fetched, checked, and unpacked so that a set is there whole or not at all."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock
from tqdm.auto import tqdm

from ragcun.data.beir_sets import BeirSet
from ragcun.data.disk import full_disk_named, require_space
from ragcun.data.download import PATIENT, Patience, download, require_md5
from ragcun.data.locate import Fetch, is_there
from ragcun.data.web import require_safe_url
from ragcun.errors import InputError
from ragcun.io import ROOM, replacing_folder

logger = logging.getLogger(__name__)

HOST = "https://public.ukp.informatik.tu-darmstadt.de/thakur/BEIR/datasets"
"""Where BEIR's description says that the archives are."""
MIRROR = "RAGCUN_BEIR_MIRROR"
"""Environment variable that names another place."""
COPY_BYTES = 1 << 20
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def mirror_url(mirror: str | None) -> str:
    """Return the address under which ``NAME.zip`` lies: `mirror`, else ``$RAGCUN_BEIR_MIRROR``, else BEIR's own.

    Raises:
        InputError: it is not https, this machine, or a folder of it.
    """
    return require_safe_url((mirror or os.environ.get(MIRROR) or HOST).rstrip("/"))


def fetch_from(mirror: str | None, data_dir: Path) -> Fetch:
    """Return what brings a set from `mirror_url` into `data_dir`.

    Raises:
        InputError: the address is not safe.
    """
    url = mirror_url(mirror)
    return lambda beir_set: fetch_set(beir_set, data_dir, url)


def fetch_set(beir_set: BeirSet, data_dir: Path, mirror: str, patience: Patience = PATIENT) -> None:
    """Bring a set into ``data_dir/NAME``: download, checksum, unpack. One process at a time does so.

    A whole archive that lies in `data_dir` as ``NAME.zip`` already is taken instead, and left where it is.

    Raises:
        ValueError: the set has no archive.
        InputError: something else is in the way, or the archive cannot be had, is not BEIR's, or cannot be unpacked.
    """
    if beir_set.md5 is None:
        raise ValueError(f"{beir_set.name} has no archive; ask for it at {beir_set.source}")
    folder, archive = data_dir / beir_set.name, data_dir / f"{beir_set.name}.zip"
    data_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(data_dir / f".{beir_set.name}.lock"):
        if is_there(data_dir, beir_set.name):
            return
        if folder.exists():
            raise InputError(f"{folder} is there and lacks corpus.jsonl; complete it, or move it away")
        for stale in data_dir.glob(f".{beir_set.name}.*.tmp"):
            shutil.rmtree(stale)
        if archive.exists():
            _unpack_own(archive, folder, beir_set)
            return
        part = archive.with_name(f"{archive.name}.part")
        logger.info("downloading %s/%s to %s", mirror, archive.name, data_dir)
        download(f"{mirror}/{archive.name}", part, beir_set.md5, patience)
        unpack(part, folder, beir_set.parts)
        part.unlink()
        part.with_name(f"{part.name}.json").unlink(missing_ok=True)


def _unpack_own(archive: Path, folder: Path, beir_set: BeirSet) -> None:
    try:
        require_md5(archive, str(beir_set.md5))
    except InputError as error:
        raise InputError(f"{archive}: {error}; delete it, and it is downloaded") from error
    unpack(archive, folder, beir_set.parts)


def unpack(archive: Path, folder: Path, parts: tuple[str, ...] = ()) -> None:
    """Unpack a BEIR archive into `folder`, which is made whole or not at all; its name is that of the set.

    Of each collection ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/*.tsv`` are taken and nothing else. What they
    may grow to is what the archive declares, and that must fit on the disk.

    Args:
        archive: the zip file.
        folder: what to make.
        parts: the collections in the set; none where it is one.

    Raises:
        InputError: the archive is damaged or incomplete, names a place outside the set, holds a link, or is too large.
    """
    with _damage_named(archive), zipfile.ZipFile(archive) as zipped:
        wanted = _wanted(archive, zipped.infolist(), folder.name, parts)
        total = sum(member.file_size for member in wanted.values())
        require_space(folder.parent, total, f"what {archive} holds")
        bar = tqdm(total=total, desc=f"unpack {folder.name}", unit="B", unit_scale=True, delay=2, leave=False)
        with (
            full_disk_named(folder, ROOM),
            replacing_folder(folder) as made,
            bar,
        ):
            for place, member in wanted.items():
                _extract(zipped, member, made / place, bar)


def _wanted(
    archive: Path, members: list[zipfile.ZipInfo], name: str, parts: tuple[str, ...]
) -> dict[PurePosixPath, zipfile.ZipInfo]:
    """Return what to unpack, by its place in the set's folder."""
    found: dict[PurePosixPath, zipfile.ZipInfo] = {}
    for member in members:
        _require_harmless(archive, member)
        path = PurePosixPath(member.filename)
        place = path.relative_to(name) if path.parts[:1] == (name,) else None
        if member.is_dir() or place is None or not _is_part(place, parts):
            continue
        if place in found:
            raise InputError(f"{archive} holds {member.filename!r} twice; use another archive")
        found[place] = member
    for collection in parts or (".",):
        for file in ("corpus.jsonl", "queries.jsonl"):
            if PurePosixPath(collection, file) not in found:
                raise InputError(f"{archive} holds no {PurePosixPath(name, collection, file)}; use another archive")
    return found


def _require_harmless(archive: Path, member: zipfile.ZipInfo) -> None:
    path, kind = PurePosixPath(member.filename), stat.S_IFMT(member.external_attr >> 16)
    problem = None
    if path.is_absolute() or ".." in path.parts or "\\" in member.orig_filename or "\0" in member.orig_filename:
        problem = "a name that leads out of its folder"
    elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        problem = "a link or a device"
    elif member.flag_bits & 1 or member.compress_type not in COMPRESSIONS:
        problem = "encrypted, or packed in an unknown way"
    if problem:
        raise InputError(f"{archive}: {member.filename!r} is {problem}; nothing was unpacked, use another archive")


def _is_part(place: PurePosixPath, parts: tuple[str, ...]) -> bool:
    """Say whether a place in a set's folder is one of a collection's own files."""
    inner = place.parts[1:] if parts and place.parts[:1] and place.parts[0] in parts else place.parts
    if parts and inner == place.parts:
        return False
    return inner in (("corpus.jsonl",), ("queries.jsonl",)) or (
        len(inner) == 2 and inner[0] == "qrels" and inner[1].endswith(".tsv")
    )


def _extract(zipped: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, bar: Any) -> None:
    """Unpack one file; `zipfile` reads no further than the declared size, and checks size and CRC there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipped.open(member) as source, target.open("wb") as file:
        while block := source.read(COPY_BYTES):
            file.write(block)
            bar.update(len(block))
    if target.stat().st_size != member.file_size:
        raise zipfile.BadZipFile(f"{member.filename} ends early")


@contextlib.contextmanager
def _damage_named(archive: Path) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise InputError(f"{archive} is no whole zip archive ({error}); delete it and try again") from error
