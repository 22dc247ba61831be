"""Runs: the ranked documents of each query, their TREC files, and stored ones as a system."""

from __future__ import annotations

import contextlib
import json
import logging
import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ragcun.data.beir import RUN_ID, Collection
from ragcun.errors import InputError
from ragcun.io import file_digest, read_json, read_lines, write_text
from ragcun.results import DocumentSpace, Results

logger = logging.getLogger(__name__)
Run = dict[str, dict[str, float]]
"""``{query id: {document id: score}}``; a query's documents are in the order of their rank."""


def without_own(run: Run, own_ids: Set[str], k: int) -> Run:
    """Return the first `k` documents of each query, without the one of its id where it is in `own_ids`."""
    return {
        query: dict(islice(((key, score) for key, score in found.items() if key != query or key not in own_ids), k))
        for query, found in run.items()
    }


def make_run(
    query_ids: Sequence[str],
    document_ids: Sequence[str],
    scores: NDArray[Any],
    indices: NDArray[Any],
    k: int,
    own_ids: Set[str] = frozenset(),
) -> Run:
    """Turn scores and corpus rows ``(queries, retrieved)``, best first, into a run; see `without_own`.

    Search for ``k + 1`` so that `k` remain where a query is a document (`Collection.own_ids`).
    """
    run: Run = {}
    for query, of_query, places in zip(query_ids, scores.tolist(), indices.tolist(), strict=True):
        run[query] = dict(zip(map(document_ids.__getitem__, places), of_query, strict=True))
    return without_own(run, own_ids, k)


def ranked(documents: Mapping[str, float]) -> list[tuple[str, float]]:
    """Return a query's documents by (score descending, order in the run).

    >>> ranked({"a": 1.0, "b": 2.0, "c": 1.0})
    [('b', 2.0), ('a', 1.0), ('c', 1.0)]
    """
    return sorted(documents.items(), key=lambda item: -item[1])


def check_finite(run: Mapping[str, Mapping[str, float]]) -> None:
    """Check that all scores can be ranked (ValueError: one is NaN or infinite)."""
    for query_id, documents in run.items():
        for document_id, score in documents.items():
            if not math.isfinite(score):
                raise ValueError(f"query {query_id!r}, document {document_id!r}: score {score} is not a finite number")


def write_run(path: str | Path, run: Mapping[str, Mapping[str, float]], tag: str) -> None:
    """Write a TREC run file, ``query Q0 document rank score tag``, by (score descending, order in the run).

    Scores are written so that reading gives the same float. The format has no place for a query without documents. Tabs
    are between the columns where an id has blanks.

    Raises:
        InputError: an id or the tag is empty, has blanks around it, or contains a tab or a line break.
        ValueError: a score is NaN or infinite.
    """
    check_finite(run)
    lines = []
    _check_word(tag, "tag", path)
    for query_id, documents in run.items():
        _check_word(query_id, "query id", path)
        for rank, (document_id, score) in enumerate(ranked(documents), start=1):
            _check_word(document_id, "document id", path)
            words = (query_id, "Q0", document_id, str(rank), repr(float(score)), tag)
            lines.append(("\t" if len(" ".join(words).split()) > len(words) else " ").join(words) + "\n")
    write_text(path, "".join(lines))


def read_run(path: str | Path) -> Run:
    """Read a TREC run file; as in trec_eval, order is by score (then line), and the rank column is ignored.

    Raises:
        InputError: the file is missing, or a line lacks 6 columns, has no finite score or repeats a document.
    """
    run: Run = {}
    for number, line in read_lines(path):
        if not line.strip():
            continue
        columns = [*map(str.strip, line.split("\t"))] if line.count("\t") == 5 else line.split()
        if len(columns) != 6:
            expected = "expected the 6 columns 'query Q0 document rank score tag'"
            raise InputError(f"{path}, line {number}: {expected}, got {len(columns)}")
        query_id, _, document_id, _, text, _ = columns
        for what, key in (("query id", query_id), ("document id", document_id)):
            _check_word(key, what, f"{path}, line {number}")
        documents = run.setdefault(query_id, {})
        if document_id in documents:
            twice = f"query {query_id!r:.60} has document {document_id!r:.60} twice"
            raise InputError(f"{path}, line {number}: {twice}; delete one")
        with contextlib.suppress(ValueError):
            documents[document_id] = float(text)
        if not math.isfinite(documents.get(document_id, math.nan)):
            raise InputError(f"{path}, line {number}: expected a finite score in column 5, got {text!r:.60}; fix it")
    return {query_id: dict(ranked(documents)) for query_id, documents in run.items()}


def _check_word(word: str, what: str, path: str | Path) -> None:
    if not RUN_ID.fullmatch(word):
        raise InputError(f"{path}: the {what} {word!r} is empty, or has blanks around it, a tab or a line break")


def runs_folder(output_file: Path) -> Path:
    """Return the folder beside a results file that holds its run files and per-query values."""
    return output_file.with_suffix(".runs")


@dataclass
class StoredRetriever:
    """The rankings of an earlier evaluation, read from its TREC run files, or those of one run file of any program."""

    name: str
    folder: Path  # or file
    size: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Return what the earlier evaluation recorded of its model, or a digest of the file."""
        if self.folder.is_file():
            return file_digest(self.folder)
        manifest = read_json(self.folder.with_suffix(".json")).get("manifest") or {}
        recorded = (manifest.get("settings") or {}).get("system model", "")
        return f"earlier evaluation of {self.name} {recorded} {json.dumps(self.size)}"

    def retrieve(self, collection: Collection, k: int) -> Run:
        """Read the run of this collection; of a single file, only its queries, with up to `k` documents each.

        Raises:
            InputError: a file ranks a document that the collection lacks, or has none of its queries.
        """
        if not self.folder.is_file():
            return without_own(read_run(self.folder / collection.name / "model.trec"), collection.own_ids, k)
        run = read_run(self.folder)
        known = {query: run[query] for query in collection.queries if query in run}
        unknown = sorted(set().union(*known.values()) - collection.documents.keys())
        if unknown or not known:
            lacking = f"the document {unknown[0]!r:.60}" if unknown else "any of the queries"
            raise InputError(f"{self.folder}: {collection.name} does not have {lacking} of this run; give a run on it")
        if missing := len(collection.queries) - len(known):
            logger.warning("%s lacks %d of the queries of %s", self.folder, missing, collection.name)
        return without_own(known, collection.own_ids, k)

    def space(self, collection: Collection) -> DocumentSpace | None:
        """Read how the embeddings of the documents lie; None where the earlier evaluation does not say."""
        earlier = {} if self.folder.is_file() else Results.read(self.folder.with_suffix(".json")).model.datasets
        return earlier[collection.name].space if collection.name in earlier else None


def parts_of(retriever: Any) -> tuple[Any, ...]:
    """Return the systems that one is made of: mostly itself."""
    return tuple(getattr(retriever, "parts", (retriever,)))


def is_stored(retriever: Any) -> bool:
    """Return whether a system, or a part of it, has stored rankings alone."""
    return any(isinstance(each, StoredRetriever) for each in parts_of(retriever))
