"""A model, a base and a baseline whose embeddings are random, and their results; rankings that are given."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from ragcun.data.beir import Collection, Document
from ragcun.results import Results
from ragcun.retrieval.benchmark import run_benchmark
from ragcun.retrieval.systems import DenseRetriever, System


class Random:
    """Embeddings drawn by a seed and the text."""

    def __init__(self, seed):
        self.seed = seed

    def encode_query(self, texts):
        rows = [np.random.default_rng([self.seed, *text.encode()]).normal(size=4) for text in texts]
        return np.array(rows, dtype=np.float32)

    encode_document = encode_query


@dataclass
class Ranking:
    """A retriever that puts the relevant document of query i at rank ``ranks[i % len(ranks)]``, from 0."""

    name: str
    ranks: Sequence[int]
    size: dict[str, Any] = field(default_factory=dict)

    def retrieve(self, collection, k):
        run = {}
        for i, query in enumerate(collection.queries):
            others = [name for name in collection.documents if name not in collection.qrels[query]]
            random.Random(i).shuffle(others)
            place = self.ranks[i % len(self.ranks)]
            found = [*others[:place], *collection.qrels[query], *others[place:]]
            run[query] = {name: float(-rank) for rank, name in enumerate(found[:k])}
        return run


def judged(queries: int, documents: int = 30, name: str = "toy", more: int | None = None) -> Collection:
    """Return a collection of which query i is answered by document i, and by document i + `more`."""
    texts = {f"d{i:03}": Document("", f"{name} text {i}") for i in range(documents)}
    qrels = {f"q{i}": {f"d{each:03}": 1 for each in {i, i + (more or 0)}} for i in range(queries)}
    return Collection(name, texts, {query: f"{name} {query}" for query in qrels}, qrels, "test")


def systems(results):
    """Return what a results file holds of each system, by slug."""
    return {"model": results, "untouched_base": results["untouched_base"], **results["baselines"]}


@pytest.fixture
def dense():
    """Make a retriever of a name and a seed."""
    return lambda name, seed: DenseRetriever(name, Random(seed))


@pytest.fixture
def benchmark(tmp_path, dense):
    """Evaluate a model beside a base and a baseline; return what the results file ``r.json`` holds."""

    def run(collections, name="model", **options):
        asked: dict[str, Any] = {
            "model": System(dense(name, 1), "euclidean", dense("base", 2)),
            "baselines": [System(dense("other", 3), "euclidean")],
            "manifest": {},
        }
        written = run_benchmark(**{**asked, **options}, collections=collections, output_file=tmp_path / "r.json")
        assert Results.read(tmp_path / "r.json") == written
        return json.loads((tmp_path / "r.json").read_text())

    return run
