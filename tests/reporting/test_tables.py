from __future__ import annotations

import json

import pytest

from ragcun.errors import InputError
from ragcun.reporting.tables import markdown_table, results_table, seen_table


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
        "baselines": {"BM25": system("runs/BM25", 0.6762, 0.3102, **tests)},
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
    assert bm25 == ["runs/BM25", "**0.6762**", "0.3102", "**0.4932**", "–", "–"]
    assert model == ["checkpoints/run", "0.6600", "**0.3162**", "0.4881", "+0.0150 (0.0312)", "-0.0000 (<0.0001)"]
    assert [cell.endswith(":") for cell in rule] == [False, True, True, True, True, True]


def test_baselines_of_one_title_are_told_apart(results):
    results["baselines"]["runs-BM25-2"] = results["baselines"]["BM25"]
    assert [row[0] for row in cells(results_table(results))[3:5]] == ["runs/BM25", "runs-BM25-2"]


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


def split(system, name, seen, unseen, p=None):
    for side, (value, queries) in {"seen": seen, "unseen": unseen}.items():
        figures = {"n_queries": queries} | ({} if value is None else {"NDCG@10": value})
        system["datasets"][name][side] = figures | ({} if p is None else {"p_randomisation": p})


def test_seen_and_unseen_documents_get_a_table_of_their_own(results):
    before = results_table(results)
    split(results, "scifact", (0.79, 196), (0.6505, 104))
    split(results["untouched_base"], "scifact", (0.6288, 196), (0.6758, 104), p=0.25)
    split(results["baselines"]["BM25"], "scifact", (0.6759, 196), (0.6758, 104), p=0.5)
    for system in (results, results["untouched_base"], results["baselines"]["BM25"]):
        split(system, "nfcorpus", (None, 0), (0.3, 323))
    all_queries, of_sides = results_table(results).split("\n\n")
    assert all_queries + "\n" == before
    header, _, seen, unseen = cells(of_sides)
    assert header == [
        "relevant documents", "queries", "minilm (untouched)", "runs/BM25", "checkpoints/run", "Δ vs base (p)",
    ]  # fmt: skip
    assert seen == ["scifact, seen", "196", "0.6288", "0.6759", "**0.7900**", "+0.1612 (0.2500)"]
    assert unseen == ["scifact, unseen", "104", "**0.6758**", "**0.6758**", "0.6505", "-0.0253 (0.2500)"]


def test_a_side_of_one_query_is_shown_without_a_p_value(results):
    split(results, "scifact", (1.0, 1), (0.5, 104))
    split(results["untouched_base"], "scifact", (0.5, 1), (0.5, 104))
    results["untouched_base"]["datasets"]["scifact"]["unseen"]["p_randomisation"] = 1.0
    _, _, seen, unseen = cells(seen_table(results))
    assert seen == ["scifact, seen", "1", "0.5000", "–", "**1.0000**", "+0.5000"]
    assert unseen[-1] == "+0.0000 (1.0000)"


@pytest.mark.parametrize("counts", [(0, 300), (300, 0)])
def test_no_table_where_a_side_is_empty_or_unknown(results, counts):
    assert seen_table(results) == ""
    split(results, "scifact", (None, counts[0]), (None, counts[1]))
    assert seen_table(results) == ""


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


def test_parts_of_a_set_have_rows_and_no_columns(results):
    for each, value in ((results, 0.5), (results["untouched_base"], 0.25)):
        tests = {} if each is results else {"p_randomisation": 0.5, "n_queries": 7}
        for name, more in (("cqadupstack", 0.0), ("cqadupstack/android", 0.1), ("cqadupstack/tex", -0.1)):
            each["datasets"][name] = {"NDCG@10": value + more, **tests}
    about = {name: {"queries": 7} for name in results["datasets"]}
    for forum in ("cqadupstack/android", "cqadupstack/tex"):
        about[forum]["part_of"] = "cqadupstack"
    results["manifest"] = {"collections": about}
    whole, parts = results_table(results).split("\n\n")
    assert cells(whole)[0][:5] == ["system", "scifact", "nfcorpus", "cqadupstack", "mean NDCG@10"]
    header, _, android, tex = cells(parts)
    assert header == ["part", "queries", "minilm (untouched)", "runs/BM25", "checkpoints/run", "Δ vs base (p)"]
    assert android == ["cqadupstack/android", "7", "0.3500", "–", "**0.6000**", "+0.2500 (0.5000)"]
    assert tex == ["cqadupstack/tex", "7", "0.1500", "–", "**0.4000**", "+0.2500 (0.5000)"]
