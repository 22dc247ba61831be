"""Training pairs: a query, a document that answers it, and sometimes a hard negative; and splits of them."""

from __future__ import annotations

import functools
import hashlib
import logging
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice, product, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ragcun.data.records import (
    LABEL,
    NAMES,
    NEGATIVE,
    RecordError,
    named,
    parsed_records,
    records_file,
    text_field,
    text_fields,
)
from ragcun.data.texts import text_classes
from ragcun.errors import InputError
from ragcun.io import write_json_lines

if TYPE_CHECKING:
    from scipy.sparse import csr_array

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Row = tuple[str, str, "str | None"]
Record = tuple[str, list[str], list[str], list[float], "bool | None", set[str]]
"""Query, positives, negatives, a teacher's scores of these, label, unread fields."""
Scores = dict[str, dict[str, float]]
"""A teacher's scores by the texts of query and document."""
LARGEST = float(np.finfo(np.float32).max)
"""The largest score that training, in float32, can learn."""
SPLITS = ("train", "dev", "test")
NO_NEGATIVE: Sequence[Any] = (None,)
LABELS = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}


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
        known: NDArray[np.bool_] = self._positives[queries][:, documents].toarray()
        return known

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
        return np.asarray(self._positives[[query]].indices)

    def answer_counts(self) -> NDArray[np.int64]:
        """Return the number of known positives of each query."""
        return np.diff(self._positives.indptr)

    @functools.cached_property
    def all_distinct(self) -> bool:
        """Whether no query and no positive is in two pairs."""
        return len(self.queries) == len(np.unique(self.positive_ids)) == len(self)

    @functools.cached_property
    def _positives(self) -> csr_array:
        """The queries (rows) and the documents (columns) that are known to answer them."""
        from scipy.sparse import csr_array

        shape = (len(self.queries), len(self.documents))
        return csr_array((np.ones(len(self), dtype=np.bool_), (self.query_ids, self.positive_ids)), shape=shape)


def read_pairs(path: str | Path, scores: Scores | None = None) -> PairDataset:
    """Read training pairs from a file of records (see `read_records`), or a data set of the hub, owner/name.

    The fields are `query`, `positive` and, optional, `negative` (also `negative_1` …; absent, null or blank: none), or
    others of `NAMES` and `NEGATIVE`. Lists are several texts; each negative makes a row of its own. With a `label`, 0
    makes the positive a negative of its query's answers. Pairs may also be objects with `x` and `y` or lists
    ``[x, y]``: y is what masking left of x, so x is the positive of y.

    A list `scores` has a teacher's scores of positives and negatives, in their order. They are put into `scores` (None:
    refused); of several for a query and a document the last counts.
    """
    path = records_file(path)
    return PairDataset.from_rows(_rows(parsed_records(path, _record), str(path), scores), source=str(path))


def write_pairs(path: str | Path, rows: Iterable[Row]) -> None:
    """Write pairs (`query`, `positive`, perhaps `negative`) as JSON lines (.jsonl, .ndjson) or as an array (.json)."""
    require_json_name(path)
    write_json_lines(path, ({"query": q, "positive": p} | ({"negative": n} if n else {}) for q, p, n in rows))


def require_json_name(path: str | Path) -> None:
    """Refuse a file for pairs whose extension is not one of JSON."""
    if Path(path).suffix.lower() not in (".jsonl", ".ndjson", ".json"):
        raise InputError(f"{path}: pairs are written as JSON; name the file .jsonl or .json")


@functools.lru_cache(maxsize=1000)
def _fields(*names: str) -> tuple[str, str, list[str], str | None, set[str]]:
    """Return the names of query, positive, negatives and label in a record, and those of fields that are not read."""
    masked = not {*NAMES["query"]} & {*names} and {"x", "y"} & {*names}
    query, positive = (named(names, each) for each in ("yx" if masked else ("query", "positive")))
    negatives = list(filter(NEGATIVE.fullmatch, names))
    label = next(filter(LABEL.fullmatch, names), None)
    return query, positive, negatives, label, {*names} - {query, positive, *negatives, label}


def _record(value: Any) -> Record:
    if isinstance(value, list) and len(value) == 2:
        value = {"x": value[0], "y": value[1]}
    if not isinstance(value, dict):
        raise RecordError(f'expected an object with the fields "query" and "positive", got {type(value).__name__}')
    scores = value.pop("scores") or [] if isinstance(value.get("scores", 0), list | None) else []
    query_name, positive_name, negative_names, label_name, others = _fields(*value)
    query, positives = text_field(value, query_name), text_fields(value, positive_name)
    if not query.strip() or not positives:
        raise RecordError(f'field "{positive_name if query.strip() else query_name}" is empty')
    negatives = [text for name in negative_names for text in text_fields(value, name)]
    if negatives and {text.strip() for text in negatives} & {text.strip() for text in positives}:
        raise RecordError("positive and negative are the same text")
    numbers = [score for score in scores if type(score) in (int, float) and abs(score) <= LARGEST]
    if scores and not (len(numbers) == len(scores) == len(positives + negatives)):
        expected = f"finite float32 numbers, {len(positives)} of positives, then {len(negatives)} of negatives"
        raise RecordError(f'field "scores" must hold {expected}, got {scores!r:.60}')
    label = None
    if label_name is not None:
        label = LABELS.get(str(value[label_name]).strip().lower())
        if label is None or (negatives and not label):
            expected = f'field "{label_name}" must be 1 (an answer) or 0 (none, and no negatives beside it)'
            raise RecordError(f"{expected}, got {value[label_name]!r:.40}; a teacher's scores are a list")
    return query, positives, negatives, numbers, label, others


def _rows(records: Iterable[tuple[int, Record]], source: str, scores: Scores | None) -> Iterator[Row]:
    """Yield a row for each positive and negative of a record, then those of labelled ones, together by their query."""
    labelled: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    others: set[str] = set()
    for line, (query, positives, negatives, numbers, label, unread) in records:
        others |= unread
        if scores is not None:
            scores.setdefault(query, {}).update(zip(positives + negatives, numbers, strict=False))
        elif numbers:
            remedy = "add --contrastive kl or margin_mse and no --teacher, or delete the field"
            raise InputError(f"{source}, line {line}: a loss that learns `scores` is missing; {remedy}")
        if label is None or negatives:
            yield from product([query], positives, negatives or NO_NEGATIVE)
        else:
            labelled.setdefault(query, ({}, {}))[not label].update(dict.fromkeys(positives))
    left_out = 0
    for query, (answers, wrong) in labelled.items():
        rejected = [text for text in wrong if answers and text not in answers]
        left_out += len(wrong) - len(rejected)
        count = max(len(answers), len(rejected))
        yield from islice(zip(repeat(query), cycle(answers), cycle(rejected or NO_NEGATIVE), strict=False), count)
    if left_out:
        logger.info("%s: %d texts labelled 0 left out: their query has no answer, or the text is one", source, left_out)
    if others:
        logger.info("%s: unused columns: %s", source, ", ".join(f"{name!a:.40}" for name in sorted(others)))


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
