"""Documents from files: plain text, JSON, CSV, or the corpus of a BEIR folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ragcun.data.beir import Document
from ragcun.data.records import Unreadable, read_records, refuse_wrong, text_problem
from ragcun.errors import InputError
from ragcun.io import existing_file, read_lines


def read_documents(path: str | Path) -> list[Document]:
    """Read documents, in the order of the file.

    Which way a file is read follows from its extension:

    - ``.txt``: one document a line; blank lines are passed over.
    - ``.json`` (an array), ``.jsonl``, ``.ndjson``: objects with the field `text` and, optional, `title` (absent,
      null or blank where there is none), or plain strings; other fields, ``_id`` among them, are ignored.
    - ``.csv``: a header with the column `text` and, optional, `title`.
    - a folder: the ``corpus.jsonl`` in it, as in BEIR.

    A document may be empty, as in BEIR; `make_pairs` leaves it out.

    Raises:
        InputError: the file cannot be read as its extension says, holds no documents, or has wrong records (the first
            is named with its line, the others are counted).
    """
    path = Path(path)
    if path.is_dir():
        if not (path / "corpus.jsonl").is_file():
            raise InputError(f"{path} is a folder without corpus.jsonl; name a file of documents or a BEIR folder")
        path = path / "corpus.jsonl"
    existing_file(path)
    documents: list[Document] = []
    wrong: list[tuple[int, str]] = []
    for line, value in _plain_lines(path) if path.suffix.lower() == ".txt" else read_records(path, [["text"]]):
        document = _document(value)
        if isinstance(document, Document):
            documents.append(document)
        else:
            wrong.append((line, document))
    refuse_wrong(path, wrong)
    if not documents:
        raise InputError(f"{path} holds no documents; give at least one")
    return documents


def _plain_lines(path: Path) -> Iterator[tuple[int, str]]:
    return ((number, line) for number, line in read_lines(path) if line.strip())


def _document(value: Any) -> Document | str:
    """Return the document that a parsed record is, or what is wrong with the record."""
    if isinstance(value, Unreadable):
        return value.reason
    if isinstance(value, str):
        value = {"text": value}
    if not isinstance(value, dict):
        return f'expected a string or an object with the field "text", got {type(value).__name__}'
    record = {**value, "title": "" if value.get("title") is None else value["title"]}
    problem = text_problem(record, "text") or text_problem(record, "title")
    return problem or Document(record["title"].strip(), record["text"].strip())
