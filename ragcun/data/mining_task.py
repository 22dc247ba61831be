"""What hard negatives are mined for and from: pairs, a pool of documents, and which of these may never be mined."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ragcun.data.near_duplicates import text_classes
from ragcun.data.pairs import PairDataset, Row
from ragcun.errors import InputError

Rows = NDArray[np.int64]
NOWHERE = -1


@dataclass(frozen=True, eq=False)
class Links:
    """Lists of numbers, one after another: those of `i` are ``values[starts[i] : starts[i + 1]]``, ascending."""

    starts: Rows
    values: Rows

    @classmethod
    def of(cls, keys: Rows, values: Rows, size: int) -> Links:
        """Link each of `keys`, below `size`, with the number at its place in `values`; each link counts once."""
        links = np.unique(np.stack([keys, values], axis=1), axis=0)
        return cls(np.searchsorted(links[:, 0], np.arange(size + 1)), links[:, 1])

    def __getitem__(self, key: int) -> Rows:
        return self.values[self.starts[key] : self.starts[key + 1]]


@dataclass(frozen=True, eq=False)
class MiningTask:
    """Pairs that are to have hard negatives, and the documents that these may come from.

    Attributes:
        data: the pairs; its documents are their texts, the pool and further known answers.
        pool: rows of ``data.documents`` that may be negatives, no two the same but for case and blanks, in its order.
        repeated: how many documents of the pool are left out of it because they repeat another one.
        known: query → rows that are known to answer it.
        given: query → rows that a pair of it has as a negative.
        alike: query → rows of the pool that are the same as an answer of the query, or of one like it.
    """

    data: PairDataset
    pool: Rows
    repeated: int
    known: Links
    given: Links
    alike: Links

    @classmethod
    def from_rows(
        cls,
        rows: Iterable[Row],
        source: str,
        pool: Iterable[str] | None = None,
        known: Iterable[tuple[str, str]] = (),
    ) -> MiningTask:
        """Build the task.

        Args:
            rows: the pairs, perhaps with negatives already.
            source: where they come from.
            pool: texts that may be negatives; None takes the positives of all pairs. Blank ones are left out.
            known: further ``(query, text)`` of which the text must not be a negative of the query.

        Raises:
            InputError: there are no pairs, or the pool is empty.
        """
        known, listed = list(known), None if pool is None else [text for text in pool if text.strip()]
        if listed is not None and not listed:
            raise InputError(f"{source}: the pool of negatives holds no text; give documents that are not blank")
        data = PairDataset.from_rows(rows, source, (*(listed or ()), *(text for _, text in known)))
        queries, answers = _answers(data, known)
        row_of = {text: row for row, text in enumerate(data.documents)}
        texts = [data.documents[row] for row in np.unique(data.positive_ids)] if listed is None else listed
        like = text_classes(data.documents)
        distinct = _first_of_each_class(like, np.array([row_of[text] for text in texts], dtype=np.int64))
        member = np.full(len(data.documents), NOWHERE, dtype=np.int64)
        member[like[distinct]] = distinct
        size, has_negative = len(data.queries), data.negative_ids >= 0
        return cls(
            data,
            distinct,
            len(texts) - len(distinct),
            known=Links.of(queries, answers, size),
            given=Links.of(data.query_ids[has_negative], member[like[data.negative_ids[has_negative]]], size),
            alike=_of_queries_alike(text_classes(data.queries), queries, member[like[answers]]),
        )

    def barred(self, query: int) -> Rows:
        """Return the rows of the pool that must not be mined for a query."""
        rows = np.union1d(self.alike[query], self.given[query])
        return rows[rows != NOWHERE]

    def most_barred(self) -> int:
        """Return the largest number of rows that a query bars."""
        return int((np.diff(self.alike.starts) + np.diff(self.given.starts)).max())

    def reasons(self, query: int, rows: Rows) -> dict[str, int]:
        """Count why rows that are barred for a query are: the first of known positive, duplicate, given negative."""
        known = int(np.isin(rows, self.known[query]).sum())
        alike = int(np.isin(rows, self.alike[query]).sum())
        return {"known_positives": known, "duplicates": alike - known, "given": len(rows) - alike}


def _answers(data: PairDataset, known: list[tuple[str, str]]) -> tuple[Rows, Rows]:
    """Return all known ``(query, answer)``, as two columns of rows."""
    query_of = {text: row for row, text in enumerate(data.queries)}
    row_of = {text: row for row, text in enumerate(data.documents)}
    more = [(query_of[query], row_of[text]) for query, text in known if query in query_of]
    columns = np.array(more, dtype=np.int64).reshape(-1, 2).T
    return np.concatenate([data.query_ids, columns[0]]), np.concatenate([data.positive_ids, columns[1]])


def _first_of_each_class(classes: Rows, rows: Rows) -> Rows:
    """Return the first of some rows in each class, in their order."""
    _, first = np.unique(classes[rows], return_index=True)
    return rows[np.sort(first)]


def _of_queries_alike(classes: Rows, queries: Rows, answers: Rows) -> Links:
    """Link each query with the answers of all queries of its class, those that are nowhere left out."""
    there = answers != NOWHERE
    of_class = Links.of(classes[queries[there]], answers[there], len(classes))
    sizes = np.diff(of_class.starts)[classes]
    rows = np.concatenate([of_class[query_class] for query_class in classes.tolist()])
    return Links.of(np.repeat(np.arange(len(classes)), sizes), rows, len(classes))
