"""What is chosen by held-out queries: which queries these are, and the test that a choice has to pass."""

from __future__ import annotations

import functools
import logging
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

from ragcun.data.beir import Collection, hold_out_queries, load_collection
from ragcun.data.overlap import seen_queries, text_hashes
from ragcun.retrieval.metrics import paired_tests

logger = logging.getLogger(__name__)
Setting = TypeVar("Setting")
Method = TypeVar("Method", bound=Callable[..., Any])
HELD_OUT, MOST, FEWEST = 0.3, 1500, 50
"""Share of the training queries that is held out for choices, at most and at least this many."""
LEVEL = 0.05


def once(method: Method) -> Method:
    """Make a method of a collection keep what it returns for as long as the collection is in memory."""
    kept: dict[Any, Any] = {}

    @functools.wraps(method)
    def known(self: Any, collection: Collection, *rest: Any, **named: Any) -> Any:
        key = (id(self), id(collection), *rest, *sorted(named.items()))
        if key not in kept:
            kept[key] = method(self, collection, *rest, **named)
            for owner in (self, collection):
                weakref.finalize(owner, kept.pop, key, None).atexit = False
        return kept[key]

    return known  # type: ignore[return-value]


@dataclass
class Labels:
    """The training and the dev queries of collections, for memory and for choices; `folders` are by name.

    Dev queries are the split ``dev``, else a sample of the training queries, which are then no training queries of it.
    """

    folders: Mapping[str, Path] = field(default_factory=dict)

    @once
    def training(self, collection: Collection) -> Collection | None:
        """Return the judged training queries over a collection's documents; None where it has none to use."""
        return self._split(collection, "train", 1)

    @once
    def held_out(self, collection: Collection) -> tuple[Collection | None, Collection | None]:
        """Return dev queries, and the training queries that are none of them; None where there are too few."""
        dev, training = self._split(collection, "dev"), self.training(collection)
        if dev is None and training is not None and len(training.qrels) * HELD_OUT >= FEWEST:
            share = min(HELD_OUT, MOST / len(training.qrels))
            training, dev = hold_out_queries(training, share, seed=0)
        return dev, training

    @once
    def dev(self, collection: Collection, seen: frozenset[str] | None = frozenset()) -> Collection | None:
        """Return the dev queries for a model that was trained on the documents `seen` (None: on unknown ones).

        Of training queries, those with a relevant document that the model was trained on are left out.
        """
        dev = self.held_out(collection)[0]
        if dev is None or dev.split == "dev" or not seen:
            return None if seen is None and dev is not None and dev.split != "dev" else dev
        return _only(dev, dev.qrels.keys() - seen_queries(dev, seen))

    def seen(self, collection: Collection) -> frozenset[str]:
        """Return the hashes of the documents that training queries ask for."""
        training = self.training(collection)
        relevant = {
            document
            for judged in (training.qrels.values() if training else ())
            for document, score in judged.items()
            if score > 0 and document in collection.documents
        }
        return text_hashes(collection.documents[document].content for document in relevant)

    def _split(self, collection: Collection, split: str, fewest: int = FEWEST) -> Collection | None:
        folder = self.folders.get(collection.name)
        if folder is None or collection.split == split or not (folder / "qrels" / f"{split}.tsv").is_file():
            return None
        found = replace(load_collection(folder, split, collection.documents), name=collection.name)
        return _only(found, found.qrels.keys() - collection.qrels.keys(), fewest)


def _only(collection: Collection, queries: set[str], fewest: int = FEWEST) -> Collection | None:
    """Return a collection with some of its queries, or None where these are too few."""
    qrels = {query: judged for query, judged in collection.qrels.items() if query in queries}
    texts = {query: text for query, text in collection.queries.items() if query in queries}
    return replace(collection, queries=texts, qrels=qrels) if len(qrels) >= fewest else None


def choose(
    scores: Mapping[Setting, Mapping[str, float]], without: Setting, split: str
) -> tuple[Setting, dict[str, Any]]:
    """Return the setting with the best mean score, where a paired test supports it against `without`, and a record.

    The test is the two-sided randomisation test at level .05; p is not corrected for the number of settings. Of equal
    means the first setting is taken.
    """
    best = max(scores, key=lambda setting: fmean(scores[setting].values()))
    means = {setting: fmean(values.values()) for setting, values in scores.items()}
    p = paired_tests(scores[best], scores[without]).p_randomisation
    chosen = best if means[best] > means[without] and p < LEVEL else without
    record = {"chosen": chosen, "best": best, "score": means[best], "without": means[without], "p": p}
    return chosen, {**record, "queries": len(scores[best]), "split": split}


def reason(record: Mapping[str, Any]) -> str:
    """Say in one sentence what was chosen, and why."""
    if "p" not in record:
        return f"{record['chosen']}: {record['why']}"
    if record["score"] == record["without"]:
        return f"{record['chosen']}: nothing is better on {record['queries']} {record['split']} queries"
    verdict = "supports it" if record["chosen"] == record["best"] else "does not support more"
    scores = f"{record['best']} has NDCG@10 {record['score']:.4f} against {record['without']:.4f} without"
    queries = f"on {record['queries']} {record['split']} queries"
    return f"{record['chosen']}: {scores} {queries}; the paired test {verdict} (p {record['p']:.4f})"
