"""What mining hard negatives gave, and what its guards dropped."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from ragcun.data.dedup import text_classes
from ragcun.data.pairs import PairDataset, Row
from ragcun.errors import InputError


@dataclass(frozen=True)
class MiningReport:
    """What was mined, and what the guards dropped.

    Attributes:
        pool: how many distinct documents could be negatives.
        repeated: how many documents of the pool repeat another one and were left out.
        queries: how many queries.
        pairs: how many distinct pairs of query and positive.
        asked: how many negatives were asked for: per query and pair, times pairs.
        mined: how many were found.
        known_positives: candidates of a query left out because they are known to answer it.
        duplicates: candidates of a query left out because they repeat an answer but for case and blanks, or answer a
            query that differs in these only.
        given: candidates of a query left out because a pair of it has them as a negative already.
        candidates: candidates of pairs at the ranks asked for, without those.
        margin: how many of these were left out because they score too near the pair's positive.
        pairs_with_fewer: pairs with fewer negatives than asked for, those with none among them.
        pairs_with_none: pairs without a mined negative.
        queries_with_fewer: queries with such a pair.
    """

    pool: int
    repeated: int
    queries: int
    pairs: int
    asked: int
    mined: int
    known_positives: int
    duplicates: int
    given: int
    candidates: int
    margin: int
    pairs_with_fewer: int
    pairs_with_none: int
    queries_with_fewer: int

    def to_dict(self) -> dict[str, int]:
        """Return the counts by name."""
        return asdict(self)

    def __str__(self) -> str:
        left_out = f"{self.known_positives} known positives, {self.duplicates} duplicates, {self.margin} by the margin"
        return (
            f"{self.mined} of {self.asked} negatives for {self.pairs} pairs from {self.pool} documents; left out: "
            f"{left_out}; fewer than asked for: {self.pairs_with_fewer} pairs ({self.pairs_with_none} have none)"
        )


class MinedPairs(NamedTuple):
    """Pairs with their negatives, a row for each, and the counts."""

    rows: list[Row]
    report: MiningReport


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


Method = Literal["random", "bm25", "dense"]
Choice = Literal["drawn", "hardest"]
MARGINS = {"random": -math.inf, "bm25": 0.0, "dense": 0.05}
"""The margin of each method where none is given; minus infinity is no guard."""


@dataclass(frozen=True)
class MiningSettings:
    """How hard negatives are mined.

    Attributes:
        method: where candidates come from: `random` documents, or the best of `bm25` or of an encoder (`dense`).
        per_query: how many negatives each pair gets, where there are so many.
        first: ranks above this one are passed over, counted from 0 without the query's known positives.
        last: the first rank that is no longer taken; 0 to 100 is the top 100. `random` has no ranks.
        margin: m keeps candidates with score ≤ s − m·|s|, s being the score of the pair's positive: at most (1 − m)·s
            where s is positive. None is `MARGINS`, minus infinity no guard.
        choice: `drawn` from what is left, each as likely, or the `hardest` of it, in the order of the ranking.
        seed: of what is drawn; a pair's draw follows from it, the pair's texts and its candidates alone.

    Raises:
        ValueError: a setting is out of range.
    """

    method: Method = "bm25"
    per_query: int = 1
    first: int = 0
    last: int = 100
    margin: float | None = None
    choice: Choice = "drawn"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, kind in (("method", Method), ("choice", Choice)):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name} must be one of {', '.join(get_args(kind))}, got {getattr(self, name)!r}")
        if self.per_query < 1:
            raise ValueError(f"per_query must be at least 1, got {self.per_query}")
        if not 0 <= self.first < self.last:
            raise ValueError(f"ranks must be 0 <= first < last, got {self.first} and {self.last}")
        if not self.effective_margin < 1:
            raise ValueError(f"margin must be below 1, got {self.margin}")

    @property
    def effective_margin(self) -> float:
        """The margin given, or the method's."""
        return MARGINS[self.method] if self.margin is None else self.margin

    def threshold(self, score: float) -> float:
        """Return the highest score that a negative may have where the positive has `score`.

        >>> MiningSettings(margin=0.25).threshold(8), MiningSettings(margin=0.25).threshold(-8)
        (6.0, -10.0)
        """
        return math.inf if self.effective_margin == -math.inf else score - self.effective_margin * abs(score)


class Ranking(NamedTuple):
    """The candidates of one query, best first, and how its known positives score.

    Attributes:
        documents: rows of the task's pool, `last` of them after barred ones are left out, if there are so many.
        scores: of these, descending.
        positive_scores: of ``data.answers(query)``, in that order.
    """

    documents: NDArray[np.int64]
    scores: NDArray[np.floating[Any]]
    positive_scores: NDArray[np.floating[Any]]


def choose_negatives(
    task: MiningTask, settings: MiningSettings, rankings: Iterable[Ranking] | None = None
) -> MinedPairs:
    """Return the pairs of a task with negatives: a row for each, those that a pair had first.

    A pair for which there are none at all stays as one without.

    Args:
        task: the pairs, the pool, and what may never be mined.
        settings: how to choose.
        rankings: the candidates of each query of ``task.data``, in its order; None for the method `random`.
    """
    counts: Counter[str] = Counter()
    chosen: list[list[tuple[int, list[int]]]] = []
    if rankings is None:
        chosen.extend(_drawn_from_pool(task, settings, query, counts) for query in range(len(task.data.queries)))
    else:
        chosen.extend(_chosen(task, settings, query, ranking, counts) for query, ranking in enumerate(rankings))
    by_pair = {(query, answer): found for query, pairs in enumerate(chosen) for answer, found in pairs}
    rows = list(_rows(task, by_pair))
    missing = {pair: settings.per_query - len(found) for pair, found in by_pair.items()}
    report = MiningReport(
        pool=len(task.pool),
        repeated=task.repeated,
        queries=len(task.data.queries),
        pairs=len(by_pair),
        asked=settings.per_query * len(by_pair),
        mined=sum(map(len, by_pair.values())),
        **{name: counts[name] for name in ("known_positives", "duplicates", "given", "candidates", "margin")},
        pairs_with_fewer=sum(count > 0 for count in missing.values()),
        pairs_with_none=sum(not found for found in by_pair.values()),
        queries_with_fewer=len({query for (query, _), count in missing.items() if count}),
    )
    return MinedPairs(rows, report)


def _chosen(
    task: MiningTask, settings: MiningSettings, query: int, ranking: Ranking, counts: Counter[str]
) -> list[tuple[int, list[int]]]:
    """Return for each known positive of a query the negatives chosen among its candidates."""
    barred = task.barred(query)
    free = ~np.isin(ranking.documents, barred)
    end = int(np.searchsorted(np.cumsum(free), settings.last)) + 1
    counts.update(task.reasons(query, ranking.documents[:end][~free[:end]]))
    window = np.flatnonzero(free)[settings.first : settings.last]
    candidates, scores = ranking.documents[window].tolist(), ranking.scores[window].tolist()
    pairs = []
    for answer, score in zip(task.data.answers(query).tolist(), ranking.positive_scores.tolist(), strict=True):
        most = settings.threshold(score)
        left = [document for document, other in zip(candidates, scores, strict=True) if other <= most]
        counts.update(candidates=len(candidates), margin=len(candidates) - len(left))
        count = min(settings.per_query, len(left))
        hardest = settings.choice == "hardest"
        pairs.append((answer, left[:count] if hardest else _random(task, settings, query, answer).sample(left, count)))
    return pairs


def _drawn_from_pool(
    task: MiningTask, settings: MiningSettings, query: int, counts: Counter[str]
) -> list[tuple[int, list[int]]]:
    """Return for each known positive of a query negatives drawn from the whole pool."""
    barred = task.barred(query)
    pairs = []
    for answer in task.data.answers(query).tolist():
        size = min(len(task.pool), settings.per_query + len(barred))
        drawn = task.pool[_random(task, settings, query, answer).sample(range(len(task.pool)), size)]
        free = ~np.isin(drawn, barred)
        if not free.all():
            counts.update(task.reasons(query, drawn[~free]))
        counts.update(candidates=int(free.sum()))
        pairs.append((answer, drawn[free][: settings.per_query].tolist()))
    return pairs


def _random(task: MiningTask, settings: MiningSettings, query: int, answer: int) -> random.Random:
    texts = f"{settings.seed} {task.data.queries[query]}\0{task.data.documents[answer]}"
    return random.Random(texts.encode(errors="surrogatepass"))


def _rows(task: MiningTask, by_pair: dict[tuple[int, int], list[int]]) -> Iterator[Row]:
    """Yield the rows of each pair, in the order in which the pairs first stand in the data."""
    data = task.data
    given: dict[tuple[int, int], list[int]] = {}
    for query, positive, negative in zip(data.query_ids, data.positive_ids, data.negative_ids, strict=True):
        given.setdefault((int(query), int(positive)), []).extend([int(negative)] if negative >= 0 else [])
    for (query, positive), negatives in given.items():
        texts = [data.documents[row] for row in (*negatives, *by_pair[query, positive])]
        yield from ((data.queries[query], data.documents[positive], text) for text in texts or (None,))
