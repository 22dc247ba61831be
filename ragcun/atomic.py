"""Files and folders that are whole or absent, whenever the process, the disk or the power fails."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ragcun.errors import InputError

ROOM = "make room and give the same command again"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REMEDIES = {
    **dict.fromkeys(FULL, ROOM),
    errno.EIO: "check the disk, or use another one",
    errno.EROFS: "name a place that can be written",
}
LEFT_AFTER = 60.0
"""Seconds after which a temporary that no process holds is taken for one that a killed process left."""
RENAME_EXCHANGE, AT_FDCWD = 2, -100


class WriteError(InputError):
    """A file could not be written: the disk is full, damaged or read-only."""


@contextlib.contextmanager
def naming_failed_writes(path: str | Path) -> Iterator[None]:
    """Turn the errors of a full, damaged or read-only disk into one sentence about `path`.

    Raises:
        WriteError: there was such an error within.
    """
    try:
        yield
    except (OSError, WriteError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(cause, OSError) or cause.errno not in REMEDIES:
            raise
        remedy = REMEDIES[cause.errno]
        raise WriteError(f"{path} was not written: {os.strerror(cause.errno)}; {remedy}") from cause


@contextlib.contextmanager
def replacing_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is renamed to `path`, else removed.

    The bytes are on the disk before the rename, and the rename is before the end of the ``with`` block.

    Raises:
        WriteError: the disk is full, damaged or read-only; `path` is as it was before.
    """
    path = Path(path)
    with naming_failed_writes(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        temporary = Path(name)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield temporary
            _sync(temporary)
            temporary.chmod(0o666 & ~_umask())
            os.replace(temporary, path)
            _sync(path.parent)
        finally:
            os.close(handle)
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it takes the place of `path`, else it is removed.

    On Linux an older `path` and the new one swap names in one step. Where that cannot be, there are two, and between
    them the older one lies under a name that ends in ``.old``; the next call brings it back.

    Raises:
        WriteError: the disk is full, damaged or read-only; `path` is as it was before.
    """
    path = Path(os.path.realpath(path)) if Path(path).is_symlink() else Path(path)
    with naming_failed_writes(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
        handle = os.open(temporary, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield temporary
            temporary.chmod(0o777 & ~_umask())
            for each in (*temporary.rglob("*"), temporary):
                if not each.is_symlink():
                    _sync(each)
            _put_in_place(temporary, path)
            _sync(path.parent)
        finally:
            os.close(handle)
            shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(path: Path) -> None:
    """Remove the temporaries of `path` that killed processes left; one that a process holds, or a young one, stays."""
    name = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]{{8}}\.(tmp|old)")
    for entry in [entry for entry in os.scandir(path.parent) if name.fullmatch(entry.name)]:
        if entry.name.endswith(".old") and not path.exists():
            os.replace(entry.path, path)
        elif _is_left(entry.path):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                Path(entry.path).unlink(missing_ok=True)


def _is_left(temporary: str) -> bool:
    try:
        handle = os.open(temporary, os.O_RDONLY | os.O_NOFOLLOW)
    except (FileNotFoundError, PermissionError):
        return False
    try:
        if time.time() - os.fstat(handle).st_mtime < LEFT_AFTER:
            return False
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True


def _put_in_place(temporary: Path, path: Path) -> None:
    """Give `temporary` the name `path`; an older folder of that name is left under the name of `temporary`, or goes."""
    if not path.is_dir():
        os.replace(temporary, path)
        return
    if _exchange(temporary, path):
        return
    old = temporary.with_suffix(".old")
    os.replace(path, old)
    try:
        os.replace(temporary, path)
    finally:
        if not path.exists():
            os.replace(old, path)
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step, as Linux can on most file systems; say whether it was done."""
    if sys.platform != "linux":
        return False
    import ctypes

    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    names = os.fsencode(one), os.fsencode(other)
    return rename is not None and rename(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL or not path.is_dir():  # some file systems do not sync folders
            raise
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
