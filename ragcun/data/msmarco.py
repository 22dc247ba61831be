"""MS MARCO's passage training data: what is kept of its rows, which queries are held out, and the pairs made."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ragcun.data.dedup import text_key
from ragcun.data.dev_queries import DevQueries
from ragcun.data.hub_data import RowStream
from ragcun.data.msmarco_rows import Judged, Reader, reader_of
from ragcun.data.pairs import Row, write_pairs
from ragcun.errors import InputError
from ragcun.io import write_json

logger = logging.getLogger(__name__)

SOURCES = {
    "ms_marco": ("microsoft/ms_marco", "v1.1"),
    "triplets": ("sentence-transformers/msmarco-msmarco-distilbert-base-tas-b", "triplet"),
}
"""The data sets that have a short name here, with the subset that is taken."""


class PairKeeper:
    """Keeps rows with a query and a positive, each pair of these once, until there are enough for training.

    What rows offer as negatives is kept unless `keep_offered` is False, which takes a fraction of the room.

    Attributes:
        counts: rows, pairs, and why rows and passages were left out.
        wanted: how many pairs for training.
        dev: the queries that are held out.
    """

    def __init__(self, dev: DevQueries, wanted: int | None, keep_offered: bool = True) -> None:
        self.wanted, self.dev = wanted, dev
        self._keep_offered = keep_offered
        self.counts: Counter[str] = Counter()
        self._read: Reader | None = None
        self._seen: set[bytes] = set()

    def have(self) -> int:
        """Return how many pairs for training there are."""
        return self.dev.train_pairs

    def expect(self, stream: RowStream) -> None:
        """Read the rows of this stream from now on.

        Raises:
            InputError: its columns are those of neither layout.
        """
        self._read = reader_of(stream)

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Remember the pairs of a row that was kept."""
        self._seen.update(_pair_key(kept["query"], positive) for positive in kept["positives"])
        self.dev.add(kept["query"], len(kept["positives"]))

    def take(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the row's query, new positives and negatives, or nothing."""
        if self._read is None:
            raise ValueError("rows are read after `expect`, which was not called")
        judged = self._read(row)
        query, positives, negatives = judged.query.strip(), _filled(judged.positives), _filled(judged.negatives)
        self.counts["empty_passages"] += sum(map(len, judged[1:])) - len(positives) - len(negatives)
        if not query or not positives:
            self.counts["rows_without_positive" if query else "rows_without_query"] += 1
            return []
        fresh = [text for text in _distinct(positives).values() if _pair_key(query, text) not in self._seen]
        self.counts["repeated_pairs"] += len(positives) - len(fresh)
        if not fresh:
            return []
        offered = list(_distinct(negatives).values()) if self._keep_offered else []
        kept = {"query": query, "positives": fresh, "negatives": offered}
        self.restore(kept)
        self.counts.update(rows_kept=1, pairs=len(fresh))
        return [kept]


class Gathered(NamedTuple):
    """What was kept, ready for negatives.

    Attributes:
        pairs: ``(query, positive, None)``, those for training first come first kept as far as they are wanted.
        offered: of each pair, the negatives that its row offers and that no row has as an answer of its query.
        known: all pairs of query and positive.
        pool: all passages.
    """

    pairs: list[Row]
    offered: list[list[str]]
    known: list[tuple[str, str]]
    pool: list[str]

    def given(self, per_pair: int) -> list[Row]:
        """Return the pairs with the first negatives that are offered, a row for each."""
        return [
            (query, positive, negative)
            for (query, positive, _), offered in zip(self.pairs, self.offered, strict=True)
            for negative in (offered[:per_pair] or (None,))
        ]


def gathered(records: Iterable[Mapping[str, Any]], dev: DevQueries, wanted: int | None) -> Gathered:
    """Bring what a `PairKeeper` kept into memory, each text once."""
    one: dict[str, str] = {}
    rows = []
    for record in records:
        sides = ([one.setdefault(text, text) for text in record[name]] for name in ("positives", "negatives"))
        rows.append(Judged(one.setdefault(record["query"], record["query"]), *sides))
    known = [(row.query, positive) for row in rows for positive in row.positives]
    answers = {_pair_key(query, positive) for query, positive in known}
    pairs: list[Row] = []
    offered: list[list[str]] = []
    train = 0
    for row in rows:
        held_out = row.query in dev
        negatives = [text for text in row.negatives if _pair_key(row.query, text) not in answers]
        for positive in row.positives:
            train += not held_out
            if held_out or wanted is None or train <= wanted:
                pairs.append((row.query, positive, None))
                offered.append(negatives)
    passages = dict.fromkeys(text for row in rows for text in (*row.positives, *row.negatives))
    return Gathered(pairs, offered, known, list(passages))


def write_split_pairs(folder: Path, rows: Iterable[Row], dev: DevQueries, facts: Mapping[str, Any]) -> dict[Path, int]:
    """Write ``train.jsonl``, ``dev.jsonl`` where queries are held out, and ``statistics.json``.

    Args:
        folder: where to.
        rows: the pairs with their negatives.
        dev: which queries are held out.
        facts: what else the statistics shall say.

    Returns:
        The rows of each file.

    Raises:
        InputError: no pair is left for training.
    """
    splits: dict[str, list[Row]] = {"train": [], "dev": []}
    for row in rows:
        splits["dev" if row[0] in dev else "train"].append(row)
    if not splits["train"]:
        raise InputError(
            f"no pair is left for training of {len(splits['dev'])} that were found; hold out fewer queries, or check "
            "the source; start again with --overwrite"
        )
    if not splits["dev"]:
        logger.warning("no query is held out, so there is no dev.jsonl; raise --dev_fraction or give --num_dev")
    made = {folder / f"{name}.jsonl": found for name, found in splits.items() if found}
    for path, found in made.items():
        write_pairs(path, found)
    statistics = {name: _statistics(found) for name, found in splits.items()}
    shared = {text_key(row[1]) for row in splits["train"]} & {text_key(row[1]) for row in splits["dev"]}
    path = folder / "statistics.json"
    write_json(path, {**facts, **statistics, "dev_positives_that_are_train_positives": len(shared)})
    return {**{path: len(found) for path, found in made.items()}, path: 0}


def _statistics(rows: list[Row]) -> dict[str, float]:
    """Count pairs, and the mean words of their distinct texts."""
    columns = [{row[place] for row in rows if row[place]} for place in range(3)]
    words = [sum(len(str(text).split()) for text in column) / max(1, len(column)) for column in columns]
    return {
        "lines": len(rows),
        "pairs": len({row[:2] for row in rows}),
        "without_negative": sum(row[2] is None for row in rows),
        **{name: len(column) for name, column in zip(("queries", "positives", "negatives"), columns, strict=True)},
        **{
            f"mean_words_{name}": round(mean, 2)
            for name, mean in zip(("query", "positive", "negative"), words, strict=True)
        },
    }


def _filled(texts: Iterable[str]) -> list[str]:
    return [text.strip() for text in texts if text.strip()]


def _distinct(texts: Iterable[str]) -> dict[bytes, str]:
    """Return the first of the texts that are the same but for case and blanks, by what they have in common."""
    found: dict[bytes, str] = {}
    for text in texts:
        found.setdefault(text_key(text), text)
    return found


def _pair_key(query: str, positive: str) -> bytes:
    return hashlib.blake2b(text_key(query) + text_key(positive), digest_size=16).digest()
