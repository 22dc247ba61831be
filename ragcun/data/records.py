"""Records of JSON, CSV and text files, each with the line it starts on, and documents read from them."""

from __future__ import annotations

import csv
import io
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ragcun.errors import InputError
from ragcun.io import existing_file, read_lines, read_text

Parsed = TypeVar("Parsed")
logger = logging.getLogger(__name__)
_LONGEST_CSV_FIELD = 1 << 30
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_ELEMENT = re.compile(r"[^\s,]")


class RecordError(ValueError):
    """Why a record cannot be used."""


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
    """Read documents, in the order of the file, as its extension says; one may be empty, as in BEIR.

    - ``.txt``: one document a line; blank lines are skipped.
    - ``.json`` (an array), ``.jsonl``, ``.ndjson``: objects with `text` and, optional, `title`, or plain strings.
    - ``.csv``: a header with the column `text` and, optional, `title`.
    - a folder: the ``corpus.jsonl`` in it, as in BEIR.
    """
    path = records_file(path)
    if path.is_dir():
        if not (path / "corpus.jsonl").is_file():
            raise InputError(f"{path} is a folder without corpus.jsonl; name a file of documents or a BEIR folder")
        path = path / "corpus.jsonl"
    lines = ((line, text) for line, text in read_lines(path) if text.strip())
    records = lines if path.suffix.lower() == ".txt" else read_records(path, [["text"]])
    read = (document for _, document in parsed_records(path, records, document_of))
    documents = [Document(document.title.strip(), document.text.strip()) for document in read]
    if not documents:
        raise InputError(f"{path} holds no documents; give at least one")
    return documents


def document_of(value: Any) -> Document:
    """Return the document that a record is: a string, or an object with `text` and perhaps `title` (or RecordError)."""
    record = {"text": value} if isinstance(value, str) else value
    if not isinstance(record, dict):
        raise RecordError(f'expected a string or an object with the field "text", got {type(value).__name__}')
    text = text_field(record, "text")
    return Document("" if record.get("title") is None else text_field(record, "title"), text)


def records_file(path: str | Path) -> Path:
    """Return a file of records, the ``.jsonl`` in place of a ``.json`` that is not there, or the other way round."""
    path = Path(path)
    other = path.with_suffix({".json": ".jsonl", ".jsonl": ".json"}.get(path.suffix, path.suffix))
    if path.exists() or not other.is_file():
        return path
    logger.info("%s is not there; %s is read", path, other.name)
    return other


def read_records(path: str | Path, columns: Sequence[Sequence[str]] = ()) -> Iterator[tuple[int, Any]]:
    """Yield ``(line, value)`` of every record of a .json array, .jsonl, .ndjson or .csv file (with a header).

    A record that cannot be parsed comes as a `RecordError`. A CSV header must name one of the sets of `columns`.
    """
    path = existing_file(path)
    extension = path.suffix.lower()
    if extension in (".jsonl", ".ndjson"):
        return ((line, _from_json(text)[1]) for line, text in read_lines(path) if text.strip())
    if extension == ".json":
        return _json_array(read_text(path))
    if extension == ".csv":
        return _csv(read_text(path), columns)
    raise InputError(f"{path}: unknown extension {path.suffix!r}; name the file .json, .jsonl, .ndjson, .csv")


def parsed_records(
    path: str | Path, records: Iterable[tuple[int, Any]], parse: Callable[[Any], Parsed]
) -> Iterator[tuple[int, Parsed]]:
    """Yield the line of each record and what `parse` makes of it; InputError at the end names the first wrong one."""
    first, wrong = "", 0
    for line, value in records:
        try:
            if isinstance(value, RecordError):
                raise value
            parsed = parse(value)
        except RecordError as error:  # noqa: PERF203
            first, wrong = first or f"line {line}: {error}", wrong + 1
        else:
            yield line, parsed
    if wrong:
        others = f" (and {wrong - 1} more row{'s' if wrong > 2 else ''})" if wrong > 1 else ""
        raise InputError(f"{path}, {first}{others}; correct or delete what is wrong")


def text_field(record: Mapping[str, Any], field: str) -> str:
    """Return a field that must be text (RecordError: it is missing, of another type, or no Unicode)."""
    if field not in record:
        raise RecordError(f'field "{field}" is missing')
    text = record[field]
    if not isinstance(text, str):
        raise RecordError(f'field "{field}" must be text, got {"null" if text is None else type(text).__name__}')
    if not is_encodable(text):
        raise RecordError(f'field "{field}" holds an unpaired surrogate, which is not text')
    return text


def is_encodable(text: str) -> bool:
    r"""Return whether `text` can be written as UTF-8, which an unpaired surrogate such as JSON's ``\ud800`` cannot."""
    return text.isascii() or not _SURROGATE.search(text)


def _from_json(text: str) -> tuple[int, Any]:
    """Return the value of a text and the line that it begins on, or a `RecordError` and the line that is wrong."""
    try:
        return 1, json.loads(text)
    except json.JSONDecodeError as error:
        return error.lineno, RecordError(f"not valid JSON ({error.msg} at column {error.colno})")
    except (ValueError, RecursionError) as error:
        return 1, RecordError(f"not readable as JSON ({error})")


def _json_array(text: str) -> Iterator[tuple[int, Any]]:
    if not text.lstrip().startswith("["):
        yield 1, RecordError("expected a JSON array of objects (a file with one object a line is named .jsonl)")
        return
    line, values = _from_json(text)
    if isinstance(values, RecordError):
        yield line, values
        return
    decoder, counted, at = json.JSONDecoder(), 0, text.index("[") + 1
    for _ in values:
        start = _ELEMENT.search(text, at).start()  # type: ignore[union-attr]
        line, counted = line + text.count("\n", counted, start), start
        value, at = decoder.raw_decode(text, start)
        yield line, value


def _csv(text: str, columns: Sequence[Sequence[str]]) -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(_LONGEST_CSV_FIELD)
    reader = csv.reader(io.StringIO(text), strict=True)
    names: list[str] = []
    line = following = 1
    try:
        for fields in reader:
            line, following = following, reader.line_num + 1
            if fields and not names:
                names = _column_names(fields, columns)
            elif len(fields) > len(names):
                yield line, RecordError(f"{len(fields)} columns where the header names {len(names)}")
            elif fields:
                yield line, dict(zip(names, fields, strict=False))
        if not names:
            _column_names([], columns)
    except RecordError as error:
        yield line, error
    except csv.Error as error:
        yield following, RecordError(f"not valid CSV ({error})")


def _column_names(header: list[str], columns: Sequence[Sequence[str]]) -> list[str]:
    names = [name.strip() for name in header]
    repeated = next((name for name in names if name and names.count(name) > 1), None)
    if repeated is not None:
        raise RecordError(f'the header names the column "{repeated}" more than once')
    if not any(set(needed) <= set(names) for needed in columns):
        sets = [" and ".join(f'"{name}"' for name in needed) for needed in columns]
        plural = "s" if len(columns[0]) > 1 else ""
        raise RecordError(f"the header must name the column{plural} {', or '.join(sets)}")
    return names
