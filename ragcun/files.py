"""Reading and writing files so that a file is complete or absent, and an error names its line."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ragcun.errors import InputError


@contextlib.contextmanager
def replacing_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is renamed to `path`, else removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _sync(temporary)
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it takes the place of `path`, else it is removed.

    Between the two renames an older `path` exists under a name that ends in ``.old``; it is removed last.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
    old = temporary.with_suffix(".old")
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _sync(file)
        temporary.chmod(0o777 & ~_umask())
        if path.exists():
            os.replace(path, old)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
        elif old.exists():
            os.replace(old, path)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8; the file is complete or absent."""
    with replacing_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON; the file is complete or absent."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_json_lines(path: str | Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line; the file is complete or absent."""
    with replacing_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def write_json_array(path: str | Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write a JSON array with one object a line; the file is complete or absent."""
    with replacing_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        before = "["
        for row in rows:
            file.write(f"{before}\n{json.dumps(row, ensure_ascii=False)}")
            before = ","
        file.write("[]\n" if before == "[" else "\n]\n")


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


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
