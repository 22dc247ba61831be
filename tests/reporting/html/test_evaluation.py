"""What the page says of results: verdicts in words, and tables."""

from __future__ import annotations

import json

import pytest

from ragcun.io import write_json
from ragcun.reporting.html.comparison import comparison
from ragcun.reporting.html.evaluation import view
from ragcun.reporting.html.gather import gather
from ragcun.reporting.html.isotropy import view as isotropy_view


def read(run, results):
    """Lay out a results file with these contents."""
    path = run / "results.json"
    write_json(path, results)
    return view(gather([run])[0].evaluations[0])


@pytest.fixture
def results(make_run, whole_run):
    """Results on two collections, and the run that they are of."""
    run = make_run()
    content = json.loads((whole_run / "results.json").read_text()) | {"model": str(run / "best_model")}
    for system in (content, content["untouched_base"], *content["baselines"].values()):
        for figures in system["datasets"].values():
            figures.pop("seen", None)
            figures.pop("unseen", None)
    return run, content


def judge(results, base, model, p, name="plain"):
    run, content = results
    content["datasets"][name]["NDCG@10"] = model
    content["untouched_base"]["datasets"][name] |= {"NDCG@10": base, "p_randomisation": p}
    found = read(run, content)
    return next(verdict for verdict in found.verdicts if verdict.dataset == name), found


@pytest.mark.parametrize(
    ("base", "model", "p", "word"),
    [
        (0.5, 0.6, 0.0499, "better"),
        (0.5, 0.6, 0.05, "not distinguishable"),
        (0.5, 0.6, 0.9, "not distinguishable"),
        (0.6, 0.5, 0.0499, "worse"),
        (0.6, 0.5, 0.05, "not distinguishable"),
        (0.6, 0.6, 0.01, "not distinguishable"),
    ],
)
def test_the_verdict_follows_from_sign_and_level(results, base, model, p, word):
    verdict, _ = judge(results, base, model, p)
    assert verdict.word == word
    assert verdict.sentence.startswith(f"{word} ")
    assert f"{model - base:+.4f} (p = {p:.4f}), 40 queries" in verdict.sentence.replace("\u00a0", " ")


def test_the_summary_counts_datasets(results):
    judge(results, 0.5, 0.6, 0.01, "hostile")
    _, found = judge(results, 0.6, 0.5, 0.01)
    (sentence,) = found.summary
    assert sentence.replace("\u00a0", " ") == (
        "Against the untouched base, by NDCG@10: better on 1 of 2 datasets (hostile, p < .05); "
        "worse on 1 of 2 datasets (plain, p < .05)."
    )


def test_a_single_query_is_not_tested(results):
    run, content = results
    base = content["untouched_base"]["datasets"]["plain"]
    for key in ("p_randomisation", "p_t", "mean_difference"):
        del base[key]
    base["n_queries"] = 1
    content["baselines"] = {}
    verdict = read(run, content).verdicts[1]
    assert (verdict.word, verdict.n_queries) == ("not tested", 1)
    assert "against the untouched base" in verdict.sentence
    assert verdict.sentence.endswith("1 query")


def test_without_a_base_there_is_no_verdict(results):
    run, content = results
    found = read(run, content | {"untouched_base": None})
    assert found.summary == []
    assert found.verdicts == []
    assert [row[0].text for row in found.tables[0].rows] == ["bm25", str(run / "best_model")]
    assert comparison(gather([run]))[0].rows[0][1].text == "–"


def test_seen_unseen_and_held_out_parts_have_verdicts_and_tables(results):
    run, content = results
    parts = {"seen": (0.9, 0.4, 0.001), "unseen": (0.45, 0.5, 0.4), "held_out": (0.3, 0.5, 0.01)}
    for part, (model, base, p) in parts.items():
        counts = {"n_queries": 20} | ({"n_documents": 1234} if part == "held_out" else {})
        content["datasets"]["plain"][part] = counts | {"NDCG@10": model}
        content["untouched_base"]["datasets"]["plain"][part] = counts | {"NDCG@10": base, "p_randomisation": p}
    found = read(run, content)
    words = {verdict.part: verdict.word for verdict in found.verdicts if verdict.part}
    assert words == {"seen": "better", "unseen": "not distinguishable", "held_out": "worse"}
    assert [sentence.split(":")[0] for sentence in found.summary] == [
        "Against the untouched base, by NDCG@10",
        "On queries whose relevant documents were no training positives",
        "Among documents hidden from training",
    ]
    assert len(found.tables) == 5
    assert found.tables[-1].caption.endswith("n = 20; 1,234 documents are ranked")
    bm25 = found.tables[-1].rows[1]
    assert [cell.text for cell in bm25] == ["bm25", "–", "–"]


def test_a_side_without_queries_is_left_out(results):
    run, content = results
    for system in (content, content["untouched_base"]):
        system["datasets"]["plain"] |= {"seen": {"n_queries": 0}, "unseen": dict(system["datasets"]["plain"])}
    assert len(read(run, content).tables) == 2


def test_tables_hold_the_figures_of_the_file(whole_run):
    (run,) = gather([whole_run])
    results = run.evaluations[0].content
    found = view(run.evaluations[0])
    assert len(found.tables) == 4
    table = found.tables[-1]
    assert table.header == ["system", "NDCG@10", "this model − it (p)", "MRR@10", "MAP@100", "Recall@100", "P@10"]
    assert table.caption == "plain: all judged queries, n = 40"
    for row, system in zip(
        table.rows, [results["untouched_base"], *results["baselines"].values(), results], strict=True
    ):
        for cell, metric in zip(row, table.header, strict=True):
            if "@" in metric:
                assert cell.text == f"{system['datasets']['plain'][metric]:.4f}"
    ndcg = [row[1] for row in table.rows]
    assert [cell.strong for cell in ndcg] == [cell.text == max(cell.text for cell in ndcg) for cell in ndcg]


def test_sizes_of_vectors_are_shown_where_they_differ(results):
    run, content = results
    content["untouched_base"]["bytes_per_vector"] = 1536
    content |= {"bytes_per_vector": 48, "precision": "binary", "truncate_dim": None}
    found = read(run, content)
    assert [row[-1].text for row in found.tables[0].rows] == ["1,536", "–", "48"]
    assert found.title.endswith(", binary")


def test_collections_of_one_name_but_other_content_are_not_mixed(make_run, evaluate, whole_run):
    other = make_run("other")
    results = evaluate(other, names=["plain"])
    results["manifest"]["collections"]["plain"]["sha256"] = "0" * 64
    write_json(other / "results.json", results)
    tables = comparison(gather([whole_run, other]))
    scores = [table for table in tables if "on plain" in table.caption]
    assert [len(table.rows) for table in scores] == [1, 1]
    assert scores[1].caption.endswith("(test, 000000000000)")


def test_isotropy_tables_hold_the_base_and_this_run_alone(make_run, write_isotropy):
    one, two = make_run("one"), make_run("two")
    path = write_isotropy(one.parent / "isotropy.json", str(one / "best_model"), str(two / "best_model"))
    runs = gather([one, two], isotropy=[path])
    for number, run in enumerate(runs, start=1):
        found = isotropy_view(run.isotropy[0], run)
        assert len(found.tables) == 4
        table = found.tables[0]
        assert table.header == ["measure", "minilm (untouched)", str(run.checkpoint), "isotropic", "rows"]
        rows = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
        assert rows["a_new_measure"] == ["0.5", f"{number}.5", "–", "40"]
        assert rows["effective rank"] == ["6.25", "6.25", "7.875", "50"]
        assert rows["condition number"] == ["–", "–", "–", "50"]
        assert all(hasattr(picture, "uri") for picture in found.pictures)


def test_without_queries_the_figure_of_pairs_says_so(make_run, write_isotropy):
    run = make_run()
    write_isotropy(run / "isotropy.json", str(run / "best_model"), judged=False)
    (run,) = gather([run])
    found = isotropy_view(run.isotropy[0], run)
    assert found.data == "plain: 50 documents, no queries"
    assert len(found.tables) == 1
    assert [hasattr(picture, "uri") for picture in found.pictures] == [True, True, True, True, False]
    assert "judged queries" in found.pictures[-1].reason
