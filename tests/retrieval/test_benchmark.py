"""Evaluations on queries whose relevant documents were training positives, and on the others."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ragcun.data.beir import Collection, Document
from ragcun.data.overlap import SEEN, text_hashes
from ragcun.io import write_json
from ragcun.retrieval.benchmark import run_benchmark
from ragcun.retrieval.evaluate import DenseRetriever
from ragcun.retrieval.metrics import paired_tests
from ragcun.retrieval.systems import System

QUERIES = 12


class Drawn:
    """Embeddings drawn by a seed."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def encode_query(self, texts):
        return self.rng.normal(size=(len(texts), 4)).astype(np.float32)

    encode_document = encode_query


@pytest.fixture
def collection():
    documents = {f"d{i}": Document("", f"text {i}") for i in range(40)}
    qrels = {f"q{i}": {f"d{i}": 1, f"d{i + 20}": 0} for i in range(QUERIES)}
    return Collection("toy", documents, {query: query for query in qrels}, qrels, "test")


@pytest.fixture
def benchmark(collection, tmp_path):
    """Evaluate a drawn model beside a drawn base and baseline; the first `seen` queries' documents are known."""

    def run(seen):
        folder = tmp_path / "checkpoint"
        if seen is not None:
            write_json(folder / SEEN, sorted(text_hashes(f"text {i}" for i in (*range(seen), 25))))
        model = System(DenseRetriever(str(folder), Drawn(1)), "euclidean", DenseRetriever("base", Drawn(2)))
        baseline = System(DenseRetriever("other", Drawn(3)), "euclidean")
        run_benchmark(model, [baseline], [collection], tmp_path / "r.json", {})
        return json.loads((tmp_path / "r.json").read_text())

    return run


def systems(results):
    return [results, results["untouched_base"], *results["baselines"].values()]


@pytest.mark.parametrize("seen", [1, 2, 5, QUERIES - 1])
def test_all_queries_are_the_weighted_mean_of_both_sides(benchmark, seen):
    for system in systems(benchmark(seen)):
        figures = system["datasets"]["toy"]
        first, second = figures["seen"], figures["unseen"]
        assert (first["n_queries"], second["n_queries"]) == (seen, QUERIES - seen)
        metrics = [name for name in figures if "@" in name]
        assert len(metrics) == 21
        for name in metrics:
            weighted = (seen * first[name] + (QUERIES - seen) * second[name]) / QUERIES
            assert figures[name] == pytest.approx(weighted, abs=1e-12)


def test_p_values_are_those_of_the_sides_queries_alone(benchmark, tmp_path):
    results = benchmark(5)
    folder = tmp_path / "r.runs" / "toy"
    values = {
        slug: json.loads((folder / f"{slug}.per_query.json").read_text())["NDCG@10"]
        for slug in ("model", "untouched_base", "other")
    }
    for slug, system in zip(("untouched_base", "other"), systems(results)[1:], strict=True):
        for side, numbers in (("seen", range(5)), ("unseen", range(5, QUERIES))):
            ours, theirs = ({f"q{i}": values[name][f"q{i}"] for i in numbers} for name in ("model", slug))
            expected = paired_tests(ours, theirs)
            figures = system["datasets"]["toy"][side]
            assert figures["p_randomisation"] == expected.p_randomisation
            assert figures["p_t"] == expected.p_t
            assert figures["mean_difference"] == pytest.approx(expected.mean_difference)


@pytest.mark.parametrize("seen", [1, QUERIES - 1])
def test_a_side_of_one_query_has_no_test(benchmark, seen):
    side, other = ("seen", "unseen") if seen == 1 else ("unseen", "seen")
    base = benchmark(seen)["untouched_base"]["datasets"]["toy"]
    assert "p_randomisation" not in base[side]
    assert "p_randomisation" in base[other]


@pytest.mark.parametrize("seen", [0, QUERIES])
def test_an_empty_side_has_no_scores(benchmark, seen):
    for system in systems(benchmark(seen)):
        scores = system["datasets"]["toy"]
        empty, full = ("seen", "unseen") if seen == 0 else ("unseen", "seen")
        assert scores[empty] == {"n_queries": 0}
        assert {name: scores[full][name] for name in scores if "@" in name} == {
            name: value for name, value in scores.items() if "@" in name
        }


def test_unknown_seen_documents_change_nothing_but_the_log(benchmark, caplog):
    results = benchmark(None)
    for system in systems(results):
        assert not {"seen", "unseen"} & system["datasets"]["toy"].keys()
    assert caplog.text.count("seen documents are unknown") == 1
    scores = benchmark(3)["datasets"]["toy"]
    assert results["average"].keys() == {name for name in scores if "@" in name}
    assert results["datasets"]["toy"] == {name: scores[name] for name in results["average"]}
