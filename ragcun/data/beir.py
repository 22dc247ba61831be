"""Collections in the BEIR layout: ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/<split>.tsv`` in one folder."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ragcun.data.pairs import PairDataset, Row
from ragcun.data.records import Document as Document
from ragcun.data.records import RecordError, document_of, parsed_records, read_documents, read_records, text_field
from ragcun.errors import InputError
from ragcun.io import read_lines, replacing_folder, write_json_lines

logger = logging.getLogger(__name__)

Qrels = dict[str, dict[str, int]]


@dataclass(frozen=True)
class Collection:
    """A corpus with the judged queries of one split: documents, query texts and relevance scores by id."""

    name: str
    documents: dict[str, Document]
    queries: dict[str, str]
    qrels: Qrels
    split: str

    def sha256(self) -> str:
        """Return the SHA-256 of documents, queries and judgments in order, in hexadecimal."""
        digest = hashlib.sha256()
        for key, document in self.documents.items():
            digest.update(json.dumps([key, document.title, document.text]).encode())
        digest.update(json.dumps([self.queries, self.qrels]).encode())
        return digest.hexdigest()


def load_collection(
    folder: str | Path, split: str = "test", documents: dict[str, Document] | None = None
) -> Collection:
    """Read a BEIR folder and the judgments of one split of it; `documents` are its corpus where that was read before.

    Judged documents that the corpus lacks stay in the qrels, as in BEIR; a warning counts them.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"no such folder: {folder}; name a BEIR folder (corpus.jsonl, queries.jsonl, qrels/)")
    qrels = read_qrels(qrels_file := judgments_of(folder, split))
    asked = _texts(folder / "queries.jsonl", "queries")
    queries = {key: query.text for key, query in asked if key in qrels and query.text.strip()}
    for query in sorted(qrels.keys() - queries.keys()):
        raise InputError(f"{qrels_file}: query {query!r} has no text in {folder / 'queries.jsonl'}; add it there")
    documents = dict(_texts(folder / "corpus.jsonl", "documents")) if documents is None else documents
    if not documents:
        raise InputError(f"{folder / 'corpus.jsonl'}: holds no documents")
    if absent := set().union(*qrels.values()) - documents.keys():
        message = "%s: %d judged documents are not in the corpus; they count as not found"
        logger.warning(message, qrels_file, len(absent))
    return Collection(folder.resolve().name, documents, queries, qrels, split)


def judgments_of(folder: Path, split: str) -> Path:
    """Return the file of judgments of one split of a BEIR folder (InputError: there is none)."""
    path = folder / "qrels" / f"{split}.tsv"
    if not path.is_file():
        there = ", ".join(other.stem for other in sorted(path.parent.glob("*.tsv"))) or "no .tsv file in qrels"
        raise InputError(f"{folder}: no judgments for the split {split!r} (qrels/{split}.tsv); there is {there}")
    return path


def read_queries(path: str | Path, split: str | None = None) -> list[str]:
    """Read the non-blank queries of a file (see `read_documents`) or BEIR folder (of one `split`, or None: all)."""
    path = Path(path)
    if split is not None:
        if not path.is_dir():
            raise InputError(f"{path} is no BEIR folder, so it has no split {split!r}; leave the split out")
        return list(load_collection(path, split).queries.values())
    file = path / "queries.jsonl" if path.is_dir() else path
    queries = [document.content for document in read_documents(file) if document.content]
    if not queries:
        raise InputError(f"{file} holds no queries; give at least one")
    return queries


def write_collection(
    folder: str | Path, documents: Mapping[str, Document], queries: Mapping[str, str], qrels: Mapping[str, Qrels]
) -> None:
    """Write a BEIR folder with the `qrels` of each split, whole or absent (InputError: other files would be lost)."""
    folder = Path(folder)
    ours = {"corpus.jsonl", "queries.jsonl", *(f"qrels/{split}.tsv" for split in qrels)}
    present = (path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir())
    others = sorted(path.as_posix() for path in present if path.as_posix() not in ours and path.parts[0] != "pairs")
    if others:
        raise InputError(f"{folder} holds {others[0]}, which would be lost; name a new or an empty folder")
    with replacing_folder(folder) as temporary:
        rows = ({"_id": key, "title": value.title, "text": value.text} for key, value in documents.items())
        write_json_lines(temporary / "corpus.jsonl", rows)
        write_json_lines(temporary / "queries.jsonl", ({"_id": key, "text": text} for key, text in queries.items()))
        (temporary / "qrels").mkdir()
        for split, of_split in qrels.items():
            with (temporary / "qrels" / f"{split}.tsv").open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, delimiter="\t", lineterminator="\n")
                writer.writerow(("query-id", "corpus-id", "score"))
                for query, judged in of_split.items():
                    writer.writerows((query, key, score) for key, score in judged.items())


def pairs_from_collection(collection: Collection, whole_corpus: bool = False) -> PairDataset:
    """Return each (query, document with a score above 0) of the split as a pair; `whole_corpus` adds the others."""
    contents = {key: document.content for key, document in collection.documents.items() if document.content}
    rows: list[Row] = []
    for query, text in collection.queries.items():
        relevant = (key for key, score in collection.qrels[query].items() if score > 0 and key in contents)
        rows += [(text, contents[key], None) for key in relevant]
    source = f"{collection.name}/{collection.split}"
    return PairDataset.from_rows(rows, source, contents.values() if whole_corpus else ())


def hold_out_queries(collection: Collection, fraction: float, seed: int) -> tuple[Collection, Collection]:
    """Split the judged queries at random into (kept, held out); both keep the whole corpus.

    Queries with the same text (but for case and surrounding blanks) go to the same side, so that none leaks.
    """
    text_of = {key: text.strip().casefold() for key, text in collection.queries.items()}
    texts = sorted(set(text_of.values()))
    count = round(fraction * len(texts)) if 0 < fraction < 1 else 0
    if not 0 < count < len(texts):
        raise InputError(
            f"cannot hold out {fraction} of {len(texts)} queries; choose a fraction that leaves both sides some"
        )
    held = {texts[i] for i in np.random.default_rng(seed).permutation(len(texts))[:count]}

    def side(split: str, is_held: bool) -> Collection:
        queries = {key: text for key, text in collection.queries.items() if (text_of[key] in held) == is_held}
        qrels = {key: judged for key, judged in collection.qrels.items() if key in queries}
        return replace(collection, queries=queries, qrels=qrels, split=split)

    return side(collection.split, False), side(f"{collection.split}-held-out", True)


def _texts(path: Path, unit: str) -> Iterator[tuple[str, Document]]:
    lines: dict[str, int] = {}
    records = tqdm(read_records(path), desc=f"read {path.name}", unit=f" {unit}", delay=2, leave=False)
    for line, (key, document) in parsed_records(path, records, _identified):
        if key in lines:
            raise InputError(f"{path}, line {line}: _id {key!r} is that of line {lines[key]}; keep one of them")
        lines[key] = line
        yield key, document


def _identified(record: Any) -> tuple[str, Document]:
    if not isinstance(record, dict):
        raise RecordError(f"expected a JSON object, got {type(record).__name__}")
    key = text_field(record, "_id")
    if not key.strip():
        raise RecordError("the _id is empty")
    return key, document_of(record)


def read_qrels(path: str | Path) -> Qrels:
    """Read judgments: query-id, corpus-id and score between tabs, with or without a header line, or TREC's 4 columns.

    Where a pair is judged twice the last judgment holds, as in BEIR. A wrong line raises `InputError`, which names it.
    """
    qrels: Qrels = {}
    for line, text in read_lines(path):
        fields = next(csv.reader([text], delimiter="\t")) if '"' in text else text.split("\t")
        is_header = line == 1 and len(fields) == 3 and not any(map(str.isdigit, fields[2]))
        if is_header or not text.strip():
            continue
        if len(fields) != 3 and len(trec := text.split()) == 4:
            fields = [trec[0], *trec[2:]]
        if len(fields) != 3:
            raise InputError(
                f"{path}, line {line}: expected query-id, corpus-id and score between tabs, got {len(fields)} columns"
            )
        query, document, score = fields
        if not query.strip() or not document.strip():
            raise InputError(f"{path}, line {line}: an id is empty; correct or delete that line")
        try:
            qrels.setdefault(query, {})[document] = int(score)
        except ValueError as error:
            raise InputError(f"{path}, line {line}: the score must be a whole number, got {score!r:.60}") from error
    if not qrels:
        raise InputError(f"{path}: holds no judgments; a line is query-id, corpus-id and score between tabs")
    return qrels
