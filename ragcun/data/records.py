"""Records of a JSON array, JSON lines or CSV file, each with the line it starts on; wrong ones are told, not raised."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ragcun.errors import InputError
from ragcun.files import existing_file, read_lines, read_text


class Unreadable(NamedTuple):
    """A record that could not be parsed, and why."""

    reason: str


def read_records(path: str | Path) -> Iterator[tuple[int, Any]]:
    """Yield ``(line, value)`` of every record of a .json array, .jsonl, .ndjson or .csv file (with a header).

    A record that cannot be parsed comes as an `Unreadable`, so that a caller can count all that is wrong in a file.

    Raises:
        InputError: the file is missing, is a folder, is not UTF-8, or has another extension.
    """
    path = Path(path)
    if path.suffix.lower() not in _READERS:
        raise InputError(f"{path}: unknown extension {path.suffix!r}; name the file {', '.join(_READERS)}")
    return _READERS[path.suffix.lower()](existing_file(path))


def _from_json_error(error: ValueError | RecursionError) -> Unreadable:
    if isinstance(error, json.JSONDecodeError):
        return Unreadable(f"not valid JSON ({error.msg} at column {error.colno})")
    return Unreadable(f"not readable as JSON ({error})")


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    for number, line in read_lines(path):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, _from_json_error(error)


def _json_array(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the elements of a JSON array one by one, because `json.loads` does not tell their lines."""
    text = read_text(path)
    decoder = json.JSONDecoder()
    at = _after_blank(text, 0)
    if not text.startswith("[", at):
        yield 1, Unreadable("expected a JSON array of objects (a file with one object a line is named .jsonl)")
        return
    line, counted, at = 1, 0, _after_blank(text, at + 1)
    more = not text.startswith("]", at)
    while more:
        line, counted = line + text.count("\n", counted, at), at
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            yield getattr(error, "lineno", line), _from_json_error(error)
            return
        yield line, value
        at = _after_blank(text, at)
        more = text.startswith(",", at)
        at = _after_blank(text, at + 1) if more else at
    line += text.count("\n", counted, at)
    if not text.startswith("]", at):
        yield line, Unreadable("not valid JSON (expected a comma or the closing bracket of the array)")
    elif text[at + 1 :].strip():
        yield line, Unreadable("not valid JSON (text after the closing bracket of the array)")


def _after_blank(text: str, at: int) -> int:
    while text[at : at + 1] and text[at] in " \t\n\r":
        at += 1
    return at


def _csv(path: Path) -> Iterator[tuple[int, Any]]:
    records = _csv_records(read_text(path))
    line, header = next(records, (1, []))
    if isinstance(header, Unreadable):
        yield line, header
        return
    names = [name.strip() for name in header]
    if names.count("query") != 1 or names.count("positive") != 1 or names.count("negative") > 1:
        yield line, Unreadable('the header must name the columns "query" and "positive", each once')
        return
    for line, fields in records:
        if isinstance(fields, Unreadable):
            yield line, fields
        elif len(fields) > len(names):
            yield line, Unreadable(f"{len(fields)} columns where the header names {len(names)}")
        else:
            yield line, dict(zip(names, fields, strict=False))


def _csv_records(text: str) -> Iterator[tuple[int, list[str] | Unreadable]]:
    """Yield the line on which each record starts, and its fields; blank lines are passed over."""
    reader = csv.reader(io.StringIO(text), strict=True)
    limit = csv.field_size_limit(_LONGEST_CSV_FIELD)
    try:
        while True:
            line = reader.line_num + 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield line, Unreadable(f"not valid CSV ({error})")
                continue
            if fields:
                yield line, fields
    finally:
        csv.field_size_limit(limit)


_LONGEST_CSV_FIELD = 1 << 30
_READERS: dict[str, Callable[[Path], Iterator[tuple[int, Any]]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json_array,
    ".csv": _csv,
}
