"""Evaluations on queries whose relevant documents were training positives, and on the others."""

from __future__ import annotations

import json
from statistics import fmean

import pytest

from ragcun.data.beir import Collection, Document
from ragcun.data.overlap import SEEN, text_hashes
from ragcun.io import write_json
from ragcun.retrieval.metrics import paired_tests

QUERIES = 12


@pytest.fixture
def results_with(benchmark, tmp_path):
    """Evaluate a checkpoint that saw the first `seen` queries' documents in training, or has no record of it."""
    documents = {f"d{i}": Document("", f"text {i}") for i in range(40)}
    qrels = {f"q{i}": {f"d{i}": 1, f"d{i + 20}": 0} for i in range(QUERIES)}
    collection = Collection("toy", documents, {query: query for query in qrels}, qrels, "test")

    def run(seen):
        folder = tmp_path / "checkpoint"
        if seen is not None:
            write_json(folder / SEEN, sorted(text_hashes(f"text {i}" for i in (*range(seen), 25))))
        results = benchmark([collection], str(folder))
        systems = {"model": results, "untouched_base": results["untouched_base"], **results["baselines"]}
        return {slug: system["datasets"]["toy"] for slug, system in systems.items()}

    return run


@pytest.mark.parametrize("seen", [0, 1, 2, 5, QUERIES - 1, QUERIES])
def test_scores_and_tests_of_either_side_are_of_its_queries_alone(results_with, seen, tmp_path):
    scores = results_with(seen)
    files = {slug: tmp_path / "r.runs" / "toy" / f"{slug}.per_query.json" for slug in scores}
    values = {slug: json.loads(file.read_text()) for slug, file in files.items()}
    for slug, figures in scores.items():
        assert len(values[slug]) == 21
        for side, numbers in (("seen", range(seen)), ("unseen", range(seen, QUERIES))):
            found, queries = figures[side], [f"q{i}" for i in numbers]
            assert found["n_queries"] == len(queries)
            for metric, of_query in values[slug].items():
                assert figures[metric] == pytest.approx(fmean(of_query.values()), abs=1e-12)
                assert found.get(metric) == (pytest.approx(fmean(map(of_query.get, queries))) if queries else None)
            tested = slug != "model" and len(queries) > 1
            assert ("p_t" in found) == ("p_randomisation" in found) == tested
            if tested:
                ours, theirs = ({q: values[each]["NDCG@10"][q] for q in queries} for each in ("model", slug))
                expected = paired_tests(ours, theirs)
                assert (found["p_t"], found["p_randomisation"]) == (expected.p_t, expected.p_randomisation)
                assert found["mean_difference"] == pytest.approx(expected.mean_difference)


def test_unknown_seen_documents_change_nothing_but_the_log(results_with, caplog):
    unknown = results_with(None)
    assert caplog.text.count("seen documents are unknown") == 1
    for slug, known in results_with(3).items():
        assert unknown[slug] == {name: value for name, value in known.items() if name not in ("seen", "unseen")}
