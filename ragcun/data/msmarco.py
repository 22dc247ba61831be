"""MS MARCO's passage training data: what is kept of its rows, which queries are held out, and the pairs made."""

from __future__ import annotations

import hashlib
import heapq
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tqdm.auto import tqdm

from ragcun.data.hub import RowStream
from ragcun.data.pairs import Row, write_pairs
from ragcun.data.records import LABEL, NAMES, NEGATIVE
from ragcun.data.texts import text_key
from ragcun.errors import InputError
from ragcun.io import write_json

logger = logging.getLogger(__name__)

SOURCES = {
    "ms_marco": ("microsoft/ms_marco", "v1.1"),
    "triplets": ("sentence-transformers/msmarco-msmarco-distilbert-base-tas-b", "triplet"),
}
"""The data sets that have a short name here, with the subset that is taken."""
EXPECTED = "query and passages (is_selected, passage_text), or query (anchor), positive and negative (negative_1, …)"


class Judged(NamedTuple):
    """A query with the passages that answer it, and others that its row offers as negatives."""

    query: str
    positives: list[str]
    negatives: list[str]


def judged_rows(rows: RowStream) -> Iterator[Judged]:
    """Yield the rows of either layout; passages that are not selected are candidates that nobody judged."""
    columns = rows.columns
    query, positive = (next((name for name in NAMES[each] if name in columns), None) for each in ("query", "positive"))
    negatives = sorted(filter(NEGATIVE.fullmatch, columns), key=lambda name: (len(name), name))
    if query is None or (positive is None and "passages" not in columns) or any(map(LABEL.fullmatch, columns)):
        raise rows.wrong_columns(EXPECTED)
    for row in rows:
        sides = [row[positive]] if positive else [], [row[name] for name in negatives]
        if "passages" in columns:
            sides = _sides(rows, row["passages"])
        for value in (row[query], *sides[0], *sides[1]):
            if not isinstance(value, str | None):
                raise InputError(f"{rows}: a row holds {value!r} where text is expected; name a --subset with texts")
        yield Judged((row[query] or "").strip(), *([(text or "").strip() for text in side] for side in sides))


def _sides(rows: RowStream, passages: Any) -> tuple[list[Any], list[Any]]:
    """Return selected and other texts of passages: lists by field, as the hub has them, or a list of objects."""
    fields = ("passage_text", "is_selected")
    try:
        if isinstance(passages, list):
            passages = {field: [passage[field] for passage in passages] for field in fields}
        judged = list(zip(*(passages[field] for field in fields), strict=True))
    except (KeyError, TypeError) as error:
        raise rows.wrong_columns(EXPECTED) from error
    return [text for text, selected in judged if selected], [text for text, selected in judged if not selected]


def held_out_queries(queries: Iterable[str], seed: int, fraction: float, number: int | None = None) -> set[bytes]:
    """Return the `text_key` of the queries with the smallest hashes of seed and text: a fraction, or a number of them.

    Queries that are the same but for case and blanks are one; the order of queries does not matter.
    """
    start, keys = f"{seed} ".encode(), set(map(text_key, queries))
    places = {key: hashlib.blake2b(start + key, digest_size=6).digest() for key in keys}
    if number is None:
        return {key for key, place in places.items() if int.from_bytes(place, "big") < fraction * 2**48}
    return set(heapq.nsmallest(number, places, key=lambda key: (places[key], key)))


class Gathered(NamedTuple):
    """What was kept of the rows: pairs (for training as many as are wanted), and what negatives can be chosen from."""

    pairs: list[tuple[str, str, list[str]]]  # … and what the row offers that no row has as an answer of the query
    known: list[tuple[str, str]]  # all pairs of query and positive
    pool: list[str]  # all passages
    dev: set[bytes]  # the `text_key` of each held-out query
    counts: Counter[str]  # rows, pairs, and why rows and passages were left out

    def rows(self, per_pair: int) -> list[Row]:
        """Return the pairs with the first negatives that are offered, a row for each."""
        return [
            (query, positive, negative)
            for query, positive, offered in self.pairs
            for negative in (offered[:per_pair] or (None,))
        ]


def gather(
    rows: RowStream, hold_out: Callable[[Iterable[str]], set[bytes]], wanted: int | None, keep_offered: bool = True
) -> Gathered:
    """Read rows until there are `wanted` pairs for training (None: to the end); each pair counts once.

    `hold_out` returns the `text_key` of each query that is held out. Without `keep_offered`, which saves most of the
    memory, what rows offer as negatives is not kept.
    """
    counts: Counter[str] = Counter()
    kept: list[Judged] = []
    answers: set[bytes] = set()
    enough = wanted or 0
    for row in tqdm(judged_rows(rows), desc=str(rows), unit=" rows", delay=2, leave=False):
        counts["rows_read"] += 1
        fresh = _without_repeats(row, answers, counts)
        if not fresh.positives:
            continue
        kept.append(fresh if keep_offered else fresh._replace(negatives=[]))
        counts.update(rows_kept=1, pairs=len(fresh.positives))
        if wanted is not None and counts["pairs"] >= enough:
            dev = hold_out(row.query for row in kept)
            missing = wanted - sum(len(row.positives) for row in kept if text_key(row.query) not in dev)
            if missing <= 0:
                break
            enough = counts["pairs"] + missing
    dev = hold_out(row.query for row in kept)
    known = [(row.query, positive) for row in kept for positive in row.positives]
    pool = dict.fromkeys(text for row in kept for text in (*row.positives, *row.negatives))
    pairs: list[tuple[str, str, list[str]]] = []
    left = len(known) if wanted is None else wanted
    for row in kept:
        held_out = text_key(row.query) in dev
        taken = row.positives if held_out else row.positives[:left]
        left -= 0 if held_out else len(taken)
        negatives = [text for text in row.negatives if _pair_key(row.query, text) not in answers]
        pairs += [(row.query, positive, negatives) for positive in taken]
    return Gathered(pairs, known, list(pool), dev, counts)


def _without_repeats(row: Judged, seen: set[bytes], counts: Counter[str]) -> Judged:
    """Return a row without blank and repeated texts and without pairs in `seen`, and count what goes."""
    positives, negatives = (list(filter(None, texts)) for texts in row[1:])
    counts["empty_passages"] += len(row.positives) + len(row.negatives) - len(positives) - len(negatives)
    if not row.query or not positives:
        counts["rows_without_positive" if row.query else "rows_without_query"] += 1
        return Judged(row.query, [], [])
    fresh = [text for text in _distinct(positives) if _pair_key(row.query, text) not in seen]
    counts["repeated_pairs"] += len(positives) - len(fresh)
    seen.update(_pair_key(row.query, text) for text in fresh)
    return Judged(row.query, fresh, _distinct(negatives))


def _distinct(texts: list[str]) -> list[str]:
    """Return the first of the texts that are the same but for case and blanks."""
    found: dict[bytes, str] = {}
    for text in texts:
        found.setdefault(text_key(text), text)
    return list(found.values())


def _pair_key(query: str, positive: str) -> bytes:
    return hashlib.blake2b(text_key(query) + text_key(positive), digest_size=16).digest()


def write_split_pairs(folder: Path, rows: Iterable[Row], dev: set[bytes], facts: Mapping[str, Any]) -> dict[Path, int]:
    """Write ``train.jsonl``, ``dev.jsonl`` where queries are held out, and ``statistics.json``; return rows by file."""
    splits: dict[str, list[Row]] = {"train": [], "dev": []}
    for row in rows:
        splits["dev" if text_key(row[0]) in dev else "train"].append(row)
    if not splits["train"]:
        problem = f"none of the {len(splits['dev'])} pairs found is left for training"
        raise InputError(f"{problem}; hold out fewer queries, or check the source")
    if not splits["dev"]:
        logger.warning("no query is held out, so there is no dev.jsonl; raise --dev_fraction or give --num_dev")
        (folder / "dev.jsonl").unlink(missing_ok=True)  # an earlier download's
    made = {folder / f"{name}.jsonl": found for name, found in splits.items() if found}
    for path, found in made.items():
        write_pairs(path, found)
    train, dev_positives = ({text_key(positive) for _, positive, _ in found} for found in splits.values())
    statistics = {name: _statistics(found) for name, found in splits.items()}
    shared = {"dev_positives_that_are_train_positives": len(train & dev_positives)}
    write_json(folder / "statistics.json", {**facts, **statistics, **shared})
    return {path: len(found) for path, found in made.items()}


def _statistics(rows: list[Row]) -> dict[str, float]:
    """Count pairs, and the mean words of their distinct texts."""
    counts: dict[str, float] = {"lines": len(rows), "pairs": len({row[:2] for row in rows})}
    counts["without_negative"] = sum(row[2] is None for row in rows)
    names = {"queries": "query", "positives": "positive", "negatives": "negative"}
    for place, (plural, singular) in enumerate(names.items()):
        texts = {text for row in rows if (text := row[place])}
        counts[plural] = len(texts)
        counts[f"mean_words_{singular}"] = round(sum(len(text.split()) for text in texts) / max(1, len(texts)), 2)
    return counts
