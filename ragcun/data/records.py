"""Records of JSON files, tables and text files, each with the line it starts on, and documents read from them."""

from __future__ import annotations

import csv
import functools
import io
import json
import logging
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ragcun.errors import InputError, did_you_mean
from ragcun.io import existing_file, read_lines, read_text

Parsed = TypeVar("Parsed")
logger = logging.getLogger(__name__)
_LONGEST_CSV_FIELD = 1 << 30
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_ELEMENT = re.compile(r"[^\s,]")
FORMATS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
ID = ("_id", "id", "docid", "doc_id", "pid", "query_id", "qid")  # names that files give to a field, ours first
TEXT = ("text", "contents", "content", "passage", "document")
QUERY_TEXT = ("text", "query", "question")


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


def read_documents(path: str | Path, names: Sequence[str] = TEXT) -> list[Document]:
    """Read documents, in the order of the file, as its extension says; one may be empty, as in BEIR.

    - ``.txt``: one document a line; blank lines are skipped.
    - a file of records (see `read_records`): a text, under one of `names`, and perhaps a `title`, or a string each.
    - a folder: the ``corpus.jsonl`` in it, as in BEIR, or else each ``.txt`` and ``.md`` file as a document.
    """
    path = records_file(path)
    path = path / "corpus.jsonl" if (path / "corpus.jsonl").is_file() else path
    parse = functools.partial(document_of, names=names)
    if path.is_dir() or extension(path) == ".txt":
        records = _text_files(path) if path.is_dir() else _text_lines(path)
    else:
        records = read_records(path, functools.partial(named, names=names), (".txt", *FORMATS))
    read = (document for _, document in parsed_records(path, records, parse))
    documents = [Document(document.title.strip(), document.text.strip()) for document in read]
    if not documents:
        raise InputError(f"{path} holds no documents; give at least one")
    return documents


def _text_files(folder: Path) -> Iterator[tuple[int, str]]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    texts = [path for path in files if path.suffix.lower() in (".txt", ".md")]
    if not texts:
        raise InputError(f"{folder} is a folder without corpus.jsonl, .txt or .md files; name a file of documents")
    message = "%s: each of %d text files is a document; %d other files are not read"
    logger.info(message, folder, len(texts), len(files) - len(texts))
    return ((1, text) for text in map(read_text, texts) if text.strip())


def _text_lines(path: Path) -> Iterator[tuple[int, str]]:
    lines = [(line, text) for line, text in read_lines(path) if text.strip()]
    if lines and all(_begins_with_id(text) for _, text in lines):
        raise InputError(f"{path}: each line has an id and a tab before the text; name the file .tsv")
    return iter(lines)


def _begins_with_id(line: str) -> bool:
    cell, tab, _ = line.partition("\t")
    return bool(tab) and len(cell.split()) == 1 and any(map(str.isdigit, cell))


def document_of(value: Any, names: Sequence[str] = TEXT) -> Document:
    """Return the document that a record is: a string, or an object with a text and perhaps a title (or RecordError)."""
    record = {names[0]: value} if isinstance(value, str) else value
    if not isinstance(record, dict):
        raise RecordError(f'expected a string or an object with the field "{names[0]}", got {type(value).__name__}')
    text = text_field(record, named(record, names))
    return Document("" if record.get("title") is None else text_field(record, "title"), text)


def named(there: Collection[str], names: Sequence[str]) -> str:
    """Return the first of the names of a field that is there (RecordError: none; it lists the fields that are)."""
    found = next((name for name in names if name in there), None)
    if found is None:
        raise RecordError(_missing(tuple(names), *there))
    return found


@functools.lru_cache(maxsize=100)
def _missing(names: tuple[str, ...], *there: str) -> str:
    near = "".join(did_you_mean(name, names) for name in there)
    others = f" (also read: {', '.join(names[1:])})" if len(names) > 1 else ""
    fields = ", ".join(f"{name!r:.40}" for name in there) or "none"
    return f'field "{names[0]}" is missing{others}; there is {fields}; {near}'.rstrip("; ")


def records_file(path: str | Path) -> Path:
    """Return a file of records, the ``.jsonl`` in place of a ``.json`` that is not there, or the other way round."""
    path = Path(path)
    other = path.with_suffix({".json": ".jsonl", ".jsonl": ".json"}.get(path.suffix, path.suffix))
    if path.exists() or not other.is_file():
        return path
    logger.info("%s is not there; %s is read", path, other.name)
    return other


def extension(path: Path) -> str:
    """Return the extension of a file in lower case, without the ``.gz`` of one that is compressed."""
    return Path(path.stem if path.suffix.lower() == ".gz" else path).suffix.lower()


def read_records(
    path: str | Path, check: Callable[[Collection[str]], object] = set, formats: Sequence[str] = FORMATS
) -> Iterator[tuple[int, Any]]:
    """Yield ``(line, value)`` of every record of a file of JSON, a table with a header or parquet (row for line).

    A record that cannot be parsed comes as a `RecordError`. `check` raises one where a table lacks a column. A table's
    columns stand between commas, semicolons or tabs; without a header they are an id, a tab and a text.
    """
    path = existing_file(path)
    kind = extension(path)
    if kind in (".jsonl", ".ndjson"):
        return ((line, _from_json(text)[1]) for line, text in read_lines(path) if text.strip())
    if kind == ".json":
        return _json_array(read_text(path))
    if kind in (".csv", ".tsv"):
        return _table(read_text(path), check)
    if kind == ".parquet":
        return _parquet(path)
    remedy = f"convert it to one of {', '.join(formats)}, or unpack it (.gz is read)"
    raise InputError(f"{path}: unknown extension {kind!r}; {remedy}")


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
    text = record[field] if field in record else record[named(record, (field,))]
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


def _table(text: str, check: Callable[[Collection[str]], object]) -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(_LONGEST_CSV_FIELD)
    first = text.lstrip().partition("\n")[0]
    bare = first.count("\t") == 1 and _begins_with_id(first)
    delimiter = "\t" if bare else max(",;\t", key=first.count)
    quoting: Any = csv.QUOTE_NONE if bare else csv.QUOTE_MINIMAL
    reader = csv.reader(io.StringIO(text), strict=True, delimiter=delimiter, quoting=quoting)
    names = ["_id", "text"] if bare else []
    line = following = 1
    try:
        for fields in reader:
            line, following = following, reader.line_num + 1
            if fields and not names:
                names = _column_names(fields, check)
            elif len(fields) > len(names):
                yield line, RecordError(f"{len(fields)} columns where the header names {len(names)}")
            elif bare and not _begins_with_id("\t".join(fields)):
                yield line, RecordError("expected an id, a tab and a text, as in line 1")
            elif fields:
                yield line, dict(zip(names, fields, strict=False))
        if bare or not names:
            check(names)
    except RecordError as error:
        yield line, error
    except csv.Error as error:
        yield following, RecordError(f"not valid CSV ({error})")


def _column_names(header: list[str], check: Callable[[Collection[str]], object]) -> list[str]:
    names = [name.strip().lower() for name in header]
    repeated = next((name for name in names if name and names.count(name) > 1), None)
    if repeated is not None:
        raise RecordError(f'the header names the column "{repeated}" more than once')
    check(names)
    return names


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    from pyarrow import ArrowException  # type: ignore[import-untyped]
    from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped]

    try:
        rows = (row for batch in ParquetFile(path).iter_batches() for row in batch.to_pylist())
        yield from enumerate(rows, start=1)
    except (ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read as parquet ({' '.join(str(error).split())}); copy it again") from error
