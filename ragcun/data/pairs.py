"""Training pairs: a query, a document that answers it, and sometimes a hard negative."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragcun.data.records import Unreadable, read_records
from ragcun.errors import InputError
from ragcun.files import write_json_lines

logger = logging.getLogger(__name__)

Row = tuple[str, str, "str | None"]


@dataclass(frozen=True, eq=False)
class PairDataset:
    """Training pairs in which every distinct text is held once; pair `i` is row `i` of the three index arrays.

    Attributes:
        queries: the distinct query texts.
        documents: the distinct texts of positives and hard negatives.
        query_ids: (n_pairs,) index into `queries`.
        positive_ids: (n_pairs,) index into `documents`.
        negative_ids: (n_pairs,) index into `documents`, -1 where the pair has no hard negative.
        source: where the pairs come from.
    """

    queries: list[str]
    documents: list[str]
    query_ids: NDArray[np.int64]
    positive_ids: NDArray[np.int64]
    negative_ids: NDArray[np.int64]
    source: str

    @classmethod
    def from_rows(cls, rows: Iterable[Row], source: str) -> PairDataset:
        """Build the dataset from ``(query, positive, negative or None)``; rows that repeat exactly are kept once.

        Raises:
            InputError: there are no rows.
        """
        queries: dict[str, int] = {}
        documents: dict[str, int] = {}
        triples: dict[tuple[int, int, int], None] = {}
        total = 0
        for query, positive, negative in rows:
            query_id = queries.setdefault(query, len(queries))
            positive_id = documents.setdefault(positive, len(documents))
            negative_id = documents.setdefault(negative, len(documents)) if negative else -1
            triples[query_id, positive_id, negative_id] = None
            total += 1
        if not triples:
            raise InputError(f"{source} holds no pairs; give at least one query with its positive")
        if total > len(triples):
            logger.info("%s: %d repeated pairs left out, %d remain", source, total - len(triples), len(triples))
        columns = np.array(list(triples), dtype=np.int64).T
        return cls(list(queries), list(documents), columns[0].copy(), columns[1].copy(), columns[2].copy(), source)

    def __len__(self) -> int:
        return len(self.query_ids)

    def rows(self) -> Iterator[Row]:
        """Yield ``(query, positive, negative or None)`` of every pair in order."""
        for query, positive, negative in zip(self.query_ids, self.positive_ids, self.negative_ids, strict=True):
            yield self.queries[query], self.documents[positive], self.documents[negative] if negative >= 0 else None

    def relevant(self, rows: NDArray[np.int64]) -> NDArray[np.bool_] | None:
        """Return the (b, b) matrix of known answers among the pairs in `rows`.

        Its [i, j] says that the positive of pair ``rows[j]`` answers the query of pair ``rows[i]`` according to any
        pair of the dataset; its diagonal is True. None where no other entry can be: every query and every positive of
        the dataset is in one pair only.
        """
        if self._all_distinct:
            return None
        starts, answers = self._answers
        queries, positives = self.query_ids[rows], self.positive_ids[rows]
        counts = starts[queries + 1] - starts[queries]
        row = np.repeat(np.arange(len(queries)), counts)
        within = np.arange(len(row)) - np.repeat(counts.cumsum() - counts, counts)
        answer = answers[np.repeat(starts[queries], counts) + within]
        distinct, column = np.unique(positives, return_inverse=True)
        place = np.searchsorted(distinct, answer)
        shown = distinct.take(place, mode="clip") == answer
        matrix = np.zeros((len(queries), len(distinct)), dtype=np.bool_)
        matrix[row[shown], place[shown]] = True
        return matrix[:, column]

    def sha256(self) -> str:
        """Return the SHA-256 of the pairs' texts in order, in hexadecimal; the file's format does not enter it."""
        digest = hashlib.sha256()
        for row in self.rows():
            for text in row:
                content = b"" if text is None else text.encode(errors="surrogatepass")
                digest.update(len(content).to_bytes(8, "little") + content)
        return digest.hexdigest()

    @functools.cached_property
    def _all_distinct(self) -> bool:
        return len(self.queries) == len(np.unique(self.positive_ids)) == len(self)

    @functools.cached_property
    def _answers(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """``answers[starts[q] : starts[q + 1]]`` are the known positives of query `q`, each once."""
        keys = np.unique(self.query_ids * len(self.documents) + self.positive_ids)
        starts = np.searchsorted(keys, np.arange(len(self.queries) + 1) * len(self.documents))
        return starts, keys % len(self.documents)


def read_pairs(path: str | Path) -> PairDataset:
    """Read training pairs from a JSON array (.json), JSON lines (.jsonl, .ndjson) or CSV with a header (.csv).

    The fields are `query`, `positive` and, optional, `negative` (absent, null or blank where a pair has none);
    other fields are ignored.

    Raises:
        InputError: the file cannot be read as its extension says, holds no pairs, or has wrong rows (the first is
            named with its line, the others are counted).
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder, not a file of pairs; a BEIR folder is read by load_collection")
    rows: list[Row] = []
    wrong: list[tuple[int, str]] = []
    for line, value in read_records(path):
        problem = row_problem(value)
        if problem:
            wrong.append((line, problem))
        else:
            negative = value.get("negative")
            rows.append((value["query"], value["positive"], negative if negative and negative.strip() else None))
    if wrong:
        line, problem = wrong[0]
        others = f" (and {len(wrong) - 1} more row{'s' if len(wrong) > 2 else ''})" if len(wrong) > 1 else ""
        raise InputError(f"{path}, line {line}: {problem}{others}; correct or delete what is wrong")
    return PairDataset.from_rows(rows, source=str(path))


def write_pairs(path: str | Path, pairs: PairDataset | Iterable[Row]) -> None:
    """Write pairs as JSON lines with the fields `query`, `positive` and, where there is one, `negative`.

    Raises:
        InputError: the extension of `path` is not that of JSON lines.
    """
    if Path(path).suffix.lower() not in (".jsonl", ".ndjson"):
        raise InputError(f"{path}: pairs are written as JSON lines; name the file .jsonl")
    rows = pairs.rows() if isinstance(pairs, PairDataset) else pairs
    write_json_lines(path, ({"query": q, "positive": p} | ({"negative": n} if n else {}) for q, p, n in rows))


def is_encodable(text: str) -> bool:
    r"""Say whether `text` can be written as UTF-8, which an unpaired surrogate such as JSON's ``\ud800`` cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def row_problem(value: Any) -> str | None:
    """Return what is wrong with one parsed row of a pairs file, None where nothing is."""
    if isinstance(value, Unreadable):
        return value.reason
    if not isinstance(value, dict):
        return f'expected an object with the fields "query" and "positive", got {type(value).__name__}'
    for field in ("query", "positive", "negative"):
        text = value.get(field)
        if field == "negative" and text is None:
            continue
        if field not in value:
            return f'field "{field}" is missing'
        if not isinstance(text, str):
            return f'field "{field}" must be text, got {"null" if text is None else type(text).__name__}'
        if not text.strip() and field != "negative":
            return f'field "{field}" is empty'
        if not is_encodable(text):
            return f'field "{field}" holds an unpaired surrogate, which is not text'
    if (value.get("negative") or "").strip() == value["positive"].strip():
        return "positive and negative are the same text"
    return None
