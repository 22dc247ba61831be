"""Heads on joined vectors [dense ; √a · lexical]: which settings are best on dev queries, and the test figures.

Each line of ``--plan`` (JSON lines) names a training: ``{"model", "set", "regime", "on", "fold", "seed", "draw",
"lexical", "settings"}``, all but `set` optional. Its figures are appended to ``--output``; what is there already is
left out, and ``--part 1/2`` takes a share; a file of results is a plan too.
``on`` is dev (SciFact: a fifth of the training queries; NFCorpus: its dev split) or test.
Regimes: labels; hidden (half of the documents, by ``draw``, unknown to channel and head, then ranked alone); free (no
labels).
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import time
from pathlib import Path

import numpy as np
from sklearn.preprocessing import normalize

import ragcun
from ragcun.cli.parser import run_script
from ragcun.data.overlap import HoldOut
from ragcun.data.synthetic_queries import adaptation_data
from ragcun.embeddings.analysis import Analyser
from ragcun.embeddings.joined import lexical_weight
from ragcun.embeddings.lexical import LexicalChannel
from ragcun.models.whitening import calibrate
from ragcun.training.weights import share_of_trained

SPLITS = {
    "scifact": ("train", "test"),
    "nfcorpus": ("train", "dev", "test"),
    "nq-qed": ("train", "test"),
    "cranfield": ("test",),
}
FOLDS, FREE_PAIRS = 5, 3000
SHARES = (0.0, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 1.0)
LABEL_FREE = {"trained_share": 0.25, "mined_first": 10}


@functools.lru_cache
def cache_of(model: str, dtype: str) -> ragcun.EmbeddingCache:
    base = ragcun.TextBase.load(model)
    base.compute_in(dtype)
    return ragcun.EmbeddingCache(base)


class Data:
    """A collection with its dense vectors; its lexical ones by setting."""

    def __init__(self, folder: Path, model: str, dtype: str, most: int, draw: int) -> None:
        self.cache, self.name = cache_of(model, dtype), folder.name
        self.splits = {name: ragcun.load_collection(folder, name) for name in SPLITS[folder.name]}
        documents = next(iter(self.splits.values())).documents
        self.items = list(documents.values())
        self.texts, self.column = [d.content for d in self.items], {key: n for n, key in enumerate(documents)}
        hidden = HoldOut(0.5, draw).visible_documents(self.items)
        visible = {id(document) for document in hidden}
        self.hidden = np.array([id(document) not in visible for document in self.items])
        self.documents = self.cache.encode(self.texts, "document")
        self.queries, self.asked, self.gains = {}, {}, {}
        for split, collection in self.splits.items():
            names = list(collection.queries)[: most if self.name == "nq-qed" and split == "train" else None]
            self.queries[split] = [collection.queries[name] for name in names]
            self.asked[split] = self.cache.encode(self.queries[split], "query")
            self.gains[split] = np.zeros((len(names), len(self.texts)), dtype=np.float32)
            for row, name in enumerate(names):
                for key, score in collection.qrels[name].items():
                    if key in self.column and self.texts[self.column[key]]:
                        self.gains[split][row, self.column[key]] = max(score, 0)

    @functools.cached_property
    def own(self) -> tuple[list[str], np.ndarray, list[tuple[int, int]]]:
        """Pairs made from documents: query texts, their dense vectors, pairs of query and document."""
        made = adaptation_data(self.items, self.name, 0).pairs
        place = {text: row for row, text in enumerate(self.texts)}
        chosen = np.random.default_rng(0).permutation(len(made.query_ids))[:FREE_PAIRS]
        texts = [made.queries[made.query_ids[row]] for row in chosen]
        pairs = [(n, place[made.documents[made.positive_ids[row]]]) for n, row in enumerate(chosen)]
        return texts, self.cache.encode(texts, "query"), pairs

    @functools.lru_cache(maxsize=4)  # noqa: B019
    def channel(self, hidden: bool, power: float, dim: int | None, words: str) -> tuple[LexicalChannel, np.ndarray]:
        """Return a channel and the vectors of all documents; `hidden` ones are not fitted on."""
        known = [text for text, out in zip(self.texts, self.hidden, strict=True) if not (hidden and out)]
        tokenizer = self.cache.base.model.tokenizer.backend_tokenizer
        fitted = LexicalChannel.fit(
            known, dim, Analyser(pieces=tokenizer.to_str()) if words == "pieces" else None, power
        )
        return fitted, fitted.encode(self.texts, "document")

    def joined(self, hidden: bool, lexical: dict):
        """Return the joined documents, and a function from texts and dense vectors of queries to joined ones."""
        if lexical.get("dim") == 0:
            return normalize(self.documents), lambda texts, dense: normalize(dense)
        kinds = lexical.get("power", -0.25), lexical.get("dim"), lexical.get("terms", "words")
        channel, vectors = self.channel(hidden, *kinds)
        weight = lexical.get("weight", "auto")
        visible = self.documents[~self.hidden] if hidden else self.documents
        scale = np.sqrt(lexical_weight(visible) if weight == "auto" else weight)

        def join(texts: list[str], dense: np.ndarray) -> np.ndarray:
            return np.hstack([normalize(dense), scale * channel.encode(texts, "query")]).astype(np.float32)

        return np.hstack([normalize(self.documents), scale * vectors]).astype(np.float32), join


def ndcg(queries: np.ndarray, documents: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """NDCG@10 of each query, NaN where nothing is relevant; vectors of length 1."""
    discount = 1 / np.log2(np.arange(2, 12))
    scores = queries @ documents.T
    some = np.argpartition(-scores, 10, axis=1)[:, :10]
    top = np.take_along_axis(some, np.argsort(-np.take_along_axis(scores, some, 1), axis=1, kind="stable"), 1)
    ideal = -np.sort(-gains, axis=1)[:, :10] @ discount
    with np.errstate(invalid="ignore"):
        return (np.take_along_axis(gains, top, axis=1) @ discount) / ideal


class Task:
    """What trainings of one place share: vectors, pairs, judgments and the head that they start from."""

    def __init__(self, row: dict, data: Data) -> None:
        self.free, hidden = row["regime"] == "free", row["regime"] == "hidden"
        documents, join = data.joined(hidden, row.get("lexical", {}))
        split = row["on"] if row["on"] in data.gains else "train"
        fold = np.arange(len(data.queries.get("train", ()))) % FOLDS == row["fold"]
        whole = self.free or split != "train"
        tested = np.arange(len(data.queries[split])) if whole else np.flatnonzero(fold)
        trained = np.arange(len(fold)) if whole else np.flatnonzero(~fold)
        queries = join([data.queries[split][n] for n in tested], data.asked[split][tested])
        gains, seen = data.gains[split][tested], np.zeros(len(documents), dtype=bool)
        if self.free:
            texts, dense, pairs = data.own
            self.own = join(texts, dense)
        else:
            self.own = join([data.queries["train"][n] for n in trained], data.asked["train"][trained])
            positive = data.gains["train"][trained] > 0
            pairs = np.argwhere(positive & ~(hidden & data.hidden))
            seen = positive.any(axis=0)
        where = np.flatnonzero(~data.hidden) if hidden else np.arange(len(documents))
        new = np.zeros(len(documents), dtype=int)
        new[where] = np.arange(len(where))
        self.pairs = [(int(q), int(new[d])) for q, d in pairs]
        shown = np.flatnonzero(data.hidden) if hidden else where
        self.documents, self.unseen = documents[where], ~((gains > 0) & seen).any(axis=1)
        self.gains, self.answered = gains[:, shown], sorted({q for q, _ in self.pairs})
        self.tests = normalize(queries), normalize(documents[shown])
        self.reference = {
            "base": ndcg(normalize(data.asked[split][tested]), normalize(data.documents[shown]), self.gains)
        }
        self.reference |= {"joined": ndcg(*self.tests, self.gains)}
        self.start = functools.lru_cache(
            lambda width: calibrate(self.documents, self.own[self.answered], output_dim=width)
        )


def measure(row: dict, task: Task) -> dict:
    """Train one setting and return its figures, at every share of the trained weights."""
    started, free = time.perf_counter(), task.free
    settings = {"seed": row.get("seed", 1), **(LABEL_FREE if free else {}), **row.get("settings", {})}
    share = settings.pop("trained_share", share_of_trained(len(task.answered)))
    start = task.start(settings.get("output_dim"))
    heads = ragcun.fit_head(task.own, task.documents, task.pairs, trained_share=1.0, **settings).encoder
    queries, documents = task.tests
    shifted = queries - start.query_shift
    first = shifted @ start.weight.T, documents @ start.weight.T
    # Without labels the shift of queries is the start's.
    last = outputs(heads.head, shifted if free else queries, not free), outputs(heads.document_head, documents)
    values = dict(task.reference)
    for each in (*SHARES, share):
        mixed = [normalize((1 - each) * one + each * other) for one, other in zip(first, last, strict=True)]
        values["result" if each == share else f"{each:g}"] = ndcg(*mixed, task.gains)
        if each == share and "bits" in row:
            values["1 bit"] = ndcg(mixed[0], np.where(mixed[1] > 0, 1.0, -1.0), task.gains)
    out = row | {"share": round(share, 3), "all": means(values), "queries": int((~np.isnan(values["base"])).sum())}
    if row["regime"] == "labels" and task.unseen.sum() > 9:
        out["unseen"] = means({name: one[task.unseen] for name, one in values.items()})
    return out | {"seconds": round(time.perf_counter() - started, 1)}


def means(values: dict[str, np.ndarray]) -> dict[str, float]:
    return {name: round(float(np.nanmean(one)), 5) for name, one in values.items()}


def outputs(head, vectors: np.ndarray, bias: bool = True) -> np.ndarray:
    """Return a linear head's outputs before they are scaled to length 1."""
    layer = head.linears[0]
    return vectors @ layer.weight.detach().numpy().T + bias * layer.bias.detach().numpy()


def key(row: dict) -> str:
    return json.dumps({name: row[name] for name in KEYS if name in row}, sort_keys=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, default=Path("data"))
    parser.add_argument("--plan", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--part", default="1/1")
    flags = parser.parse_args()
    logging.disable(logging.WARNING)
    share, shares = (int(number) for number in flags.part.split("/"))
    rows = [{**DEFAULTS, **json.loads(line)} for line in flags.plan.read_text().splitlines()]
    done = set()
    for file in flags.output.parent.glob(f"{flags.output.stem}*.jsonl"):
        for line in map(json.loads, file.read_text().splitlines()):
            done.add(key(line))
    output = flags.output.with_stem(f"{flags.output.stem}-{share}") if shares > 1 else flags.output
    data: dict[tuple[str, str, int], Data] = {}
    task_of = functools.lru_cache(maxsize=4)(lambda place, text: Task(json.loads(text), data[place]))
    with output.open("a") as file:
        for row in rows[share - 1 :: shares]:
            if key(row) in done:
                continue
            place = row["model"], row["set"], row.get("draw", 0)
            if place not in data:
                dtype = "auto" if row["set"] in ("nq-qed", "cranfield") and row["model"] == "minilm" else "float32"
                data[place] = Data(flags.data_dir / row["set"], row["model"], dtype, 1000, place[2])
            file.write(
                json.dumps(measure(row, task_of(place, json.dumps({k: row[k] for k in PLACE if k in row})))) + "\n"
            )
            file.flush()


DEFAULTS = {"model": "minilm", "on": "dev", "regime": "labels", "fold": 0}
KEYS = ("model", "set", "regime", "on", "fold", "seed", "draw", "lexical", "settings")
PLACE = ("regime", "on", "fold", "lexical")


if __name__ == "__main__":
    run_script(main)
