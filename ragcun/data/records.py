"""Records of JSON files, tables, text files and data sets of the hub, and documents read from them."""

from __future__ import annotations

import csv
import functools
import io
import json
import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tqdm.auto import tqdm

from ragcun.data.hub import naming_hub_errors, open_rows
from ragcun.errors import InputError, did_you_mean, require_package
from ragcun.io import existing_file, read_json, read_lines, read_text

Parsed = TypeVar("Parsed")
logger = logging.getLogger(__name__)
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_ELEMENT = re.compile(r"[^\s,]")
FORMATS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(:[\w.-]*){0,2}")  # owner/name, perhaps :subset, perhaps :split
_LIST = re.compile(r"\[\s*([\"']).*\1\s*\]", re.DOTALL)
NAMES: dict[str, list[str]] = read_json(Path(__file__).with_name("fields.json"))
"""The names, `folded`, that files give to a field, ours first."""
NEGATIVE = re.compile(r"(hard[_ ]?)?neg(ative)?s?([_ ]?\d+|[_ ](passage|text|document|doc|ctx|answer)s?)?")
LABEL = re.compile(r"((is|gold)_)?(label|(similarity_)?score|similarity|relevan(ce|t)|rel|selected|grade|target)s?")


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


def read_documents(path: str | Path, of: str = "documents") -> list[Document]:
    """Read documents, in the order of the file, as its extension says; one may be empty, as in BEIR.

    - ``.txt``: one document a line; blank lines are skipped.
    - a folder: the ``corpus.jsonl`` in it, as in BEIR, or else each ``.txt`` and ``.md`` file as a document.
    - anything else: records (see `read_records`), strings or a text (named as `NAMES` of `of`) and perhaps a `title`.
    """
    path = records_file(path)
    path = path / "corpus.jsonl" if (path / "corpus.jsonl").is_file() else path
    read = parsed_records(path, functools.partial(document_of, of=of), (".txt", *FORMATS))
    documents = [Document(document.title.strip(), document.text.strip()) for _, document in read]
    if not documents:
        raise InputError(f"{path} holds no documents; give at least one")
    return documents


def _text_files(folder: Path) -> list[tuple[int, str]]:
    """Return the texts of a folder's .txt and .md files, none where it has files of records."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    shown = [path for path in files if "/." not in f"/{path.relative_to(folder).as_posix()}"]
    if any(path.suffix.lower() in (".jsonl", ".parquet") for path in shown):
        return []
    texts = [path for path in shown if path.suffix.lower() in (".txt", ".md")]
    if texts:
        message = "%s: each of %d text files is a document; %d other files are not read"
        logger.info(message, folder, len(texts), len(files) - len(texts))
    return [(1, text) for text in map(read_text, texts) if text.strip()]


def _text_lines(path: Path) -> list[tuple[int, str]]:
    lines = [(line, text) for line, text in read_lines(path) if text.strip()]
    if lines and all(_begins_with_id(text) for _, text in lines):
        raise InputError(f"{path}: each line has an id and a tab before the text; name the file .tsv")
    return lines


def _begins_with_id(line: str) -> bool:
    cell, tab, _ = line.partition("\t")
    return bool(tab) and len(cell.split()) == 1 and any(map(str.isdigit, cell))


def document_of(value: Any, of: str = "documents") -> Document:
    """Return the document that a record is: a string, or an object with a text and perhaps a title (or RecordError)."""
    record = {"text": value} if isinstance(value, str) else value
    if not isinstance(record, dict):
        raise RecordError(f'expected a string or an object with the field "text", got {type(value).__name__}')
    text = text_field(record, named(record, of))
    return Document("" if record.get("title") is None else text_field(record, "title"), text)


def named(there: Collection[str], field: str) -> str:
    """Return the first of the `NAMES` of a field that is there (RecordError: none; it lists the fields that are)."""
    found = next((name for name in NAMES.get(field, (field,)) if name in there), None)
    if found is None:
        raise RecordError(_missing(field, *there))
    return found


@functools.lru_cache(maxsize=100)
def _missing(field: str, *there: str) -> str:
    names = NAMES.get(field, [field])
    near = "".join(did_you_mean(each, names) for each in there)
    also = f" (also read: {', '.join(names[1:])})" if names[1:] else ""
    fields = ", ".join(f"{each!r:.40}" for each in there) or "none"
    return f'field "{names[0]}" is missing{also}; there is {fields}; {near}'.rstrip("; ")


@functools.lru_cache(maxsize=10_000)
def folded(name: str) -> str:
    """Return the name of a field in lower case, with underscores for hyphens."""
    return name.strip().lower().replace("-", "_")


def records_file(path: str | Path) -> Path:
    """Return a file of records, the ``.jsonl`` in place of a ``.json`` that is not there, or the other way round."""
    path = Path(path)
    other = path.with_suffix({".json": ".jsonl", ".jsonl": ".json"}.get(path.suffix, path.suffix))
    if path.exists() or not other.is_file():
        return path
    logger.info("%s is not there; %s is read", path, other.name)
    return other


def is_collection(path: str | Path) -> bool:
    """Return whether a path is a BEIR folder, perhaps an incomplete one."""
    return any((Path(path) / name).exists() for name in ("corpus.jsonl", "queries.jsonl", "qrels"))


def read_records(path: str | Path, formats: Sequence[str] = FORMATS) -> Iterator[tuple[int, Any]]:
    """Yield ``(line, value)`` of every record of a file of JSON, a table with a header or parquet (row for line).

    A record that cannot be parsed comes as a `RecordError`. A table's columns stand between commas, semicolons, tabs or
    bars; without a header they are an id, a tab and a text. A folder, or ``owner/name:subset:split`` with no folder of
    the owner, is a data set as the hub has them; its split is train, unless named.
    """
    path = Path(path)
    kind = Path(path.stem if path.suffix.lower() == ".gz" else path).suffix.lower()
    if is_collection(path):
        raise InputError(f"{path} is a BEIR folder, where a file is expected; ragcun.load_collection reads it")
    if ".txt" in formats and path.is_dir() and (texts := _text_files(path)):
        return iter(texts)
    is_of_hub = _HUB_NAME.fullmatch(str(path)) and kind not in formats and not path.parent.exists()
    if path.is_dir() or is_of_hub:
        name, subset, split, *_ = *(str(path).split(":") if is_of_hub else [str(path)]), "", ""
        return enumerate(open_rows(name, subset or None, split or "train"), start=1)
    path = existing_file(path)
    if kind == ".txt" and kind in formats:
        return iter(_text_lines(path))
    if kind in (".jsonl", ".ndjson"):
        return ((line, _from_json(text)[1]) for line, text in read_lines(path) if text.strip())
    if kind == ".json":
        return _json_array(read_text(path))
    if kind in (".csv", ".tsv"):
        return _table(read_text(path))
    if kind == ".parquet":
        return _parquet(path)
    remedy = f"convert it to one of {', '.join(formats)}, or unpack it (.gz is read)"
    raise InputError(f"{path}: unknown extension {kind!r}; {remedy}")


def parsed_records(
    path: Path, parse: Callable[[Any], Parsed], formats: Sequence[str] = FORMATS
) -> Iterator[tuple[int, Parsed]]:
    """Yield the line of each record of a file and what `parse` makes of it, names of fields `folded`.

    An `InputError` at the end names the first wrong one, and counts the others.
    """
    records = tqdm(read_records(path, formats), desc=f"read {path.name}", unit=" records", delay=2, leave=False)
    first, wrong = "", 0
    for line, value in records:
        try:
            if isinstance(value, RecordError):
                raise value
            is_object = isinstance(value, dict)
            parsed = parse({folded(name): field for name, field in value.items()} if is_object else value)
        except RecordError as error:  # noqa: PERF203
            first, wrong = first or f"line {line}: {error}", wrong + 1
        else:
            yield line, parsed
    if wrong:
        others = f" (and {wrong - 1} more row{'s' if wrong > 2 else ''})" if wrong > 1 else ""
        raise InputError(f"{path}, {first}{others}; correct or delete what is wrong")


def text_field(record: Mapping[str, Any], field: str) -> str:
    """Return a field that must be text (RecordError: it is of another type, or no Unicode)."""
    text = record[field]
    if not isinstance(text, str):
        raise RecordError(f'field "{field}" must be text, got {"null" if text is None else type(text).__name__}')
    if not is_encodable(text):
        raise RecordError(f'field "{field}" holds an unpaired surrogate, which is not text')
    return text


def text_fields(record: Mapping[str, Any], field: str) -> list[str]:
    """Return the texts of a field, which holds one, a document or a list of these, without null and blank ones."""
    values = record[field] if isinstance(record[field], list) else [record[field]]
    if field.endswith("s") and isinstance(record[field], str) and _LIST.fullmatch(record[field]):
        raise RecordError(f'field "{field}" is a list in quotes; give a column for each text, or JSON lines with lists')
    contents = (document_of(each).content if isinstance(each, dict) else each for each in values if each is not None)
    return [text for content in contents if (text := text_field({field: content}, field)).strip()]


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


def _table(text: str) -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(1 << 30)
    first = text.lstrip().partition("\n")[0]
    bare = first.count("\t") == 1 and _begins_with_id(first)
    delimiter, quoting = ("\t", csv.QUOTE_NONE) if bare else (max(",;\t|", key=first.count), csv.QUOTE_MINIMAL)
    reader = csv.reader(io.StringIO(text), strict=True, delimiter=delimiter, quoting=quoting)  # type: ignore[arg-type]
    names = ["_id", "text"] if bare else []
    line = following = 1
    try:
        for fields in reader:
            line, following = following, reader.line_num + 1
            if not fields or fields[0] == "sep=":  # which Excel reads
                continue
            if not names:
                names = [folded(name) for name in fields]
                if repeated := [name for name in names if name and names.count(name) > 1]:
                    yield line, RecordError(f'the header names the column "{repeated[0]}" more than once')
                    return
            elif len(fields) > len(names):
                yield line, RecordError(f"{len(fields)} columns where the header names {len(names)}")
            elif bare and not _begins_with_id("\t".join(fields)):
                yield line, RecordError("expected an id, a tab and a text, as in line 1")
            else:
                yield line, dict(zip(names, fields, strict=False))
    except csv.Error as error:
        yield following, RecordError(f"not valid CSV ({error})")


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    require_package("datasets", "data")
    from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped]

    with naming_hub_errors(f"{path} cannot be read as parquet", "copy it again"):
        rows = (row for batch in ParquetFile(path).iter_batches() for row in batch.to_pylist())
        yield from enumerate(rows, start=1)
