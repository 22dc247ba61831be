"""Files and folders that are whole or absent, whenever the process, the disk or the power fails."""

from __future__ import annotations

import codecs
import contextlib
import ctypes
import errno
import fcntl
import gzip
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ragcun.errors import InputError

REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "free some space and run the same command again"),
    errno.EIO: "check the disk, or use another one",
    errno.EROFS: "choose a folder that can be written to",
}
LEFT_AFTER = 60.0
"""Seconds after which a temporary that no process holds counts as left by a killed process."""
AT_FDCWD, RENAME_EXCHANGE = -100, 2
GZIP, UTF16_MARKS = b"\x1f\x8b", (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@contextlib.contextmanager
def naming_failed_writes(path: str | Path) -> Iterator[None]:
    """Turn the errors of a full, damaged or read-only disk, safetensors' too, into an `InputError` about `path`."""
    try:
        yield
    except (OSError, InputError, SafetensorError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        found = re.search(r"(?:os error|Os { code:) (\d+)", str(error)) if isinstance(error, SafetensorError) else None
        if found:
            cause = OSError(int(found[1]), os.strerror(int(found[1])))
        if isinstance(cause, OSError) and cause.errno in REMEDIES:
            raise InputError(f"{path} was not written: {cause.strerror}; {REMEDIES[cause.errno]}") from cause
        if found and cause:
            raise cause from error
        raise


@contextlib.contextmanager
def replacing_file(path: str | Path, folder: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and renamed to `path`, else removed.

    Raises:
        InputError: the disk is full, damaged or read-only; `path` is as it was before.
    """
    path = Path(path)
    with naming_failed_writes(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        temporary.mkdir() if folder else temporary.touch(exist_ok=False)
        handle = os.open(temporary, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield temporary
            for each in (*temporary.rglob("*"), temporary):
                if not each.is_symlink():
                    _sync(each)
            _put_in_place(temporary, path)
            _sync(path.parent)
        finally:
            os.close(handle)
            _remove(temporary)


def replacing_folder(path: str | Path) -> contextlib.AbstractContextManager[Path]:
    """Yield a temporary folder beside `path`, as `replacing_file` does a file; a link's target is replaced.

    On Linux the older folder and the new one swap names in one step. Elsewhere there are two, and between them the
    older one has a name that ends in ``.old``; the next call brings it back.
    """
    return replacing_file(os.path.realpath(path) if Path(path).is_symlink() else path, folder=True)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """Remove the temporaries of `path` that killed processes left; one that a process holds, or a young one, stays."""
    name = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]{{8}}\.(tmp|old)")
    for entry in [entry for entry in path.parent.iterdir() if name.fullmatch(entry.name)]:
        if entry.suffix == ".old" and not path.exists():
            os.replace(entry, path)
            continue
        with contextlib.suppress(FileNotFoundError, PermissionError, BlockingIOError):
            handle = os.open(entry, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if time.time() - os.fstat(handle).st_mtime > LEFT_AFTER:
                    _remove(entry)
            finally:
                os.close(handle)


def _put_in_place(temporary: Path, path: Path) -> None:
    # an older folder takes the name of `temporary`, or is removed
    if not path.is_dir():
        os.replace(temporary, path)
    elif not _exchange(temporary, path):
        old = temporary.with_suffix(".old")
        os.replace(path, old)
        try:
            os.replace(temporary, path)
        except OSError:
            os.replace(old, path)
            raise
        shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    # in one step, as Linux can on most file systems
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    return rename is not None and not rename(AT_FDCWD, bytes(one), AT_FDCWD, bytes(other), RENAME_EXCHANGE)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL or not path.is_dir():  # some file systems do not sync folders
            raise
    finally:
        os.close(handle)


def claim_folder(path: Path, kind: str, marker: Path, old: Iterable[Path], resume: bool, overwrite: bool) -> None:
    """Make the output folder of a `kind` (run, sweep); with `overwrite`, remove what is `old` of an earlier one.

    Raises:
        InputError: an earlier one is there (its `marker` is) and neither flag is set, or the path is a file.
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"--output_dir {path} is a file; give a folder")
    if marker.exists() and not resume:
        if not overwrite:
            raise InputError(f"{path} holds an earlier {kind}; give another --output_dir, or --resume, or --overwrite")
        for each in old:
            _remove(each)
    path.mkdir(parents=True, exist_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8; the file is complete or absent, as with all writers here."""
    try:
        content = text.encode()
    except UnicodeEncodeError as error:
        what = f"{text[error.start]!a} is not a character"
        raise InputError(f"{path} was not written: {what}; fix the name or text that it comes from") from error
    with replacing_file(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON."""
    with replacing_file(path) as temporary:
        temporary.write_bytes(_json_bytes(value, indent=2) + b"\n")


def write_json_lines(path: str | Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line; a ``.json`` file has them as an array."""
    with replacing_file(path) as temporary, temporary.open("wb") as file:
        if Path(path).suffix.lower() != ".json":
            file.writelines(_json_bytes(row) + b"\n" for row in rows)
            return
        file.write(b"[")
        file.writelines((b",\n" if number else b"\n") + _json_bytes(row) for number, row in enumerate(rows))
        file.write(b"\n]\n")


def _json_bytes(value: Any, indent: int | None = None) -> bytes:
    # an unpaired surrogate (of a file's name, say) is written as JSON escapes it
    return json.dumps(value, indent=indent, ensure_ascii=False, default=_plain).encode(errors="backslashreplace")


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else os.fspath(value)  # of numpy, or a path


def as_json(value: Any) -> Any:
    """Return `value` as it is read once it is written: paths as text, numbers of numpy as Python's."""
    return json.loads(_json_bytes(value))


def read_json(path: str | Path) -> Any:
    """Read a JSON file; an `InputError` names the line that is wrong."""
    return _parsed(read_text(path), str(path), 1)


def read_json_lines(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield ``(line number, object)`` of a JSON-lines file without blank lines; an `InputError` names the line."""
    for number, line in read_lines(path):
        if line.strip():
            value = _parsed(line, str(path), number)
            if not isinstance(value, dict):
                raise InputError(f"{path}, line {number}: expected a JSON object, got {type(value).__name__}")
            yield number, value


def _parsed(text: str, path: str, first: int) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        line = first + getattr(error, "lineno", 1) - 1
        other = "nested too deeply" if isinstance(error, RecursionError) else "a number has too many digits"
        raise InputError(f"{path}, line {line}: not valid JSON ({getattr(error, 'msg', other)}); fix it") from error


def read_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Yield ``(line number, line without its end)`` of a text file, see `read_text`."""
    return ((number, line.rstrip("\r\n")) for number, line in _lines(path))


def read_text(path: str | Path) -> str:
    """Read a text file of UTF-8, or of UTF-16 or -32 as its first bytes show it, unpacked where it is one of gzip."""
    return "".join(line for _, line in _lines(path))


def _lines(path: str | Path) -> Iterator[tuple[int, str]]:
    path, number = existing_file(path), 0
    with path.open("rb") as packed:
        unpacked = gzip.GzipFile(fileobj=packed) if packed.peek(2)[:2] == GZIP else packed
        try:
            start = unpacked.peek(4)[:4]
            wide = start[:2] in UTF16_MARKS or (start[::2], start[1::2]).count(b"\0\0") == 1
            file = io.TextIOWrapper(unpacked, json.detect_encoding(start) if wide else "utf-8-sig")
            for number, line in enumerate(file, start=1):
                yield number, line
        except UnicodeDecodeError as error:
            what = f"not {error.encoding.upper()} text ({error.reason})"
            raise InputError(f"{path}, after line {number}: {what}; convert it to UTF-8") from error
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise InputError(f"{path} cannot be unpacked ({error}); copy it again") from error


def existing_file(path: str | Path) -> Path:
    """Return `path` as a Path; an `InputError` says that there is no such file, or that it is a folder."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"no such file: {path}; check the path (relative paths start at {Path.cwd()})")
    if path.is_dir():
        raise InputError(f"{path} is a folder where a file is expected")
    return path


def file_digest(path: str | Path, digest: Any = None) -> str:
    """Return the digest of a file's bytes, by default that of BLAKE2b, as ``b2sum -l 256`` prints it."""
    digest = digest or hashlib.blake2b(digest_size=32)
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
