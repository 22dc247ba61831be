"""Collections in the BEIR layout: ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/<split>.tsv`` in one folder."""

from __future__ import annotations

import csv
import functools
import hashlib
import json
import logging
import math
import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ragcun.data.pairs import PairDataset, Row
from ragcun.data.records import Document as Document
from ragcun.data.records import RecordError, document_of, folded, named, parsed_records, read_documents, text_field
from ragcun.data.texts import text_key
from ragcun.errors import InputError
from ragcun.io import read_lines, replacing_folder, write_json_lines

logger = logging.getLogger(__name__)

Qrels = dict[str, dict[str, int]]
MOST_GRADE = 1000  # trec_eval takes memory in proportion to a grade
RUN_ID = re.compile(r"\S([^\t\r\n]*\S)?")  # the ids that a run file can hold


@dataclass(frozen=True)
class Collection:
    """A corpus with the judged queries of one split: documents, query texts and relevance scores by id.

    Where `drop_own_ids`, a document with a query's id is not ranked for that query, whatever their texts.
    """

    name: str
    documents: dict[str, Document]
    queries: dict[str, str]
    qrels: Qrels
    split: str
    drop_own_ids: bool = False

    @cached_property
    def own_ids(self) -> frozenset[str]:
        """The queries that are documents: the one of the query's id has its text too (as in ArguAna and Quora)."""
        shared = self.queries.keys() & self.documents.keys()
        return frozenset(shared if self.drop_own_ids else filter(self._is_document, shared))

    def _is_document(self, query: str) -> bool:
        document = self.documents[query]
        return text_key(self.queries[query]) in map(text_key, (document.text, document.content))

    @property
    def shared_ids(self) -> list[str]:
        """The other queries whose id is that of a document, which is ranked."""
        return sorted((self.queries.keys() & self.documents.keys()) - self.own_ids)

    def notes(self) -> list[str]:
        """Return what is to know of its figures: judged documents that cannot be found, and ids in two roles."""
        judged = set().union(*self.qrels.values())
        lost = sum(self.qrels[query].get(query, 0) > 0 for query in self.own_ids)
        without = sum(max(judgments.values(), default=0) < 1 for judgments in self.qrels.values())
        absent, shared = len(judged - self.documents.keys()), len(self.shared_ids)
        counts = {
            "judged documents are not in the corpus; they count as not found": absent,
            "relevant documents are the query itself, by their id, and left out; they count as not found": lost,
            "documents have a query's id but another text, and are ranked; --drop_own_ids leaves them out": shared,
            "judged queries have no relevant document; they score 0": without,
        }
        return [f"{count} {what}" for what, count in counts.items() if count]

    def of_queries(self, keys: Set[str]) -> Collection:
        """Return the whole corpus with some of the queries."""
        queries = {key: text for key, text in self.queries.items() if key in keys}
        return replace(self, queries=queries, qrels={key: judged for key, judged in self.qrels.items() if key in keys})

    def sha256(self) -> str:
        """Return the SHA-256 of documents, queries, judgments and `shared_ids`, if any, in hexadecimal."""
        digest = hashlib.sha256()
        for key, document in self.documents.items():
            digest.update(json.dumps([key, document.title, document.text]).encode())
        digest.update(json.dumps([self.queries, self.qrels, *filter(None, [self.shared_ids])]).encode())
        return digest.hexdigest()


def load_collection(
    folder: str | Path, split: str = "test", documents: dict[str, Document] | None = None, drop_own_ids: bool = False
) -> Collection:
    """Read a BEIR folder and the judgments of one split of it; `documents` are its corpus where that was read before.

    Judged documents that the corpus lacks stay in the qrels, as in BEIR; a warning counts them. A corpus without any
    relevant document is refused.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"no such folder: {folder}; name a BEIR folder (corpus.jsonl, queries.jsonl, qrels/)")
    qrels = read_qrels(qrels_file := judgments_of(folder, split))
    asked = _texts(folder / "queries.jsonl", "queries")
    queries = {key: query.text for key, query in asked if key in qrels and query.text.strip()}
    for query in sorted(qrels.keys() - queries.keys()):
        raise InputError(f"{qrels_file}: query {query!r} has no text in {folder / 'queries.jsonl'}; add it there")
    corpus = folder / "corpus.jsonl"
    documents = dict(_texts(corpus, "documents")) if documents is None else documents
    if not documents:
        raise InputError(f"{corpus} holds no documents; give at least one")
    relevant = [key for judged in qrels.values() for key, score in judged.items() if score > 0]
    if not any(key in documents for key in relevant):
        example = f"relevant is {relevant[0]!r:.60}, there is {next(iter(documents))!r:.60}" if relevant else "none is"
        raise InputError(f"{qrels_file}: no relevant document is in {corpus}: {example}; give both the same ids")
    collection = Collection(folder.resolve().name, documents, queries, qrels, split, drop_own_ids)
    for note in collection.notes():
        logger.warning("%s: %s", qrels_file, note)
    return collection


def judgments_of(folder: Path, split: str) -> Path:
    """Return the file of judgments of one split of a BEIR folder (InputError: there is none)."""
    path = folder / "qrels" / f"{split}.tsv"
    if not path.is_file():
        there = ", ".join(other.stem for other in sorted(path.parent.glob("*.tsv"))) or "no .tsv file in qrels"
        raise InputError(f"{folder}: no judgments for the split {split!r} (qrels/{split}.tsv); choose from: {there}")
    return path


def read_queries(path: str | Path, split: str | None = None) -> list[str]:
    """Read the non-blank queries of a file (see `read_documents`) or BEIR folder (of one `split`, or None: all)."""
    path = Path(path)
    if split is not None:
        if not path.is_dir():
            raise InputError(f"{path} is not a BEIR folder, so it has no split {split!r}; leave the split out")
        return list(load_collection(path, split).queries.values())
    file = path / "queries.jsonl" if path.is_dir() else path
    queries = [document.content for document in read_documents(file, "queries") if document.content]
    if not queries:
        raise InputError(f"{file} holds no queries; give at least one")
    return queries


def all_queries(folder: Path) -> dict[str, str]:
    """Return the queries of a BEIR folder by their ids, judged or not."""
    return {key: query.text for key, query in _texts(folder / "queries.jsonl", "queries")}


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
                file.write("query-id\tcorpus-id\tscore\n")
                for query, judged in of_split.items():
                    lines = (f"{_quoted(query)}\t{_quoted(key)}\t{score}\n" for key, score in judged.items())
                    file.writelines(lines)


def _quoted(key: str) -> str:
    # as csv does, which refuses NUL before Python 3.11
    return '"{}"'.format(key.replace('"', '""')) if any(map(key.__contains__, '"\t\r\n')) else key


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
    texts = _shuffled_texts(collection, seed)
    count = round(fraction * len(texts)) if 0 < fraction < 1 else 0
    if not 0 < count < len(texts):
        raise InputError(f"cannot hold out {fraction} of {len(texts)} queries; choose one that leaves both sides some")
    return _split(collection, set(texts[:count]))


def query_folds(collection: Collection, count: int, seed: int) -> Iterator[tuple[Collection, Collection]]:
    """Yield (kept, held out) for each of `count` parts of the judged queries, as `hold_out_queries` splits them."""
    texts = _shuffled_texts(collection, seed)
    if len(texts) < count:
        raise InputError(f"{collection.name}: {len(texts)} distinct queries are too few for {count} folds; add more")
    for part in np.array_split(np.array(texts, dtype=object), count):
        yield _split(collection, set(part))


def _shuffled_texts(collection: Collection, seed: int) -> list[str]:
    texts = sorted({text.strip().casefold() for text in collection.queries.values()})
    return [texts[i] for i in np.random.default_rng(seed).permutation(len(texts))]


def _split(collection: Collection, held: set[str]) -> tuple[Collection, Collection]:
    kept = {key for key, text in collection.queries.items() if text.strip().casefold() not in held}
    others = collection.of_queries(collection.queries.keys() - kept)
    return collection.of_queries(kept), replace(others, split=f"{collection.split}-held-out")


def _texts(path: Path, of: str) -> Iterator[tuple[str, Document]]:
    lines: dict[str, int] = {}
    for line, (key, document) in parsed_records(path, functools.partial(_identified, of=of)):
        if key in lines:
            raise InputError(f"{path}, line {line}: _id {key!r} is that of line {lines[key]}; keep one of them")
        lines[key] = line
        yield key, document


def _identified(record: Any, of: str) -> tuple[str, Document]:
    if not isinstance(record, dict):
        raise RecordError(f"expected a JSON object, got {type(record).__name__}")
    name = named(record, "_id")
    key = str(record[name]) if type(record[name]) is int else text_field(record, name)
    if not key.strip():
        raise RecordError(f"the {name} is empty")
    return key, document_of(record, of)


def grade(score: Any, name: str = "the score") -> int:
    """Return a grade of relevance, such as ``"1.0"``, as a whole number (ValueError: it is none of at most 1,000)."""
    try:
        value = float(score)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not abs(value) <= MOST_GRADE or value != int(value):
        raise ValueError(f"{name} must be a whole number of at most {MOST_GRADE}, got {score!r:.60}")
    return int(value)


def read_qrels(path: str | Path) -> Qrels:
    """Read judgments: query, document and score between tabs (or else blanks or commas), or TREC's 4 columns.

    A header may name the columns in any order; without one they are in this order. Where a pair is judged twice the
    last judgment holds, as in BEIR. A wrong line raises `InputError`, which names it.
    """
    qrels: Qrels = {}
    places: list[int] = []
    for line, text in read_lines(path):
        if not text.strip():
            continue
        try:
            fields = _columns(text)
            if not places:
                places, width = _places(fields), len(fields)
                if not any(map(str.isdigit, fields[places[-1]])):
                    continue  # a header
            if len(fields) != width:
                raise RecordError(f"{len(fields)} columns where the first line has {width}")
            query, document, score = (fields[place] for place in places)
            if not query.strip() or not document.strip():
                raise RecordError("an id is empty")
            qrels.setdefault(query, {})[document] = grade(score)
        except (ValueError, csv.Error) as error:
            raise InputError(f"{path}, line {line}: {error}; correct or delete that line") from error
    if not qrels:
        raise InputError(f"{path} holds no judgments; a line is query-id, corpus-id and score between tabs")
    return qrels


def _columns(line: str) -> list[str]:
    if "\t" not in line and len(words := line.split()) > 1:
        return words
    delimiter = next(filter(line.__contains__, "\t;"), ",")
    return next(csv.reader([line], delimiter=delimiter)) if '"' in line else line.split(delimiter)


def _places(fields: list[str]) -> list[int]:
    """Return where query, document and score are, given the first line."""
    names = [folded(field) for field in fields]
    if not fields[-1].strip().lstrip("+-")[:1].isdigit():
        return [names.index(named(names, each)) for each in ("query-id", "corpus-id", "score")]
    if len(fields) == 4 and (fields[1].isdigit() or fields[1] == "Q0"):
        return [0, 2, 3]
    if len(fields) != 3:
        raise RecordError(f"expected query-id, corpus-id and score between tabs, got {len(fields)} columns")
    return [0, 1, 2]
