"""A comparison as Markdown, CSV and LaTeX: each holds what was compared, and every name is printed as it is."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess

import pytest

from ragcun.errors import InputError
from ragcun.reporting.comparison import compare
from ragcun.reporting.files import read_named
from ragcun.reporting.formats import csv_comparison, escape, latex_comparison, markdown_comparison
from tests.reporting.samples import results, system

NASTY = r"a_b & 50% #1 $x$ {y} ~/z^2 \input{q} <p|q> [n]*"


@pytest.fixture
def comparison(write):
    """Two seeds of a model beside its base, and BM25 on one of two datasets."""

    def of(name="ours"):
        bm25 = (system("bm25", {"scifact": 0.676}),)
        files = [
            write(f"{seed}.json", f"run{seed}", {"scifact": value, "nfcorpus": 0.3}, p=0.001 * seed, baselines=bm25)
            for seed, value in ((1, 0.71), (2, 0.73))
        ]
        return compare([read_named(",".join(files[:1] if name is None else [f"{name}={files[0]}", files[1]]))])

    return of


def test_markdown_holds_values_deviations_marks_and_notes(comparison):
    table, notes = markdown_comparison(comparison()).split("\n\n")
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]
    assert rows[0] == ["system", "scifact (300 queries)", "nfcorpus (323 queries)"]
    assert rows[2:] == [
        ["minilm (untouched)", "0.6450", "**0.3160**"],
        ["bm25", "0.6760", "–"],
        ["ours", "**0.7200 ± 0.0141 (↑↑)**", "0.3000 ± 0.0000 (↓↓)"],
    ]
    assert "p < 0.05" in notes
    assert "not corrected" in notes


def test_the_csv_holds_every_cell_in_full_and_no_formula(write):
    values = {"scifact": 0.1 + 0.2, "nfcorpus": 1 / 3}
    for name in ("=1+1", "@x", "+x", "-x", 'a,"b"'):
        comparison = compare([read_named(write("b.json", results(name, values, p=0.03)))])
        rows = list(csv.DictReader(io.StringIO(csv_comparison([comparison]))))
        shown = name if name[0] == "a" else f"'{name}"
        assert [(row["system"], row["kind"], row["dataset"]) for row in rows[3:]] == [
            (shown, "model", "scifact"), (shown, "model", "nfcorpus"), (shown, "model", "average"),
        ]  # fmt: skip
        assert [float(row["value"]) for row in rows[3:5]] == list(values.values())
        assert [(row["queries"], row["p"], row["marks"]) for row in rows[3:]] == [
            ("300", "0.03", "-1"), ("323", "0.03", "1"), ("", "", "0"),
        ]  # fmt: skip


def without_escapes(text):
    return re.sub(r"\\[\\{}$&#%_]", "", text)


def test_latex_is_well_formed_whatever_names_hold(comparison):
    table = latex_comparison(comparison(NASTY), NASTY, "tab:x")
    plain = without_escapes(table)
    depth = 0
    for character in plain:
        depth += (character == "{") - (character == "}")
        assert depth >= 0
    assert depth == 0
    assert plain.count("$") % 2 == 0
    assert not re.search(r"[#%~]|\\input", plain)
    rows = [re.split("&", without_escapes(line)) for line in table.splitlines() if "&" in without_escapes(line)]
    assert {len(row) for row in rows} == {3}
    assert all(not row[0].lstrip().startswith(("[", "*")) for row in rows)


def test_latex_rows_are_grouped_and_hold_the_figures(comparison):
    table = latex_comparison(comparison(), None, "tab:x")
    groups = [part.splitlines() for part in table.split(r"\toprule")[1].split(r"\bottomrule")[0].split(r"\midrule")]
    cells = [[[cell.strip() for cell in line.removesuffix(r"\\").split("&")] for line in group if line.strip()]
             for group in groups]  # fmt: skip
    assert cells == [
        [["", "scifact", "nfcorpus"], ["", "300 queries", "323 queries"]],
        [["minilm (untouched)", "0.6450", r"\textbf{0.3160}"], ["bm25", "0.6760", "--"]],
        [["ours", r"\textbf{0.7200 $\pm$ 0.0141 ($\uparrow$$\uparrow$)}",
          r"0.3000 $\pm$ 0.0000 ($\downarrow$$\downarrow$)"]],
    ]  # fmt: skip
    assert "not corrected for the number of tests" in table


def test_latex_escaping_can_be_undone():
    """Reading the escapes back gives the text, and without them no character is left that LaTeX would take."""
    back = {r"\textbackslash{}": "\\", r"\textasciicircum{}": "^", r"\textasciitilde{}": "~", r"\textless{}": "<",
            r"\textgreater{}": ">", r"\textbar{}": "|", "{[}": "[", "{*}": "*"}  # fmt: skip
    pattern = "|".join(map(re.escape, back)) + r"|\\([{}$&#%_])"
    assert re.sub(pattern, lambda found: found[1] or back[found[0]], escape(NASTY)) == NASTY
    assert not set(re.sub(pattern, "", escape(NASTY))) & set("\\{}$&#%_^~<>|[*")
    assert escape("a\n\n b") == "a b"


def test_latex_caption_and_label(comparison):
    table = latex_comparison(comparison(), "100% of R&D", "tab:main-1")
    assert r"\caption{100\% of R\&D}" in table
    assert r"\label{tab:main-1}" in table
    assert "NDCG@10" in re.search(r"\\caption\{(.*)\}", latex_comparison(comparison(), None, "tab:x"))[1]
    for label in ("", "a b", "a}b", "a%"):
        with pytest.raises(InputError, match="--label"):
            latex_comparison(comparison(), None, label)


@pytest.mark.slow
def test_latex_compiles(comparison, tmp_path):
    if shutil.which("pdflatex") is None:
        pytest.skip("no pdflatex here")
    document = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n%s\\end{document}\n"
    (tmp_path / "t.tex").write_text(document % latex_comparison(comparison(NASTY), NASTY, "tab:x"))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
