"""What the page says of results: verdicts in words, and tables."""

import dataclasses

import pytest

from ragcun.io import write_json
from ragcun.reporting.html import write_report
from ragcun.reporting.runs import gather
from ragcun.reporting.tables import metric_tables, score_tables, verdicts
from ragcun.results import Results
from tests.reporting.conftest import results, system
from tests.reporting.html.conftest import Page, evaluate


@pytest.mark.parametrize(
    ("base", "model", "p", "word"),
    [
        (0.5, 0.6, 0.0499, "better"), (0.5, 0.6, 0.05, "not distinguishable"), (0.6, 0.5, 0.0499, "worse"),
        (0.6, 0.6, 0.01, "not distinguishable"), (0.5, 0.6, None, "not tested"),
    ],
)  # fmt: skip
def test_the_verdict_follows_from_sign_and_level(write, base, model, p, word):
    content = results("run", {"plain": model}, base_values={"plain": base}, p=p)
    content["untouched_base"]["datasets"]["plain"] |= {"n_queries": 40 if p else 1}
    (verdict,) = verdicts(Results.read(write("r.json", content))).itertuples()
    assert (verdict.verdict, verdict.queries) == (word, 40 if p else 1)
    assert verdict.against == f"{model - base:+.4f}" + ("" if p is None else f" ({p:.4f})")


def test_verdicts_are_told_and_counted_by_part(make_run):
    """Seen, unseen and held-out queries have verdicts and tables of their own, and are counted apart."""
    run, values = make_run(), {"hostile": 0.6, "plain": 0.5}
    base, bm25 = {"hostile": 0.5, "plain": 0.6}, system("bm25", values)
    content = results(str(run / "best_model"), values, base_values=base, p=0.00001, baselines=(bm25,))
    parts = {"seen": (0.9, 0.4, 0.001), "unseen": (0.45, 0.5, 0.4), "held_out": (0.3, 0.5, 0.01)}
    for part, (model, base, p) in parts.items():
        counts = {"n_queries": 20} | ({"n_documents": 1234} if part == "held_out" else {})
        content["datasets"]["plain"][part] = counts | {"NDCG@10": model}
        content["untouched_base"]["datasets"]["plain"][part] = counts | {"NDCG@10": base, "p_randomisation": p}
    write_json(run / "results.json", content)
    read = Results.read(run / "results.json")
    found = verdicts(read)
    assert dict(zip(found["part"], found["verdict"], strict=True)) == {
        "": "worse", "seen": "better", "unseen": "not distinguishable", "held_out": "worse",
    }  # fmt: skip
    tables = metric_tables(read)
    assert len(tables) == 5
    assert tables[-1].caption.endswith("n = 20; 1,234 documents are ranked")
    assert tables[-1].rows[1] == ("bm25", "–", "–")
    text = Page(write_report([run])).text
    assert "better on 1 of 2 datasets (hostile, p < .05); worse on 1 of 2 datasets (plain, p < .05)." in text
    assert "worse than the untouched base on plain: NDCG@10 -0.1000 (p < 0.0001), 300 queries" in text
    assert "Among documents hidden from training: worse on the only dataset (plain, p < .05)." in text
    assert "not distinguishable from the untouched base on plain, queries with no relevant document" in text
    without = dataclasses.replace(read, untouched_base=None)
    assert verdicts(without).empty
    assert [row[0] for row in metric_tables(without)[0].rows] == ["bm25", str(run / "best_model")]


def test_tables_hold_the_scores_of_the_file(whole_run):
    found = Results.read(whole_run / "results.json")
    *others, table = metric_tables(found)
    assert len(others) == 3
    assert table.header == ["system", "NDCG@10", "this model − it (p)", "MRR@10", "MAP@100", "Recall@100", "P@10"]
    assert table.caption == "plain: all judged queries, n = 40"
    for row, (_, each) in zip(table.rows, found.systems, strict=True):
        for cell, metric in zip(row, table.header, strict=True):
            if "@" in metric:
                assert f"{each.datasets['plain'].metrics[metric]:.4f}" in cell
    best = max(each.datasets["plain"].metrics["NDCG@10"] for _, each in found.systems)
    assert ["<strong>" in row[1] for row in table.rows] == [f"{best:.4f}" in row[1] for row in table.rows]


def test_collections_of_one_name_but_other_content_are_not_mixed(make_run, data_dir, whole_run):
    other = make_run("other")
    content = evaluate(other, data_dir, names=["plain"])
    content["manifest"]["collections"]["plain"]["sha256"] = "0" * 64
    write_json(other / "results.json", content)
    files = [(run.name, run.evaluations[0]) for run in gather([whole_run, other])]
    scores = [table for table in score_tables(files) if "on plain" in table.caption]
    assert [len(table.rows) for table in scores] == [1, 1]
    assert scores[1].caption.endswith("(test, 000000000000)")
