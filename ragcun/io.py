"""Files and folders that are whole or absent, whenever the process, the disk or the power fails."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

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


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8; the file is complete or absent.

    Raises:
        InputError: the disk fails (as of all writers here), or `text` holds an unpaired surrogate, which is no text.
    """
    try:
        content = text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{path} was not written: {text[error.start]!a} is no character; mend the name or text that it comes from"
        ) from error
    with replacing_file(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON; the file is complete or absent."""
    with replacing_file(path) as temporary:
        temporary.write_bytes(_json_bytes(value, indent=2) + b"\n")


def write_json_lines(path: str | Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line; the file is complete or absent."""
    with replacing_file(path) as temporary, temporary.open("wb") as file:
        for row in rows:
            file.write(_json_bytes(row) + b"\n")


def write_json_array(path: str | Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write a JSON array with one object a line; the file is complete or absent."""
    with replacing_file(path) as temporary, temporary.open("wb") as file:
        before = b"["
        for row in rows:
            file.write(before + b"\n" + _json_bytes(row))
            before = b","
        file.write(b"[]\n" if before == b"[" else b"\n]\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: the file is missing, is not UTF-8, or is not JSON (with the line).
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}: not valid JSON ({error.msg}); mend that line") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({_why(error)}); write the file again") from error


def read_json_lines(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield ``(line number, object)`` of a JSON-lines file; blank lines are passed over.

    Raises:
        InputError: the file is missing, is not UTF-8, or a line is not a JSON object (with the line).
    """
    for number, line in read_lines(path):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{path}, line {number}: not valid JSON ({error.msg}); mend or delete that line"
            ) from error
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}, line {number}: cannot be read ({_why(error)}); mend or delete it") from error
        if not isinstance(value, dict):
            raise InputError(f"{path}, line {number}: expected a JSON object, got {type(value).__name__}")
        yield number, value


def read_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Yield ``(line number, line without its end)`` of a UTF-8 text file, a byte-order mark removed.

    Raises:
        InputError: the file is missing, is a folder, or is not UTF-8.
    """
    path = existing_file(path)
    number = 0
    with path.open(encoding="utf-8-sig") as file:
        try:
            for number, line in enumerate(file, start=1):
                yield number, line.rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path}, after line {number}: not UTF-8 text ({error.reason}); convert it first"
            ) from error


def read_text(path: str | Path) -> str:
    """Read a whole UTF-8 text file, a byte-order mark removed.

    Raises:
        InputError: the file is missing, is a folder, or is not UTF-8.
    """
    path = existing_file(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}: {error.reason}); convert it first") from error


def existing_file(path: str | Path) -> Path:
    """Return `path` as a Path.

    Raises:
        InputError: there is no such file, or it is a folder.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"no such file: {path}; check the path (relative paths start at {Path.cwd()})")
    if path.is_dir():
        raise InputError(f"{path} is a folder where a file is expected")
    return path


def file_digest(path: str | Path) -> str:
    """Return the BLAKE2b digest of a file's bytes (32 bytes, in hexadecimal), as ``b2sum -l 256`` prints it.

    Without hardware support it takes half the time of SHA-256, which a checkpoint's own copy of the base would feel.
    """
    digest = hashlib.blake2b(digest_size=32)
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _json_bytes(value: Any, indent: int | None = None) -> bytes:
    """Return `value` as JSON in UTF-8; an unpaired surrogate (of a file's name, say) is written as JSON escapes it."""
    return json.dumps(value, indent=indent, ensure_ascii=False).encode(errors="backslashreplace")


def _why(error: ValueError | RecursionError) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else "a number has too many digits"


def claim_folder(path: Path, kind: str, marker: Path, old: Iterable[Path], resume: bool, overwrite: bool) -> None:
    """Make an output folder, or take an earlier one over.

    Args:
        path: the folder.
        kind: what it is the folder of (a run, a sweep), for the message.
        marker: the file in it that says that an earlier one is there.
        old: files and folders of an earlier one, removed in this order where it is replaced.
        resume: whether an earlier one is to be gone on with.
        overwrite: whether an earlier one is to be replaced.

    Raises:
        InputError: an earlier one is there and neither `resume` nor `overwrite` is set, or the path is a file.
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"--output_dir {path} is a file; give a folder")
    if marker.exists() and not resume:
        if not overwrite:
            raise InputError(f"{path} holds an earlier {kind}; give another --output_dir, or --resume, or --overwrite")
        for each in old:
            if each.is_dir():
                shutil.rmtree(each, ignore_errors=True)
            else:
                each.unlink(missing_ok=True)
    path.mkdir(parents=True, exist_ok=True)
