"""Records of a JSON array, JSON lines or CSV file, each with the line it starts on; wrong ones are told, not raised."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ragcun.data.json_arrays import Unreadable as Unreadable
from ragcun.data.json_arrays import not_json, read_json_array
from ragcun.errors import InputError
from ragcun.io import existing_file, read_lines, read_text


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


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    for number, line in read_lines(path):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, not_json(error)


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
    ".json": read_json_array,
}
