from __future__ import annotations

import json

import pytest

from ragcun.errors import InputError
from ragcun.reporting.tables import markdown_table, results_table


def system(model, scifact, nfcorpus, **p_values):
    return {
        "model": model,
        "datasets": {"scifact": {"NDCG@10": scifact, **p_values}, "nfcorpus": {"NDCG@10": nfcorpus, **p_values}},
        "average": {"NDCG@10": (scifact + nfcorpus) / 2},
    }


@pytest.fixture
def results():
    tests = {"p_randomisation": 0.0312, "p_t": 0.03, "n_queries": 300}
    base = system("minilm", 0.6450, 0.3162, **tests)
    base["datasets"]["nfcorpus"]["p_randomisation"] = 0.00001
    return {
        **system("checkpoints/run", 0.6600, 0.31616),
        "distance": "euclidean",
        "untouched_base": base,
        "baselines": {"BM25": system("bm25s", 0.6762, 0.3102, **tests)},
        "manifest": {},
    }


def cells(table):
    return [[cell.strip() for cell in line.strip("|\n").split(" | ")] for line in table.splitlines()]


def test_rows_are_base_baselines_model_with_the_best_in_bold(results):
    header, rule, base, bm25, model = cells(results_table(json.loads(json.dumps(results))))
    assert header == [
        "system", "scifact", "nfcorpus", "mean NDCG@10", "scifact Δ vs base (p)", "nfcorpus Δ vs base (p)",
    ]  # fmt: skip
    assert base == ["minilm (untouched)", "0.6450", "**0.3162**", "0.4806", "–", "–"]
    assert bm25 == ["BM25", "**0.6762**", "0.3102", "**0.4932**", "–", "–"]
    assert model == ["checkpoints/run", "0.6600", "**0.3162**", "0.4881", "+0.0150 (0.0312)", "-0.0000 (<0.0001)"]
    assert [cell.endswith(":") for cell in rule] == [False, True, True, True, True, True]


def test_without_a_base_there_are_no_differences(results):
    results |= {"untouched_base": None, "baselines": {}}
    header, _, model = cells(results_table(results))
    assert header == ["system", "scifact", "nfcorpus", "mean NDCG@10"]
    assert model == ["checkpoints/run", "**0.6600**", "**0.3162**", "**0.4881**"]


def test_a_baseline_may_lack_a_dataset(results):
    del results["baselines"]["BM25"]["datasets"]["nfcorpus"]
    assert cells(results_table(results))[3][2] == "–"


@pytest.mark.parametrize("key", ["datasets", "average", "model"])
def test_missing_parts_are_named(results, key):
    del results[key]
    with pytest.raises(InputError, match=f"lack '{key}'"):
        results_table(results)


def test_every_line_is_as_wide_and_cells_cannot_break_it():
    table = markdown_table(["name", "n"], [["a|b", "1,000"], ["two\nlines", "-3.5"], ["", "–"]])
    assert len({len(line) for line in table.splitlines()}) == 1
    assert "a\\|b" in table
    assert "two lines" in table
    assert table.splitlines()[1].endswith("---: |")


@pytest.mark.parametrize(("cell", "right"), [("0.5", True), ("**+0.01 (0.2)**", True), ("<0.001", True), ("1e-5", True),
                                              ("3 queries", False), ("bm25", False), ("–", False)])  # fmt: skip
def test_numbers_go_to_the_right(cell, right):
    assert markdown_table(["h"], [[cell]]).splitlines()[1].endswith(": |") is right


def test_a_table_without_rows_is_a_header():
    assert len(markdown_table(["a", "b"], []).splitlines()) == 2


def test_ragged_rows_are_refused():
    with pytest.raises(ValueError, match="row 2 has 1 cells, the header 2"):
        markdown_table(["a", "b"], [["1", "2"], ["3"]])
