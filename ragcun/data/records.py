"""Records of JSON, CSV and text files, each with the line it starts on, and documents read from them.

What is wrong in a file is found here and nowhere else: the first wrong record is named, the others are counted.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ragcun.errors import InputError
from ragcun.io import existing_file, read_lines, read_text

Parsed = TypeVar("Parsed")
_LONGEST_CSV_FIELD = 1 << 30
_BLANKS = re.compile(r"[ \t\n\r]*")


class Unreadable(NamedTuple):
    """A record that cannot be used, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a corpus."""

    title: str
    text: str

    @property
    def content(self) -> str:
        """The text that is encoded, as in BEIR: title, a blank, text."""
        return f"{self.title} {self.text}".strip()


def read_documents(path: str | Path) -> list[Document]:
    """Read documents, in the order of the file, as its extension says.

    - ``.txt``: one document a line; blank lines are skipped.
    - ``.json`` (an array), ``.jsonl``, ``.ndjson``: objects with `text` and, optional, `title`, or plain strings.
    - ``.csv``: a header with the column `text` and, optional, `title`.
    - a folder: the ``corpus.jsonl`` in it, as in BEIR.

    A document may be empty, as in BEIR.

    Raises:
        InputError: the file cannot be read, holds no documents, or has wrong records.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / "corpus.jsonl").is_file():
            raise InputError(f"{path} is a folder without corpus.jsonl; name a file of documents or a BEIR folder")
        path = path / "corpus.jsonl"
    if path.suffix.lower() == ".txt":
        records: Iterable[tuple[int, Any]] = ((line, text) for line, text in read_lines(path) if text.strip())
    else:
        records = read_records(path, [["text"]])
    documents = list(parsed_records(path, records, _document))
    if not documents:
        raise InputError(f"{path} holds no documents; give at least one")
    return documents


def _document(value: Any) -> Document | Unreadable:
    if isinstance(value, str):
        value = {"text": value}
    if not isinstance(value, dict):
        return Unreadable(f'expected a string or an object with the field "text", got {type(value).__name__}')
    record = {**value, "title": "" if value.get("title") is None else value["title"]}
    problem = text_problem(record, "text") or text_problem(record, "title")
    return Unreadable(problem) if problem else Document(record["title"].strip(), record["text"].strip())


def read_records(path: str | Path, columns: Sequence[Sequence[str]]) -> Iterator[tuple[int, Any]]:
    """Yield ``(line, value)`` of every record of a .json array, .jsonl, .ndjson or .csv file (with a header).

    Args:
        path: the file; a record that cannot be parsed comes as an `Unreadable`.
        columns: the columns that a CSV header must name; several sets are alternatives.

    Raises:
        InputError: the file is missing, is a folder, is not UTF-8, or has another extension.
    """
    path = Path(path)
    readers: dict[str, Callable[[], Iterator[tuple[int, Any]]]] = {
        ".json": lambda: _json_array(read_text(path)),
        ".jsonl": lambda: _json_lines(path),
        ".ndjson": lambda: _json_lines(path),
        ".csv": lambda: _csv(read_text(path), columns),
    }
    existing_file(path)
    if path.suffix.lower() not in readers:
        raise InputError(f"{path}: unknown extension {path.suffix!r}; name the file {', '.join(readers)}")
    return readers[path.suffix.lower()]()


def parsed_records(
    path: str | Path, records: Iterable[tuple[int, Any]], parse: Callable[[Any], Parsed | Unreadable]
) -> Iterator[Parsed]:
    """Yield what `parse` makes of each record.

    Raises:
        InputError: at the end, if a record cannot be parsed.
    """
    wrong: list[tuple[int, str]] = []
    for line, value in records:
        result = value if isinstance(value, Unreadable) else parse(value)
        if isinstance(result, Unreadable):
            wrong.append((line, result.reason))
        else:
            yield result
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
    r"""Return whether `text` can be written as UTF-8, which an unpaired surrogate such as JSON's ``\ud800`` cannot."""
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
                yield number, _not_json(error)


def _json_array(text: str) -> Iterator[tuple[int, Any]]:
    decoder, line, counted = json.JSONDecoder(), 1, 0

    def after_blanks(at: int) -> tuple[int, str]:
        match = _BLANKS.match(text, at)
        end = match.end() if match else at
        return end, text[end : end + 1]

    at, character = after_blanks(0)
    if character != "[":
        yield 1, Unreadable("expected a JSON array of objects (a file with one object a line is named .jsonl)")
        return
    at, character = after_blanks(at + 1)
    is_open = character != "]"
    while is_open:
        line, counted = line + text.count("\n", counted, at), at
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            yield getattr(error, "lineno", line), _not_json(error)
            return
        yield line, value
        at, character = after_blanks(at)
        if character not in (",", "]") or not character:
            yield (
                line + text.count("\n", counted, at),
                Unreadable("not valid JSON (expected a comma or a closing bracket)"),
            )
            return
        is_open = character == ","
        at = after_blanks(at + 1)[0] if is_open else at
    if after_blanks(at + 1)[1]:
        line += text.count("\n", counted, at)
        yield line, Unreadable("not valid JSON (text after the closing bracket of the array)")


def _not_json(error: ValueError | RecursionError) -> Unreadable:
    if isinstance(error, json.JSONDecodeError):
        return Unreadable(f"not valid JSON ({error.msg} at column {error.colno})")
    return Unreadable(f"not readable as JSON ({error})")


def _csv(text: str, columns: Sequence[Sequence[str]]) -> Iterator[tuple[int, Any]]:
    records = _csv_records(text)
    line, header = next(records, (1, []))
    names = [] if isinstance(header, Unreadable) else [name.strip() for name in header]
    problem = header.reason if isinstance(header, Unreadable) else _header_problem(names, columns)
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
    """Yield the line on which each record starts, and its fields; blank lines are skipped."""
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
