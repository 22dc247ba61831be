"""Reading and writing files so that a file is complete or absent, and an error names its line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ragcun.atomic import replacing_file as replacing_file
from ragcun.atomic import replacing_folder as replacing_folder
from ragcun.errors import InputError


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
