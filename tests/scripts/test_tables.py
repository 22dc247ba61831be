"""generate_comparison_table.py and generate_paper_results.py from the command line to the files."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMPARE, PAPER = (f"scripts/generate_{name}.py" for name in ("comparison_table", "paper_results"))


def system(model, **values):
    """Figures of a system: its value on each dataset, of NDCG@10; the others are a tenth higher."""
    metrics = ("NDCG@10", "MRR@10", "Recall@100", "MAP@100")
    figures = {name: dict.fromkeys(metrics, value + 0.1) | {"NDCG@10": value} for name, value in values.items()}
    return {"model": model, "datasets": figures}


def content(model, **values):
    base = system("minilm", **dict.fromkeys(values, 0.5))
    for figures in base["datasets"].values():
        figures |= {"n_queries": 300, "p_randomisation": 0.001}
    collections = {name: {"split": "test", "queries": 300, "documents": 5000, "sha256": name} for name in values}
    return {
        **system(model, **values),
        "distance": "euclidean",
        "untouched_base": base,
        "baselines": {"bm25": system("bm25", **dict.fromkeys(values, 0.55))},
        "manifest": {"tested": "NDCG@10", "collections": collections},
    }


@pytest.fixture
def place(tmp_path):
    """A folder that holds the scripts and a folder of results, as a checkout does."""
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    results = tmp_path / "results"
    results.mkdir()
    (results / "x.json").write_text(json.dumps(content("checkpoints/x", scifact=0.6, nfcorpus=0.4)))
    (results / "y.json").write_text(json.dumps(content("checkpoints/y", scifact=0.62)))
    (results / "isotropy.json").write_text('{"format": 1, "systems": []}')
    return tmp_path


@pytest.fixture
def run(place):
    """Run a script in the folder as a user does."""

    def in_folder(*arguments):
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)

    return in_folder


@pytest.fixture
def fails(run, place):
    """Run a script that has to fail with one sentence and to leave every file as it was; return the sentence."""

    def with_sentence(*arguments):
        before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
        done = run(*arguments)
        assert done.returncode == 2, done
        assert "Traceback" not in done.stderr
        assert done.stdout == ""
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith(f"{Path(arguments[0]).name}: error: ")
        assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before
        return last

    return with_sentence


def test_without_arguments_all_results_are_compared(run):
    done = run(COMPARE)
    assert done.returncode == 0, done.stderr
    rows = [line.split("|")[1].strip() for line in done.stdout.splitlines() if line.startswith("|")]
    assert rows[2:] == ["minilm (untouched)", "bm25", "checkpoints/x", "checkpoints/y"]
    assert "isotropy.json is not a results file" in done.stderr
    assert "**0.6200 (↑↑)**" in done.stdout
    assert "0.4000 (↓↓)" in done.stdout


def test_the_suffix_chooses_the_format_and_the_flag_overrides_it(run, place):
    for name, start in (("t.tex", "\\begin{table}"), ("t.csv", "system,kind,metric"), ("t.md", "| system")):
        done = run(COMPARE, "ours=results/x.json", "--results", "results/y.json", "--output", f"new/{name}")
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"table: new/{name}\n"
        assert (place / "new" / name).read_text().startswith(start)
        assert "ours" in (place / "new" / name).read_text()
    done = run(
        COMPARE, "results/x.json", "--format", "latex", "--output", "new/t.txt", "--label", "tab:x", "--caption", "A_B"
    )
    assert done.returncode == 0, done.stderr
    assert "\\caption{A\\_B}\n\\label{tab:x}" in (place / "new/t.txt").read_text()
    printed = run(COMPARE, "results/x.json", "--format", "csv", "--metric", "MRR@10").stdout
    assert {row["metric"] for row in csv.DictReader(printed.splitlines())} == {"MRR@10"}


def test_seeds_are_averaged(run):
    done = run(COMPARE, "ours=results/x.json,results/y.json")
    assert "0.6100 ± 0.0141 (↑↑)" in done.stdout


def test_a_papers_tables_are_written_in_three_formats(run, place):
    done = run(PAPER, "--results", "results/x.json", "--output", "paper/results_table.tex")
    assert done.returncode == 0, done.stderr
    folder = place / "paper"
    assert sorted(path.name for path in folder.iterdir()) == [f"results_table.{end}" for end in ("csv", "md", "tex")]
    tex = (folder / "results_table.tex").read_text()
    assert [line for line in tex.splitlines() if line.startswith("\\label")] == [
        "\\label{tab:results}", "\\label{tab:results-mrr10}", "\\label{tab:results-recall100}",
        "\\label{tab:results-map100}",
    ]  # fmt: skip
    headings = [line for line in (folder / "results_table.md").read_text().splitlines() if line.startswith("#")]
    assert headings == ["## NDCG@10", "## MRR@10", "## Recall@100", "## MAP@100"]
    rows = list(csv.DictReader((folder / "results_table.csv").open()))
    assert len(rows) == 4 * 3 * 3
    assert [float(row["value"]) for row in rows if row["system"] == "checkpoints/x" and row["metric"] == "NDCG@10"] == [
        0.6, 0.4, 0.5,
    ]  # fmt: skip


def test_a_metric_that_a_file_lacks_has_no_table(run, place):
    results = content("checkpoints/z", scifact=0.7)
    for part in (results, results["untouched_base"], results["baselines"]["bm25"]):
        del part["datasets"]["scifact"]["MRR@10"]
    (place / "results" / "z.json").write_text(json.dumps(results))
    done = run(PAPER, "--results", "results/x.json", "results/z.json", "--output", "p.tex")
    assert done.returncode == 0, done.stderr
    assert "MRR@10: not in all files" in done.stderr
    assert "MRR@10" not in (place / "p.md").read_text()


def test_wrong_input_is_one_sentence_and_writes_nothing(fails, place):
    (place / "results" / "bad.json").write_text("{")
    assert "bad.json, line 1: not valid JSON" in fails(COMPARE)
    assert "nowhere.json" in fails(COMPARE, "nowhere.json", "--output", "t.md")
    assert "x.json lacks NDCG@7" in fails(COMPARE, "results/x.json", "--metric", "NDCG@7", "--output", "t.md")
    assert "the format is unclear" in fails(COMPARE, "results/x.json", "--output", "t.txt")
    assert "--label" in fails(COMPARE, "results/x.json", "--output", "t.tex", "--label", "a b")
    assert "isotropy.json is not a results file" in fails(PAPER, "--results", "results/isotropy.json")
    assert "let its name end in .tex" in fails(PAPER, "--results", "results/x.json", "--output", "t.md")
    assert "--results" in fails(PAPER)


def test_a_missing_base_and_another_version_of_a_dataset_are_refused(fails, place):
    results = content("bm25", scifact=0.6) | {"distance": "bm25", "untouched_base": None, "baselines": {}}
    (place / "bm25.json").write_text(json.dumps(results))
    assert "no untouched base" in fails(PAPER, "--results", "bm25.json", "--output", "t.tex")
    other = content("z", scifact=0.6)
    other["manifest"]["collections"]["scifact"]["sha256"] = "other"
    (place / "z.json").write_text(json.dumps(other))
    sentence = fails(PAPER, "--results", "results/x.json", "z.json", "--output", "t.tex")
    assert "results/x.json and z.json are of different versions of scifact" in sentence


def test_what_an_evaluation_wrote_is_not_replaced(fails, place):
    (place / "results" / "x.md").write_text("report")
    for output in ("results/x.md", "results/x.json"):
        sentence = fails(COMPARE, "results/x.json", "--format", "csv", "--output", output)
        assert f"{output} would replace what evaluate_beir.py wrote" in sentence
    assert "results/x.md would replace" in fails(PAPER, "--results", "results/x.json", "--output", "results/x.tex")


def test_an_empty_place_has_one_clear_sentence(fails, place):
    for path in (place / "results").iterdir():
        path.unlink()
    assert "no results files in results; name some, or write them with evaluate_beir.py" in fails(COMPARE)
    (place / "results").rmdir()
    assert "no results files in results" in fails(COMPARE)
