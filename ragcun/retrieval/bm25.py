"""The BM25 baseline."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ragcun.embeddings.analysis import K1, Analyser, B
from ragcun.retrieval.runs import Run, without_own


class BM25:
    """An index of documents under BM25 as Lucene computes it (idf = ln(1 + (N − df + ½)/(df + ½)), never negative).

    Terms are those of the documents' language (`Analyser`): stems without stop words, or pairs of characters; k1 = 0.9
    and b = 0.4 as in Anserini's BEIR baselines (Kamalloo et al., arXiv 2306.07471). An empty text is never retrieved.

    >>> list(BM25({"a": "cats and dogs", "b": "running cats", "c": ""}).run({"q": "a cat runs"})["q"])
    ['b', 'a']
    """

    def __init__(self, documents: Mapping[str, str]) -> None:
        self.document_ids = sorted(documents)
        self.tokenize = Analyser.of(texts := [documents[key] for key in self.document_ids])
        tokens = self.tokenize(texts)
        self._index: Any = None
        if any(tokens):
            import bm25s  # which imports SciPy's matrices, for half a second

            logging.getLogger("bm25s").setLevel(logging.WARNING)  # its own level is DEBUG
            self._index = bm25s.BM25(method="lucene", k1=K1, b=B, backend="numpy")
            self._index.index(tokens, show_progress=False)

    def run(self, queries: Mapping[str, str], k: int = 100, own_ids: Set[str] = frozenset()) -> Run:
        """Rank the documents that share a word with a query, by (score descending, id); see `without_own`."""
        run: Run = {}
        query_tokens = self.tokenize(queries.values())
        for query_id, tokens in tqdm(zip(queries, query_tokens, strict=True), "BM25", len(queries), delay=2):
            scores = self.scores(tokens)
            rows = best_rows(scores, k + 1)
            run[query_id] = dict(zip(map(self.document_ids.__getitem__, rows), scores[rows].tolist(), strict=True))
        return without_own(run, own_ids, k)

    def scores(self, tokens: list[str]) -> NDArray[np.float32]:
        """Return the score of every document, in the order of `document_ids`, for the terms of a query."""
        known = [] if self._index is None else self._index.get_tokens_ids(tokens)
        return self._index.get_scores_from_ids(known) if known else np.zeros(len(self.document_ids), dtype=np.float32)


def best_rows(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Rows of the `k` highest scores above 0, by (score descending, row ascending)."""
    rows = np.flatnonzero(scores > 0)
    if len(rows) > k:
        rows = rows[scores[rows] >= np.partition(scores[rows], -k)[-k]]
    return rows[np.argsort(-scores[rows], kind="stable")][:k]
