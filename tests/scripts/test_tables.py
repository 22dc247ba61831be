"""The commands of tables and plots, from the command line to the files."""

import csv
import json
import re

import pytest

from tests.reporting.conftest import isotropy_report, measured, results

COMPARE, PAPER = "generate_comparison_table", "generate_paper_results"


def content(model, **values):
    """Results of a model beside minilm and BM25; the other metrics are a tenth higher."""
    bm25 = {"model": "bm25", "datasets": {name: {"NDCG@10": 0.55} for name in values}, "average": {"NDCG@10": 0.55}}
    found = results(model, values, base_values=dict.fromkeys(values, 0.5), p=0.001, baselines=(bm25,))
    for system in (found, found["untouched_base"], bm25):
        for scores in system["datasets"].values():
            scores |= dict.fromkeys(("MRR@10", "Recall@100", "MAP@100"), scores["NDCG@10"] + 0.1)
    return found


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder that holds a folder of results, in which scripts run."""
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "x.json").write_text(json.dumps(content("checkpoints/x", scifact=0.6, nfcorpus=0.4)))
    (folder / "y.json").write_text(json.dumps(content("checkpoints/y", scifact=0.62)))
    (folder / "isotropy.json").write_text('{"format": 1, "systems": []}')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_arguments_all_results_are_compared(run_script, place):
    shown = run_script(COMPARE)
    rows = [line.split("|")[1].strip() for line in shown.splitlines() if line.startswith("|")]
    assert rows[2:] == ["minilm (untouched)", "bm25", "checkpoints/x", "checkpoints/y"]
    assert "**0.6200 (↑↑)**" in shown
    assert "0.4000 (↓↓)" in shown


def test_the_suffix_chooses_the_format_and_the_flag_overrides_it(run_script, place):
    for name, start in (("t.tex", "\\begin{table}"), ("t.csv", "system,kind,metric"), ("t.md", "| system")):
        shown = run_script(COMPARE, "ours=results/x.json", "--results", "results/y.json", "--output", f"new/{name}")
        assert shown == f"table: new/{name}\n"
        assert (place / "new" / name).read_text().startswith(start)
        assert "ours" in (place / "new" / name).read_text()
    text = ("--format", "latex", "--output", "new/t.txt", "--label", "tab:x", "--caption", "A_B")
    run_script(COMPARE, "results/x.json", *text)
    assert "\\caption{A\\_B}\n\\label{tab:x}" in (place / "new/t.txt").read_text()
    printed = run_script(COMPARE, "results/x.json", "--format", "csv", "--metric", "MRR@10")
    assert {row["metric"] for row in csv.DictReader(printed.splitlines())} == {"MRR@10"}


def test_a_papers_tables_are_written_in_three_formats(run_script, place):
    run_script(PAPER, "--results", "results/x.json", "--output", "paper/results_table.tex")
    folder = place / "paper"
    assert sorted(path.name for path in folder.iterdir()) == [f"results_table.{end}" for end in ("csv", "md", "tex")]
    tex = (folder / "results_table.tex").read_text()
    labels = re.findall(r"^\\label{tab:results(.*)}$", tex, re.MULTILINE)
    assert labels == ["", "-mrr10", "-recall100", "-map100"]
    headings = [line for line in (folder / "results_table.md").read_text().splitlines() if line.startswith("#")]
    assert headings == ["## NDCG@10", "## MRR@10", "## Recall@100", "## MAP@100"]
    rows = list(csv.DictReader((folder / "results_table.csv").open()))
    assert len(rows) == 4 * 3 * 3
    ours = [row for row in rows if row["system"] == "checkpoints/x" and row["metric"] == "NDCG@10"]
    assert [float(row["value"]) for row in ours] == [0.6, 0.4, 0.5]


def test_a_metric_that_a_file_lacks_has_no_table(run_script, place):
    results = content("checkpoints/z", scifact=0.7)
    for part in (results, results["untouched_base"], results["baselines"]["b0"]):
        del part["datasets"]["scifact"]["MRR@10"]
    (place / "results" / "z.json").write_text(json.dumps(results))
    run_script(PAPER, "--results", "results/x.json", "results/z.json", "--output", "p.tex")
    assert "MRR@10" not in (place / "p.md").read_text()


def test_wrong_input_is_one_sentence_and_writes_nothing(fails_clearly, place):
    (place / "results" / "bad.json").write_text("{")
    (place / "results" / "x.md").write_text("report")
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    one = "results/x.json"
    for command, said in {
        (COMPARE,): "bad.json, line 1: not valid JSON",
        (COMPARE, one, "--output", "t.txt"): "--format",
        (COMPARE, one, "--format", "csv", "--output", "results/x.md"): "results/x.md would replace what ragcun",
        (COMPARE, one, "--format", "csv", "--output", one): "results/x.json would replace what ragcun",
        (PAPER, "--results", one, "--output", "results/x.tex"): "results/x.md would replace",
        (PAPER, "--results", one, "--output", "t.md"): ".tex",
        (PAPER,): "--results",
    }.items():
        assert said in fails_clearly(*command)
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before


def test_plots_are_written(run_script, fails_clearly, place):
    found = content("checkpoints/x", scifact=0.6)
    for system in (found, found["untouched_base"]):
        system |= {"precision": "float32", "truncate_dim": None, "bytes_per_vector": 1536}
    (place / "results" / "x.json").write_text(json.dumps(found))
    report = isotropy_report(measured("checkpoints/x", [1.0, 1.0, 1.0], judged=False))
    (place / "isotropy.json").write_text(json.dumps(report))
    run_script("plot_sizes", "results/x.json", "--output", "plots/sizes.png")
    flags = ("plot_isotropy_ndcg", "--results", "results/x.json", "--isotropy", "isotropy.json", "--output", "p.png")
    run_script(*flags)
    for name in ("plots/sizes.png", "p.png"):
        assert (place / name).read_bytes().startswith(b"\x89PNG")
    assert "did you mean 'isoscore'" in fails_clearly(*flags, "--measure", "isoscor")
