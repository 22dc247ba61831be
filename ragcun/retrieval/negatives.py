"""Mining hard negatives: candidates at random, by BM25 or by an encoder, what must never be one, and the margin."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ragcun.data.pairs import PairDataset, Row
from ragcun.data.texts import text_classes
from ragcun.errors import InputError

if TYPE_CHECKING:
    from ragcun.models.cached_encoder import CachedEncoder

QUERY_BLOCK = 4096
Method = Literal["random", "bm25", "dense"]
Choice = Literal["drawn", "hardest"]
Chosen = dict[tuple[int, int], list[int]]
"""The negatives of each pair of query and positive, by row."""
Ranking = tuple[NDArray[np.int64], NDArray[np.floating[Any]], NDArray[np.floating[Any]]]
"""Candidates of one query in the pool, best first, their scores, and those of ``data.answers(query)``."""
MARGINS = {"random": -math.inf, "bm25": 0.0, "dense": 0.05}
"""The margin of each method where none is given; minus infinity is no guard."""


@dataclass(frozen=True)
class MiningSettings:
    """How hard negatives are mined (ValueError: a setting is out of range).

    A margin m keeps candidates with score ≤ s − m·|s|, s being the score of the pair's positive; None is that of
    `MARGINS`, minus infinity no guard. A pair's draw follows from the seed, its texts and its candidates alone.
    """

    method: Method = "bm25"  # random documents, or the best by BM25 or by an encoder (dense)
    per_query: int = 1  # negatives that each pair gets, where there are so many
    first: int = 0  # candidates are ranks first to last - 1, from 0 and without the query's known positives
    last: int = 100
    margin: float | None = None
    choice: Choice = "drawn"  # from the candidates left, each as likely; or the hardest, in the order of the ranking
    seed: int = 0

    def __post_init__(self) -> None:
        for name, kind in (("method", Method), ("choice", Choice)):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name} must be one of {', '.join(get_args(kind))}, got {getattr(self, name)!r}")
        if self.per_query < 1:
            raise ValueError(f"per_query must be at least 1, got {self.per_query}")
        if not 0 <= self.first < self.last:
            raise ValueError(f"ranks must be 0 <= first < last, got {self.first} and {self.last}")
        if self.margin is not None and not self.margin < 1:
            raise ValueError(f"margin must be below 1, got {self.margin}")

    def threshold(self, score: float) -> float:
        """Return the highest score that a negative may have where the positive has `score`.

        >>> MiningSettings(margin=0.25).threshold(8), MiningSettings(margin=0.25).threshold(-8)
        (6.0, -10.0)
        """
        margin = MARGINS[self.method] if self.margin is None else self.margin
        return math.inf if margin == -math.inf else score - margin * abs(score)


@dataclass(frozen=True)
class MiningReport:
    """What was mined, and what the guards left out."""

    pool: int  # distinct documents that could be negatives
    repeated: int  # documents of the pool left out because they repeat another one
    queries: int
    pairs: int  # distinct pairs of query and positive
    asked: int  # negatives per pair, times pairs
    mined: int
    known_positives: int  # candidates of a query that are known to answer it
    # … that repeat an answer or the query but for case and blanks, or answer a query that differs in these
    duplicates: int
    given: int  # … that a pair of the query has as a negative already
    candidates: int  # candidates of pairs at the ranks asked for, without those
    margin: int  # of these, left out because they score too near the pair's positive
    pairs_with_fewer: int  # negatives than asked for
    pairs_with_none: int
    queries_with_fewer: int  # in at least one pair

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


def mine_negatives(
    rows: Iterable[Row],
    source: str,
    pool: Iterable[str] | None = None,
    known: Iterable[tuple[str, str]] = (),
    *,
    settings: MiningSettings | None = None,
    encoder: CachedEncoder | None = None,
) -> MinedPairs:
    """Return all pairs with hard negatives, a row for each, and how many candidates each guard dropped.

    No negative is the query, a known answer of it, or the same as these but for case and blanks; none scores above the
    margin's threshold (see `MiningSettings`). Negatives that the pairs of `rows` have stay, and are not mined again;
    `source` names them in messages. `pool` are texts that may be negatives (None: the positives of all pairs), `known`
    further ``(query, text)`` of which the text must not be one. The method `dense` ranks by the cosine of `encoder`.

    Raises:
        InputError: there are no pairs, or the pool is empty.
        ValueError: the method is `dense` and there is no encoder.
    """
    settings = MiningSettings() if settings is None else settings
    task, counts = _Task(rows, source, pool, list(known)), Counter[str]()
    rankings: Iterable[Ranking | None] = [None] * len(task.data.queries)
    if settings.method == "bm25":
        rankings = _bm25_rankings(task, settings.last)
    elif settings.method == "dense":
        rankings = _dense_rankings(task, settings.last, encoder)
    chosen: Chosen = {}
    for query, ranking in enumerate(rankings):
        before = counts["pairs_with_fewer"]
        chosen.update(_chosen(task, settings, query, ranking, counts))
        counts["queries_with_fewer"] += counts["pairs_with_fewer"] > before
    counts.update(pool=len(task.pool), repeated=task.repeated, queries=len(task.data.queries))
    report = MiningReport(**{name: counts[name] for name in MiningReport.__annotations__})
    return MinedPairs(list(_rows(task.data, chosen)), report)


class _Task:
    """The pairs, the pool as rows of their documents, and for each query the rows barred from it, with the reason."""

    def __init__(
        self, rows: Iterable[Row], source: str, pool: Iterable[str] | None, known: list[tuple[str, str]]
    ) -> None:
        listed = None if pool is None else [text for text in pool if text.strip()]
        if listed == []:
            raise InputError(f"{source}: the pool of negatives holds no text; give documents that are not blank")
        self.data = data = PairDataset.from_rows(rows, source, (*(listed or ()), *(text for _, text in known)))
        row_of = {text: row for row, text in enumerate(data.documents)}
        query_of = {text: query for query, text in enumerate(data.queries)}
        classes = text_classes([*data.queries, *data.documents]).tolist()
        query_class, document_class = classes[: len(data.queries)], classes[len(data.queries) :]
        candidates = np.unique(data.positive_ids).tolist() if listed is None else [row_of[text] for text in listed]
        member = {document_class[row]: row for row in reversed(candidates)}  # class → its first document in the pool
        self.pool = np.array(list(dict.fromkeys(member[document_class[row]] for row in candidates)))
        self.repeated = len(candidates) - len(self.pool)
        answers = list(zip(data.query_ids.tolist(), data.positive_ids.tolist(), strict=True))
        answers += [(query_of[query], row_of[text]) for query, text in known if query in query_of]
        alike = defaultdict(set, {each: {member[each]} for each in query_class if each in member})  # documents to bar
        for query, row in answers:
            if document_class[row] in member:
                alike[query_class[query]].add(member[document_class[row]])
        self.barred: list[dict[int, str]] = [{} for _ in data.queries]
        for query, row in zip(data.query_ids.tolist(), data.negative_ids.tolist(), strict=True):
            if row >= 0 and document_class[row] in member:
                self.barred[query][member[document_class[row]]] = "given"
        for query, like in enumerate(query_class):
            self.barred[query].update(dict.fromkeys(alike[like], "duplicates"))
        for query, row in answers:
            if row in self.barred[query]:
                self.barred[query][row] = "known_positives"


def _bm25_rankings(task: _Task, last: int) -> Iterator[Ranking]:
    """Rank by BM25 among all documents; those that share no word with a query are no candidates."""
    from ragcun.retrieval import bm25

    index = bm25.BM25({f"{row:09}": text for row, text in enumerate(task.data.documents)})  # by row
    for query, words in enumerate(tqdm(index.tokenize(task.data.queries), "BM25 negatives", delay=2, leave=False)):
        scores = index.scores(words)
        in_pool = scores[task.pool]
        best = bm25.best_rows(in_pool, last + len(task.barred[query]))
        yield task.pool[best], in_pool[best], scores[task.data.answers(query)]


def _dense_rankings(task: _Task, last: int, encoder: CachedEncoder | None) -> Iterator[Ranking]:
    from ragcun.retrieval.search import scores_of, top_k  # imports torch, which the other methods do without

    if encoder is None:
        raise ValueError("the method 'dense' needs an encoder, got None")
    documents, queries = encoder.encode_document(task.data.documents), encoder.encode_query(task.data.queries)
    pool, k = documents[task.pool], last + max(map(len, task.barred))
    for start in tqdm(range(0, len(queries), QUERY_BLOCK), "dense negatives", unit="block", delay=2, leave=False):
        found = top_k(queries[start : start + QUERY_BLOCK], pool, k, "cosine")
        for query, (scores, best) in enumerate(zip(found.scores, found.indices, strict=True), start):
            answers = task.data.answers(query)
            yield task.pool[best], scores, scores_of(documents, "cosine", queries[query], answers)


def _chosen(
    task: _Task, settings: MiningSettings, query: int, ranking: Ranking | None, counts: Counter[str]
) -> Iterator[tuple[tuple[int, int], list[int]]]:
    """Yield each pair of a query and one of its known positives, and the negatives chosen for it."""
    barred = task.barred[query]
    if ranking:
        rows, scores = _free(barred, ranking, settings, counts)
    for place, answer in enumerate(task.data.answers(query).tolist()):
        texts = f"{settings.seed} {task.data.queries[query]}\0{task.data.documents[answer]}"
        rng = random.Random(texts.encode(errors="surrogatepass"))
        if ranking is None:
            size = min(len(task.pool), settings.per_query + len(barred))
            drawn = task.pool[rng.sample(range(len(task.pool)), size)].tolist()
            counts.update(barred[row] for row in drawn if row in barred)
            left = [row for row in drawn if row not in barred]
            counts["candidates"] += len(left)
        else:
            left = rows[scores <= settings.threshold(float(ranking[2][place]))].tolist()
            counts.update(candidates=len(rows), margin=len(rows) - len(left))
            if settings.choice == "drawn":
                left = rng.sample(left, min(settings.per_query, len(left)))
        negatives = left[: settings.per_query]
        fewer = {"pairs_with_fewer": len(negatives) < settings.per_query, "pairs_with_none": not negatives}
        counts.update(pairs=1, asked=settings.per_query, mined=len(negatives), **fewer)
        yield (query, answer), negatives


def _free(
    barred: dict[int, str], ranking: Ranking, settings: MiningSettings, counts: Counter[str]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the candidates at the ranks asked for, which count without those that are barred, and their scores."""
    is_barred = np.isin(ranking[0], list(barred))
    counts.update(barred[row] for row in ranking[0][is_barred & (np.cumsum(~is_barred) < settings.last)].tolist())
    ranks = np.flatnonzero(~is_barred)[settings.first : settings.last]
    return ranking[0][ranks], ranking[1][ranks].astype(np.float64)


def _rows(data: PairDataset, chosen: Chosen) -> Iterator[Row]:
    """Yield the rows of each pair, in the order in which the pairs first stand in the data."""
    given: Chosen = {}
    for query, positive, negative in zip(data.query_ids, data.positive_ids, data.negative_ids, strict=True):
        given.setdefault((int(query), int(positive)), []).extend([int(negative)] if negative >= 0 else [])
    for (query, positive), negatives in given.items():
        texts = [data.documents[row] for row in (*negatives, *chosen[query, positive])]
        yield from ((data.queries[query], data.documents[positive], text) for text in texts or (None,))
