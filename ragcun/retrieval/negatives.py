"""Mining hard negatives: candidates by BM25 or by an encoder, for `ragcun.data.negatives` to choose from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ragcun.data.negatives import MinedPairs, MiningSettings, MiningTask, Ranking, choose_negatives
from ragcun.data.pairs import Row
from ragcun.retrieval import bm25

if TYPE_CHECKING:
    from ragcun.retrieval.evaluate import TextEncoder

QUERY_BLOCK = 4096


def mine_negatives(
    rows: Iterable[Row],
    source: str,
    pool: Iterable[str] | None = None,
    known: Iterable[tuple[str, str]] = (),
    *,
    settings: MiningSettings | None = None,
    encoder: TextEncoder | None = None,
) -> MinedPairs:
    """Return pairs with hard negatives, a row for each, and how many candidates each guard dropped.

    No negative is a known answer of its query, nor the same as one but for case and blanks; none scores above the
    margin's threshold (see `MiningSettings`). The result follows from the arguments alone.

    Args:
        rows: the pairs; negatives that they have stay, and are not mined again.
        source: where they come from, for messages.
        pool: texts that may be negatives; None takes the positives of all pairs.
        known: further ``(query, text)`` of which the text must not be a negative of the query.
        settings: how to mine; None is `MiningSettings()`, which is BM25.
        encoder: ranks by the cosine of its embeddings; needed by the method `dense`, and by it alone.

    Raises:
        InputError: there are no pairs.
        ValueError: the method is `dense` and there is no encoder.
    """
    settings = MiningSettings() if settings is None else settings
    task = MiningTask.from_rows(rows, source, pool, known)
    if settings.method == "random":
        return choose_negatives(task, settings)
    if settings.method == "bm25":
        return choose_negatives(task, settings, bm25_rankings(task, settings.last))
    if encoder is None:
        raise ValueError("the method 'dense' needs an encoder, got None")
    return choose_negatives(task, settings, dense_rankings(task, settings.last, encoder))


def bm25_rankings(task: MiningTask, last: int) -> Iterator[Ranking]:
    """Yield the candidates of each query by BM25 among all documents of the task.

    Documents that share no word with a query are no candidates.
    """
    index = bm25.BM25(dict(enumerate(task.data.documents)))  # type: ignore[arg-type]
    tokens = bm25.tokenize(task.data.queries)
    for query, words in enumerate(tqdm(tokens, "BM25 negatives", delay=2, leave=False)):
        scores = index.scores(words)
        in_pool = scores[task.pool]
        best = bm25.best_rows(in_pool, last + len(task.barred(query)))
        yield Ranking(task.pool[best], in_pool[best], scores[task.data.answers(query)])


def dense_rankings(task: MiningTask, last: int, encoder: TextEncoder) -> Iterator[Ranking]:
    """Yield the candidates of each query by the cosine of embeddings, exactly."""
    from ragcun.retrieval.search import top_k  # imports torch, which the other methods do without

    data = task.data
    documents, queries = encoder.encode_document(data.documents), encoder.encode_query(data.queries)
    pool = documents[task.pool]
    k = last + task.most_barred()
    for start in tqdm(range(0, len(queries), QUERY_BLOCK), "dense negatives", unit="block", delay=2, leave=False):
        found = top_k(queries[start : start + QUERY_BLOCK], pool, k, "cosine")
        for row, (scores, best) in enumerate(zip(found.scores, found.indices, strict=True), start):
            positives = _cosines(queries[row], documents[data.answers(row)])
            yield Ranking(task.pool[best], scores, positives)


def _cosines(query: NDArray[np.float32], documents: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the cosine of one query with each document, computed in float64 and rounded as `top_k` does."""
    left, right = query.astype(np.float64), documents.astype(np.float64)
    lengths = np.linalg.norm(left) * np.linalg.norm(right, axis=1)
    cosines = np.divide(right @ left, lengths, out=np.zeros(len(right)), where=lengths > 0)
    return cosines.astype(np.float32)
