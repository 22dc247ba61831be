"""Records of a JSON array, JSON lines or CSV file, each with the line it starts on; wrong ones are told, not raised."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ragcun.errors import InputError
from ragcun.files import existing_file, read_lines, read_text


class Unreadable(NamedTuple):
    """A record that could not be parsed, and why."""

    reason: str


def read_records(path: str | Path, columns: Sequence[Sequence[str]]) -> Iterator[tuple[int, Any]]:
    """Yield ``(line, value)`` of every record of a .json array, .jsonl, .ndjson or .csv file (with a header).

    A record that cannot be parsed comes as an `Unreadable`, so that a caller can count all that is wrong in a file.

    Args:
        path: the file.
        columns: the columns that a CSV header must name; several sets are alternatives.

    Raises:
        InputError: the file is missing, is a folder, is not UTF-8, or has another extension.
    """
    path = Path(path)
    extension = path.suffix.lower()
    if extension == ".csv":
        return _csv(existing_file(path), columns)
    if extension not in _READERS:
        raise InputError(f"{path}: unknown extension {path.suffix!r}; name the file {', '.join(_READERS)}, .csv")
    return _READERS[extension](existing_file(path))


def refuse_wrong(path: str | Path, wrong: Sequence[tuple[int, str]]) -> None:
    """Raise for what is wrong in a file, ``(line, problem)`` in order; nothing wrong, nothing raised.

    Raises:
        InputError: something is wrong; the first is named with its line, the others are counted.
    """
    if wrong:
        line, problem = wrong[0]
        others = f" (and {len(wrong) - 1} more row{'s' if len(wrong) > 2 else ''})" if len(wrong) > 1 else ""
        raise InputError(f"{path}, line {line}: {problem}{others}; correct or delete what is wrong")


def text_problem(record: Mapping[str, Any], field: str) -> str | None:
    """Return what keeps a field of a record from being text, None where nothing does."""
    if field not in record:
        return f'field "{field}" is missing'
    text = record[field]
    if not isinstance(text, str):
        return f'field "{field}" must be text, got {"null" if text is None else type(text).__name__}'
    return None if is_encodable(text) else f'field "{field}" holds an unpaired surrogate, which is not text'


def is_encodable(text: str) -> bool:
    r"""Say whether `text` can be written as UTF-8, which an unpaired surrogate such as JSON's ``\ud800`` cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


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


def _csv(path: Path, columns: Sequence[Sequence[str]]) -> Iterator[tuple[int, Any]]:
    records = _csv_records(read_text(path))
    line, header = next(records, (1, []))
    if isinstance(header, Unreadable):
        yield line, header
        return
    names = [name.strip() for name in header]
    problem = _header_problem(names, columns)
    if problem:
        yield line, Unreadable(problem)
        return
    for line, fields in records:
        if isinstance(fields, Unreadable):
            yield line, fields
        elif len(fields) > len(names):
            yield line, Unreadable(f"{len(fields)} columns where the header names {len(names)}")
        else:
            yield line, dict(zip(names, fields, strict=False))


def _header_problem(names: Sequence[str], columns: Sequence[Sequence[str]]) -> str | None:
    repeated = next((name for name in names if name and names.count(name) > 1), None)
    if repeated is not None:
        return f'the header names the column "{repeated}" more than once'
    if not any(set(needed) <= set(names) for needed in columns):
        sets = [" and ".join(f'"{name}"' for name in needed) for needed in columns]
        return f"the header must name the column{'s' if len(columns[0]) > 1 else ''} {', or '.join(sets)}"
    return None


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
}
