"""Markdown tables of one evaluation."""

import pytest

from ragcun.reporting.tables import markdown_table, results_table
from ragcun.results import Results
from tests.reporting.conftest import cells_of, results, system


@pytest.fixture
def content():
    """Results of a model, its base and BM25 on two collections."""
    values = {"scifact": 0.66, "nfcorpus": 0.31616}
    bm25 = system("runs/BM25", {"scifact": 0.6762, "nfcorpus": 0.3102}, 0.0312)
    base = {"scifact": 0.6450, "nfcorpus": 0.3162}
    found = results("checkpoints/run", values, p=0.03125, base_values=base, baselines=(bm25,))
    found["untouched_base"]["datasets"]["nfcorpus"]["p_randomisation"] = 0.00001
    return found


@pytest.fixture
def tables(write):
    """Lay out content; return each table as lists of cells."""

    def of(content):
        return [cells_of(table) for table in results_table(Results.read(write("r.json", content))).split("\n\n")]

    return of


def test_rows_are_base_baselines_model_with_the_best_in_bold(content, tables):
    ((header, rule, base, bm25, model),) = tables(content)
    assert header == [
        "system", "scifact", "nfcorpus", "mean NDCG@10", "scifact Δ vs base (p)", "nfcorpus Δ vs base (p)",
    ]  # fmt: skip
    assert base == ["minilm (untouched)", "0.6450", "**0.3162**", "0.4806", "–", "–"]
    assert bm25 == ["runs/BM25", "**0.6762**", "0.3102", "**0.4932**", "–", "–"]
    assert model == ["checkpoints/run", "0.6600", "**0.3162**", "0.4881", "+0.0150 (0.0312)", "-0.0000 (<0.0001)"]
    assert [cell.endswith(":") for cell in rule] == [False, True, True, True, True, True]


def test_without_a_base_there_are_no_differences_and_a_baseline_may_lack_a_dataset(content, tables):
    content["untouched_base"] = None
    del content["baselines"]["b0"]["datasets"]["nfcorpus"]
    content["baselines"]["b1"] = content["baselines"]["b0"]
    ((header, _, bm25, second, model),) = tables(content)
    assert header == ["system", "scifact", "nfcorpus", "mean NDCG@10"]
    assert [row[0] for row in (bm25, second)] == ["runs/BM25", "b1"]
    assert bm25[2] == "–"
    assert model[2] == "**0.3162**"


def test_bytes_per_vector_are_shown_where_they_differ(content, tables):
    content["untouched_base"]["bytes_per_vector"] = 1536
    ((header, *_),) = tables(content | {"bytes_per_vector": 1536})
    assert "bytes per vector" not in header
    ((header, _, base, bm25, model),) = tables(content | {"bytes_per_vector": 48, "precision": "binary"})
    assert [row[1] for row in (header, base, bm25, model)] == ["bytes per vector", "1,536", "–", "48"]
    assert model[0] == "checkpoints/run, binary"


def split(system, name, p=None, **parts):
    for part, (value, queries) in parts.items():
        tested = {} if p is None or queries == 1 else {"p_randomisation": p}
        system["datasets"][name][part] = {"n_queries": queries, "NDCG@10": value, **tested}


def test_parts_of_datasets_have_rows_in_a_table_of_their_own(content, tables):
    """A side of one query is shown without a p value, a side without queries not at all."""
    before = tables(content)
    base, bm25 = content["untouched_base"], content["baselines"]["b0"]
    scores = ((content, None, 0.79, 0.6505), (base, 0.25, 0.6288, 0.6758), (bm25, 0.5, 0.5, 0.6758))
    for each, p, seen, unseen in scores:
        split(each, "scifact", p, seen=(seen, 1), unseen=(unseen, 104))
    for each, value, p in ((content, 0.7, None), (base, 0.66, 0.03125)):
        split(each, "nfcorpus", p, unseen=(0.3, 323), held_out=(value, 310))
        each["datasets"]["nfcorpus"] |= {"seen": {"n_queries": 0}}
        each["datasets"]["nfcorpus"]["held_out"]["n_documents"] = 1800
    whole, (header, _, *rows) = tables(content)
    assert [whole] == before
    assert header == ["part", "queries", "minilm (untouched)", "runs/BM25", "checkpoints/run", "Δ vs base (p)"]
    assert rows == [
        ["scifact, seen", "1", "0.6288", "0.5000", "**0.7900**", "+0.1612"],
        ["scifact, unseen", "104", "**0.6758**", "**0.6758**", "0.6505", "-0.0253 (0.2500)"],
        ["nfcorpus, held out, 1,800 documents", "310", "0.6600", "–", "**0.7000**", "+0.0400 (0.0312)"],
    ]


def test_members_of_a_set_have_rows_and_no_columns(tables):
    values = {"scifact": 0.5, "cqadupstack": 0.5, "cqadupstack/android": 0.6}
    found = results("run", values, base_values=dict.fromkeys(values, 0.25), p=0.5)
    found["manifest"]["collections"]["cqadupstack/android"]["part_of"] = "cqadupstack"
    whole, (_, _, android) = tables(found)
    assert whole[0][:4] == ["system", "scifact", "cqadupstack", "mean NDCG@10"]
    assert android == ["cqadupstack/android", "300", "0.2500", "**0.6000**", "+0.3500 (0.5000)"]


@pytest.mark.parametrize(
    ("cell", "shown", "right"),
    [
        ("0.5", "0.5", True), ("**+0.01 (0.2)**", "**+0.01 (0.2)**", True), ("<0.001", "<0.001", True),
        ("1e-5", "1e-5", True), ("1,000", "1,000", True), ("3 queries", "3 queries", False), ("–", "–", False),
        ("a|b", r"a\|b", False), ("two\nlines", "two lines", False),
    ],
)  # fmt: skip
def test_numbers_go_to_the_right_and_cells_cannot_break_a_line(cell, shown, right):
    lines = markdown_table(["h"], [[cell], ["–"]]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1].endswith(": |") is right
    assert lines[2].strip("| ") == shown
