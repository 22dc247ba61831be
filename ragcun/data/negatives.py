"""Choosing hard negatives among candidates: what must never be one, the margin, and what each guard left out."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
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
    """What was mined, and what the guards left out.

    Attributes:
        pool: distinct documents that could be negatives.
        repeated: documents of the pool left out because they repeat another one.
        queries, pairs: distinct queries, and distinct pairs of query and positive.
        asked: negatives asked for: per query and pair, times pairs.
        mined: negatives found.
        known_positives: candidates of a query left out because they are known to answer it.
        duplicates: … because they repeat an answer but for case and blanks, or answer a query that differs in these.
        given: … because a pair of the query has them as a negative already.
        candidates: candidates of pairs at the ranks asked for, without those.
        margin: of these, left out because they score too near the pair's positive.
        pairs_with_fewer: pairs with fewer negatives than asked for.
        pairs_with_none: pairs without a mined negative.
        queries_with_fewer: queries with a pair that has fewer.
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


@dataclass(frozen=True, eq=False)
class MiningTask:
    """Pairs that are to have hard negatives, and the documents that these may come from; texts are rows of `data`.

    Attributes:
        data: the pairs; its documents are their texts, the pool and further known answers.
        pool: the documents that may be negatives, no two the same but for case and blanks.
        repeated: how many are left out of the pool because they repeat another one.
        known: query → documents that are known to answer it.
        alike: query → documents of the pool that are the same as an answer of the query, or of one like it.
        given: query → documents of the pool that a pair of it has as a negative.
    """

    data: PairDataset
    pool: NDArray[np.int64]
    repeated: int
    known: dict[int, set[int]]
    alike: dict[int, set[int]]
    given: dict[int, set[int]]

    @classmethod
    def from_rows(
        cls,
        rows: Iterable[Row],
        source: str,
        pool: Iterable[str] | None = None,
        known: Iterable[tuple[str, str]] = (),
    ) -> MiningTask:
        """Build the task from pairs, perhaps with negatives, texts that may be negatives, and further known answers.

        Raises:
            InputError: there are no pairs, or the pool is empty.
        """
        more, listed = list(known), None if pool is None else [text for text in pool if text.strip()]
        if listed is not None and not listed:
            raise InputError(f"{source}: the pool of negatives holds no text; give documents that are not blank")
        data = PairDataset.from_rows(rows, source, (*(listed or ()), *(text for _, text in more)))
        row_of = {text: row for row, text in enumerate(data.documents)}
        query_of = {text: query for query, text in enumerate(data.queries)}
        texts = [data.documents[row] for row in np.unique(data.positive_ids)] if listed is None else listed
        document_class, query_class = text_classes(data.documents).tolist(), text_classes(data.queries).tolist()
        member: dict[int, int] = {}
        for text in texts:
            member.setdefault(document_class[row_of[text]], row_of[text])

        answered: defaultdict[int, set[int]] = defaultdict(set)
        of_class: defaultdict[int, set[int]] = defaultdict(set)
        given: defaultdict[int, set[int]] = defaultdict(set)
        answers = list(zip(data.query_ids.tolist(), data.positive_ids.tolist(), strict=True))
        answers += [(query_of[query], row_of[text]) for query, text in more if query in query_of]
        for query, row in answers:
            answered[query].add(row)
            if document_class[row] in member:
                of_class[query_class[query]].add(member[document_class[row]])
        for query, row in zip(data.query_ids.tolist(), data.negative_ids.tolist(), strict=True):
            if row >= 0 and document_class[row] in member:
                given[query].add(member[document_class[row]])
        alike = {query: of_class[like] for query, like in enumerate(query_class)}
        distinct = np.fromiter(member.values(), dtype=np.int64, count=len(member))
        return cls(data, distinct, len(texts) - len(distinct), dict(answered), alike, dict(given))

    def barred(self, query: int) -> dict[int, str]:
        """Return the rows of the pool that must not be mined for a query, each with the reason, a count's name."""
        reasons = dict.fromkeys(self.given.get(query, ()), "given")
        known = self.known[query]
        return reasons | {row: "known_positives" if row in known else "duplicates" for row in self.alike[query]}

    def most_barred(self) -> int:
        """Return the largest number of rows that a query bars."""
        return max(len(self.barred(query)) for query in range(len(self.data.queries)))


Method = Literal["random", "bm25", "dense"]
Choice = Literal["drawn", "hardest"]
MARGINS = {"random": -math.inf, "bm25": 0.0, "dense": 0.05}
"""The margin of each method where none is given; minus infinity is no guard."""


@dataclass(frozen=True)
class MiningSettings:
    """How hard negatives are mined.

    Attributes:
        method: `random` documents, or the best by `bm25` or by an encoder (`dense`).
        per_query: how many negatives each pair gets, where there are so many.
        first, last: candidates are ranks first to last - 1, counted from 0 without the query's known positives.
        margin: m keeps candidates with score ≤ s − m·|s|, s being the score of the pair's positive; None is `MARGINS`,
            minus infinity no guard.
        choice: `drawn` from the candidates left, each as likely, or the `hardest`, in the order of the ranking.
        seed: a pair's draw follows from it, the pair's texts and its candidates alone.

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
    """Return the pairs of a task with negatives, a row for each, those that a pair had first; all pairs stay.

    `rankings` are the candidates of each query of ``task.data``, in its order; None for the method `random`.
    """
    counts: Counter[str] = Counter()
    chosen: dict[tuple[int, int], list[int]] = {}
    for query, ranking in enumerate(rankings if rankings is not None else [None] * len(task.data.queries)):
        if ranking is None:
            chosen.update(_drawn_from_pool(task, settings, query, counts))
        else:
            chosen.update(_chosen(task, settings, query, ranking, counts))
    missing = {pair: settings.per_query - len(found) for pair, found in chosen.items()}
    report = MiningReport(
        pool=len(task.pool),
        repeated=task.repeated,
        queries=len(task.data.queries),
        pairs=len(chosen),
        asked=settings.per_query * len(chosen),
        mined=sum(map(len, chosen.values())),
        **{name: counts[name] for name in ("known_positives", "duplicates", "given", "candidates", "margin")},
        pairs_with_fewer=sum(count > 0 for count in missing.values()),
        pairs_with_none=sum(not found for found in chosen.values()),
        queries_with_fewer=len({query for (query, _), count in missing.items() if count}),
    )
    return MinedPairs(list(_rows(task, chosen)), report)


Choices = Iterator[tuple[tuple[int, int], list[int]]]


def _chosen(task: MiningTask, settings: MiningSettings, query: int, ranking: Ranking, counts: Counter[str]) -> Choices:
    """Yield for each known positive of a query, as a pair with it, the negatives chosen among its candidates."""
    barred = task.barred(query)
    free: list[tuple[int, float]] = []
    for document, score in zip(ranking.documents.tolist(), ranking.scores.tolist(), strict=True):
        if len(free) == settings.last:
            break
        if document in barred:
            counts[barred[document]] += 1
        else:
            free.append((document, score))
    candidates = free[settings.first :]
    for answer, score in zip(task.data.answers(query).tolist(), ranking.positive_scores.tolist(), strict=True):
        most = settings.threshold(score)
        left = [document for document, other in candidates if other <= most]
        counts.update(candidates=len(candidates), margin=len(candidates) - len(left))
        count = min(settings.per_query, len(left))
        hardest = settings.choice == "hardest"
        yield (query, answer), left[:count] if hardest else _random(task, settings, query, answer).sample(left, count)


def _drawn_from_pool(task: MiningTask, settings: MiningSettings, query: int, counts: Counter[str]) -> Choices:
    """Yield for each known positive of a query, as a pair with it, negatives drawn from the whole pool."""
    barred = task.barred(query)
    for answer in task.data.answers(query).tolist():
        size = min(len(task.pool), settings.per_query + len(barred))
        drawn = task.pool[_random(task, settings, query, answer).sample(range(len(task.pool)), size)].tolist()
        free = [row for row in drawn if row not in barred]
        counts.update(barred[row] for row in drawn if row in barred)
        counts.update(candidates=len(free))
        yield (query, answer), free[: settings.per_query]


def _random(task: MiningTask, settings: MiningSettings, query: int, answer: int) -> random.Random:
    texts = f"{settings.seed} {task.data.queries[query]}\0{task.data.documents[answer]}"
    return random.Random(texts.encode(errors="surrogatepass"))


def _rows(task: MiningTask, chosen: dict[tuple[int, int], list[int]]) -> Iterator[Row]:
    """Yield the rows of each pair, in the order in which the pairs first stand in the data."""
    data = task.data
    given: dict[tuple[int, int], list[int]] = {}
    for query, positive, negative in zip(data.query_ids, data.positive_ids, data.negative_ids, strict=True):
        given.setdefault((int(query), int(positive)), []).extend([int(negative)] if negative >= 0 else [])
    for (query, positive), negatives in given.items():
        texts = [data.documents[row] for row in (*negatives, *chosen[query, positive])]
        yield from ((data.queries[query], data.documents[positive], text) for text in texts or (None,))
