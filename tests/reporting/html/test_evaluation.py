"""What the page says of results: verdicts in words, and tables."""

from __future__ import annotations

import json

import pytest

from ragcun.io import write_json
from ragcun.reporting.html import write_report
from ragcun.reporting.runs import gather
from ragcun.reporting.tables import metric_tables, score_tables, verdicts
from ragcun.results import Results
from tests.reporting.html.conftest import Page, evaluate


@pytest.fixture
def results(whole_run, tmp_path):
    """Return the content of results on two collections, and what reads changed content."""
    content = json.loads((whole_run / "results.json").read_text())
    for system in (content, content["untouched_base"], *content["baselines"].values()):
        for part in ("seen", "unseen"):
            del system["datasets"]["hostile"][part]

    def read(changed):
        write_json(tmp_path / "results.json", changed)
        return Results.read(tmp_path / "results.json")

    return content, read


def judge(results, base, model, p, name="plain"):
    content, read = results
    content["datasets"][name]["NDCG@10"] = model
    content["untouched_base"]["datasets"][name] |= {"NDCG@10": base, "p_randomisation": p}
    return verdicts(read(content)).set_index(["dataset", "part"]).loc[(name, "")]


@pytest.mark.parametrize(
    ("base", "model", "p", "word"),
    [
        (0.5, 0.6, 0.0499, "better"), (0.5, 0.6, 0.05, "not distinguishable"), (0.6, 0.5, 0.0499, "worse"),
        (0.6, 0.6, 0.01, "not distinguishable"), (0.5, 0.6, None, "not tested"),
    ],
)  # fmt: skip
def test_the_verdict_follows_from_sign_and_level(results, base, model, p, word):
    if p is None:
        results[0]["untouched_base"]["datasets"]["plain"]["n_queries"] = 1
        results[0]["baselines"] = {}
    verdict = judge(results, base, model, p)
    assert (verdict["verdict"], verdict["queries"]) == (word, 40 if p else 1)
    assert verdict["against"] == f"{model - base:+.4f}" + ("" if p is None else f" ({p:.4f})")


def test_verdicts_are_told_and_counted_by_part(results, make_run):
    """Seen, unseen and held-out queries have verdicts and tables of their own, and are counted apart."""
    judge(results, 0.5, 0.6, 0.01, "hostile")
    judge(results, 0.6, 0.5, 0.00001)
    content, read = results
    parts = {"seen": (0.9, 0.4, 0.001), "unseen": (0.45, 0.5, 0.4), "held_out": (0.3, 0.5, 0.01)}
    for part, (model, base, p) in parts.items():
        counts = {"n_queries": 20} | ({"n_documents": 1234} if part == "held_out" else {})
        content["datasets"]["plain"][part] = counts | {"NDCG@10": model}
        content["untouched_base"]["datasets"]["plain"][part] = counts | {"NDCG@10": base, "p_randomisation": p}
    found = verdicts(read(content))
    assert dict(zip(found["part"], found["verdict"], strict=True)) == {
        "": "worse", "seen": "better", "unseen": "not distinguishable", "held_out": "worse",
    }  # fmt: skip
    tables = metric_tables(read(content))
    assert len(tables) == 5
    assert tables[-1].caption.endswith("n = 20; 1,234 documents are ranked")
    assert list(tables[-1].rows[1]) == ["bm25", "–", "–"]
    run = make_run()
    write_json(run / "results.json", content | {"model": str(run / "best_model")})
    text = Page(write_report([run])).text
    assert "better on 1 of 2 datasets (hostile, p < .05); worse on 1 of 2 datasets (plain, p < .05)." in text
    assert "worse than the untouched base on plain: NDCG@10 -0.1000 (p < 0.0001), 40 queries" in text
    assert "Among documents hidden from training: worse on the only dataset (plain, p < .05)." in text
    assert "not distinguishable from the untouched base on plain, queries with no relevant document" in text


def test_without_a_base_there_is_no_verdict(results, whole_run):
    content, read = results
    found = read(content | {"untouched_base": None})
    assert verdicts(found).empty
    assert [row[0] for row in metric_tables(found)[0].rows] == ["bm25", str(whole_run / "best_model")]


def test_tables_hold_the_scores_of_the_file(whole_run):
    (run,) = gather([whole_run])
    results = run.evaluations[0].results
    tables = metric_tables(results)
    assert len(tables) == 4
    table = tables[-1]
    assert table.header == ["system", "NDCG@10", "this model − it (p)", "MRR@10", "MAP@100", "Recall@100", "P@10"]
    assert table.caption == "plain: all judged queries, n = 40"
    for row, (_, system) in zip(table.rows, results.systems, strict=True):
        for cell, metric in zip(row, table.header, strict=True):
            if "@" in metric:
                assert f"{system.datasets['plain'].metrics[metric]:.4f}" in cell
    best = max(system.datasets["plain"].metrics["NDCG@10"] for _, system in results.systems)
    assert ["<strong>" in row[1] for row in table.rows] == [f"{best:.4f}" in row[1] for row in table.rows]


def test_collections_of_one_name_but_other_content_are_not_mixed(make_run, data_dir, whole_run):
    other = make_run("other")
    results = json.loads(json.dumps(evaluate(other, data_dir, names=["plain"])))
    results["manifest"]["collections"]["plain"]["sha256"] = "0" * 64
    write_json(other / "results.json", results)
    files = [(run.name, run.evaluations[0].results) for run in gather([whole_run, other])]
    scores = [table for table in score_tables(files) if "on plain" in table.caption]
    assert [len(table.rows) for table in scores] == [1, 1]
    assert scores[1].caption.endswith("(test, 000000000000)")
