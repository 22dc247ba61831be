"""Training pairs: a query, a document that answers it, and sometimes a hard negative; and splits of them."""

from __future__ import annotations

import functools
import hashlib
import logging
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ragcun.data.records import RecordError, parsed_records, read_records, records_file, text_field
from ragcun.data.texts import text_classes
from ragcun.errors import InputError
from ragcun.io import write_json_lines

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Row = tuple[str, str, "str | None"]
SPLITS = ("train", "dev", "test")
FIELDS = (("query", "positive"), ("y", "x"))  # names that a file may give to a pair's query and positive


@dataclass(frozen=True, eq=False)
class PairDataset:
    """Training pairs in which every distinct text is held once; pair `i` is row `i` of the three index arrays."""

    queries: list[str]
    documents: list[str]
    query_ids: NDArray[np.int64]
    positive_ids: NDArray[np.int64]
    negative_ids: NDArray[np.int64]  # -1 where the pair has no hard negative
    source: str

    @classmethod
    def from_rows(cls, rows: Iterable[Row], source: str, corpus: Iterable[str] = ()) -> PairDataset:
        """Build the dataset from rows, of which there must be some; those that repeat exactly are kept once.

        Texts of `corpus` that are in no row come after the others in `documents`: hard negatives are mined there too.
        """
        queries: dict[str, int] = {}
        documents: dict[str, int] = {}
        places = array("q")
        for query, positive, negative in rows:
            places.append(queries.setdefault(query, len(queries)))
            places.append(documents.setdefault(positive, len(documents)))
            places.append(documents.setdefault(negative, len(documents)) if negative else -1)
        if not places:
            raise InputError(f"{source} holds no pairs; give at least one query with its positive")
        table = pd.DataFrame(np.frombuffer(places, dtype=np.int64).reshape(-1, 3))
        distinct = table.drop_duplicates()
        if repeated := len(table) - len(distinct):
            logger.info("%s: %d repeated pairs left out, %d remain", source, repeated, len(distinct))
        for text in corpus:
            documents.setdefault(text, len(documents))
        query_ids, positive_ids, negative_ids = distinct.to_numpy().T.copy()
        return cls(list(queries), list(documents), query_ids, positive_ids, negative_ids, source)

    @classmethod
    def without_pairs(cls, documents: Iterable[str], source: str) -> PairDataset:
        """Build a dataset of documents alone."""
        none = np.empty(0, dtype=np.int64)
        return cls([], list(dict.fromkeys(documents)), none, none, none, source)

    def __len__(self) -> int:
        return len(self.query_ids)

    def rows(self, places: NDArray[np.int64] | None = None) -> Iterator[Row]:
        """Yield ``(query, positive, negative or None)`` of every pair in order, or of the pairs at `places`."""
        columns = (self.query_ids, self.positive_ids, self.negative_ids)
        chosen = columns if places is None else tuple(column[places] for column in columns)
        for query, positive, negative in zip(*chosen, strict=True):
            yield self.queries[query], self.documents[positive], self.documents[negative] if negative >= 0 else None

    def known(self, queries: NDArray[np.int64], documents: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return the matrix of which of some documents is a known positive of which of some queries, both by index."""
        starts, answers = self._answers
        counts = starts[queries + 1] - starts[queries]
        row = np.repeat(np.arange(len(queries)), counts)
        answer = answers[np.arange(len(row)) + np.repeat(starts[queries] - counts.cumsum() + counts, counts)]
        distinct, column = np.unique(documents, return_inverse=True)
        place, after = (np.searchsorted(distinct, answer, side) for side in ("left", "right"))
        matrix = np.zeros((len(queries), len(distinct)), dtype=np.bool_)
        matrix[row[place < after], place[place < after]] = True
        return matrix[:, column]

    def sha256(self) -> str:
        """Return the SHA-256 of the pairs' texts in order, in hexadecimal; the file's format does not enter it."""
        digest = hashlib.sha256()
        for row in self.rows():
            for text in row:
                content = b"" if text is None else text.encode(errors="surrogatepass")
                digest.update(len(content).to_bytes(8, "little") + content)
        return digest.hexdigest()

    def unpaired(self) -> list[str]:
        """Return the documents that are in no pair."""
        paired = {*self.positive_ids.tolist(), *self.negative_ids.tolist()}
        return [text for place, text in enumerate(self.documents) if place not in paired]

    def answers(self, query: int) -> NDArray[np.int64]:
        """Return the known positives of one query, each once."""
        starts, answers = self._answers
        return answers[starts[query] : starts[query + 1]]

    @functools.cached_property
    def all_distinct(self) -> bool:
        """Whether no query and no positive is in two pairs."""
        return len(self.queries) == len(np.unique(self.positive_ids)) == len(self)

    @functools.cached_property
    def _answers(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """``answers[starts[q] : starts[q + 1]]`` are the known positives of query `q`, each once."""
        keys = np.unique(self.query_ids * len(self.documents) + self.positive_ids)
        starts = np.searchsorted(keys, np.arange(len(self.queries) + 1) * len(self.documents))
        return starts, keys % len(self.documents)


def read_pairs(path: str | Path) -> PairDataset:
    """Read training pairs from a JSON array (.json), JSON lines (.jsonl, .ndjson) or CSV with a header (.csv).

    The fields are `query`, `positive` and, optional, `negative` (absent, null or blank where a pair has none). Pairs
    may also be objects with `x` and `y` or lists ``[x, y]``: y is what masking left of x, so x is the positive of y.
    """
    path = records_file(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder, not a file of pairs; a BEIR folder is read by load_collection")
    rows = (row for _, row in parsed_records(path, read_records(path, FIELDS), _row))
    return PairDataset.from_rows(rows, source=str(path))


def write_pairs(path: str | Path, pairs: PairDataset | Iterable[Row]) -> None:
    """Write pairs (`query`, `positive`, perhaps `negative`) as JSON lines (.jsonl, .ndjson) or as an array (.json)."""
    require_json_name(path)
    rows = pairs.rows() if isinstance(pairs, PairDataset) else pairs
    records = ({"query": q, "positive": p} | ({"negative": n} if n else {}) for q, p, n in rows)
    write_json_lines(path, records)


def require_json_name(path: str | Path) -> None:
    """Refuse a file for pairs whose extension is not one of JSON."""
    if Path(path).suffix.lower() not in (".jsonl", ".ndjson", ".json"):
        raise InputError(f"{path}: pairs are written as JSON; name the file .jsonl or .json")


def _row(value: Any) -> Row:
    if isinstance(value, list) and len(value) == 2:
        value = {"x": value[0], "y": value[1]}
    if not isinstance(value, dict):
        raise RecordError(f'expected an object with the fields "query" and "positive", got {type(value).__name__}')
    names = next((names for names in FIELDS if any(name in value for name in names)), FIELDS[0])
    for name in names:
        if not text_field(value, name).strip():
            raise RecordError(f'field "{name}" is empty')
    query, positive = (value[name] for name in names)
    negative = "" if value.get("negative") is None else text_field(value, "negative")
    if negative.strip() == positive.strip():
        raise RecordError("positive and negative are the same text")
    return query, positive, negative if negative.strip() else None


def split_by_shares(items: Sequence[Item], shares: Sequence[float]) -> dict[str, Sequence[Item]]:
    """Return the first items as ``train``, the next as ``dev`` and the last as ``test``, by their shares of all."""
    if len(shares) != len(SPLITS) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise InputError(f"the split must be three fractions that sum to 1 (train, dev, test), got {tuple(shares)}")
    ends = [round(len(items) * sum(shares[:i])) for i in range(len(shares) + 1)]
    return {name: items[start:end] for name, start, end in zip(SPLITS, ends, ends[1:], strict=False)}


def split_pairs(data: PairDataset, shares: Sequence[float], seed: int) -> dict[str, NDArray[np.int64]]:
    """Split pairs so that no query and no positive is in two splits, also but for case and blanks.

    Pairs that share one, directly or through others, stay together: such groups are taken in a random order, and go
    whole to where the share of their first pair lies. The result has the rows of `data`, ascending, by split.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    split_by_shares([], shares)
    queries, documents = text_classes(data.queries), text_classes(data.documents)
    size = len(data.queries) + len(data.documents)
    edges = (queries[data.query_ids], len(data.queries) + documents[data.positive_ids])
    graph = coo_array((np.ones(len(data), dtype=np.bool_), edges), shape=(size, size))
    _, group_of_node = connected_components(graph, directed=False)
    _, group, counts = np.unique(group_of_node[edges[0]], return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(counts))
    starts = np.empty(len(counts), dtype=np.int64)
    starts[order] = np.cumsum(counts[order]) - counts[order]
    ends = [round(len(data) * sum(shares[: i + 1])) for i in range(len(SPLITS))]
    split_of = np.minimum(np.searchsorted(ends, starts, side="right"), len(SPLITS) - 1)[group]
    return {name: np.flatnonzero(split_of == place) for place, name in enumerate(SPLITS)}


def without_leaks(data: PairDataset, splits: Mapping[str, NDArray[np.int64]]) -> tuple[PairDataset, int]:
    """Return all pairs without the hard negatives that are positives of another split, and how many these were."""
    documents = text_classes(data.documents)
    split_of_row = np.full(len(data), -1)
    split_of_class = np.full(len(data.documents), -1)
    for place, rows in enumerate(splits.values()):
        split_of_row[rows] = place
        split_of_class[documents[data.positive_ids[rows]]] = place
    owner = np.where(data.negative_ids >= 0, split_of_class[documents[data.negative_ids]], -1)
    leaks = (owner >= 0) & (owner != split_of_row)
    return replace(data, negative_ids=np.where(leaks, -1, data.negative_ids)), int(leaks.sum())
