"""Hard negatives for training pairs: which candidates may serve, which of them are taken, and what was left out.

Three guards keep answers out: known positives of a query, texts that repeat one, and candidates that score nearly as
high as the positive, which may be answers that nobody marked (Moreira et al., NV-Retriever, arXiv 2407.15831).
Candidates are ranked elsewhere (`ragcun.retrieval.negatives`); the method `random` needs no ranking.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from ragcun.data.mining_report import MinedPairs, MiningReport
from ragcun.data.mining_task import MiningTask
from ragcun.data.pairs import Row

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
