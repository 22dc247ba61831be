"""Runs: the ranked documents of each query, and their TREC files."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ragcun.errors import InputError
from ragcun.io import read_lines, write_text

Run = dict[str, dict[str, float]]
"""``{query id: {document id: score}}``; a query's documents are in the order of their rank."""


def ranking(query: str, document_ids: Sequence[str], scores: list[float], rows: list[int], k: int) -> dict[str, float]:
    """Return the first `k` documents, given corpus rows from best to worst, but one of the query's own id.

    BEIR leaves that out too, since ArguAna and Quora hold their queries among their documents.
    """
    found = {document_ids[row]: score for row, score in zip(rows, scores, strict=True)}
    found.pop(query, None)
    return dict(islice(found.items(), k))


def make_run(
    query_ids: Sequence[str], document_ids: Sequence[str], scores: NDArray[Any], indices: NDArray[Any], k: int
) -> Run:
    """Turn scores and corpus rows ``(queries, retrieved)``, best first, into a run; see `ranking`.

    Search for ``k + 1`` so that `k` remain where a query is a document.

    Raises:
        ValueError: the shapes disagree, a query id occurs twice, or a score is not finite.
    """
    if scores.shape != indices.shape or len(scores) != len(query_ids):
        raise ValueError(f"{len(query_ids)} query ids, scores {scores.shape} and indices {indices.shape} do not agree")
    if len(set(query_ids)) != len(query_ids):
        raise ValueError(f"{len(query_ids)} query ids, of which {len(set(query_ids))} differ")
    rows = zip(query_ids, scores.tolist(), indices.tolist(), strict=True)
    run = {query: ranking(query, document_ids, of_query, places, k) for query, of_query, places in rows}
    check_finite(run)
    return run


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

    Scores are written so that reading gives the same float. The format has no place for a query without documents.

    Raises:
        InputError: an id or the tag is empty or contains white space.
        ValueError: a score is NaN or infinite.
    """
    check_finite(run)
    lines = []
    _check_word(tag, "tag", path)
    for query_id, documents in run.items():
        _check_word(query_id, "query id", path)
        for rank, (document_id, score) in enumerate(ranked(documents), start=1):
            _check_word(document_id, "document id", path)
            lines.append(f"{query_id} Q0 {document_id} {rank} {float(score)!r} {tag}\n")
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
        columns = line.split()
        if len(columns) != 6:
            raise InputError(
                f"{path}, line {number}: expected the 6 columns 'query Q0 document rank score tag', got {len(columns)}"
            )
        query_id, _, document_id, _, text, _ = columns
        documents = run.setdefault(query_id, {})
        if document_id in documents:
            raise InputError(
                f"{path}, line {number}: query {query_id!r:.60} has document {document_id!r:.60} twice; delete one"
            )
        with contextlib.suppress(ValueError):
            documents[document_id] = float(text)
        if not math.isfinite(documents.get(document_id, math.nan)):
            raise InputError(
                f"{path}, line {number}: expected a finite score in column 5, got {text!r:.60}; fix that line"
            )
    return {query_id: dict(ranked(documents)) for query_id, documents in run.items()}


def _check_word(word: str, what: str, path: str | Path) -> None:
    if len(word.split()) != 1 or word != word.strip():
        raise InputError(f"{path}: the {what} {word!r} is empty or has white space, which a TREC run cannot hold")


def runs_folder(output_file: Path) -> Path:
    """Return the folder beside a results file that holds its run files and per-query values."""
    return output_file.with_suffix(".runs")
