"""The LaTeX table: it is well formed, holds what the comparison holds, and prints every name as it is."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from ragcun.errors import InputError
from ragcun.reporting.comparison import Cell, Comparison, Row
from ragcun.reporting.latex import escape, latex_table

NASTY = r"a_b & 50% #1 $x$ {y} ~/z^2 \input{q} <p|q> [n]*"


def comparison(average=True, model="run/a"):
    base = Row("minilm (untouched)", "base", {"one": Cell(0.645), "two": Cell(0.31)}, Cell(0.4775))
    bm25 = Row("bm25", "baseline", {"one": Cell(0.676)}, Cell(0.676))
    cells = {"one": Cell(0.7, 3, 0.0123, 0.001, 2, best=True), "two": Cell(0.3, marks=-1, p=0.04)}
    ours = Row(model, "model", cells, Cell(0.5, best=True), "minilm (untouched)")
    return Comparison("NDCG@10", {"one": 1300, "two": 20}, (base, bm25, ours), ("one", "two") if average else ("one",))


def body(table):
    """The rows between the rules, each a list of its cells."""
    inside = table.split(r"\toprule")[1].split(r"\bottomrule")[0]
    parts = [part.strip() for part in inside.split(r"\midrule")]
    return [[re.split(r"(?<!\\)&", line.removesuffix(r" \\")) for line in part.splitlines()] for part in parts]


def width(cells):
    return sum(int(found[1]) if (found := re.search(r"\\multicolumn\{(\d)\}", cell)) else 1 for cell in cells)


def without_escapes(text):
    return re.sub(r"\\[\\{}$&#%_]", "", text)


@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize("model", ["run/a", NASTY])
def test_it_is_well_formed(average, model):
    table = latex_table(comparison(average, model), caption=NASTY)
    plain = without_escapes(table)
    depth = 0
    for character in plain:
        depth += (character == "{") - (character == "}")
        assert depth >= 0
    assert depth == 0
    assert plain.count("$") % 2 == 0
    assert not re.search(r"[#%~]|\\input", plain)
    opened = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", table):
        if kind == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert opened == []
    columns = re.search(r"\\begin\{tabular\}\{(l(?:r@\{\}l)*)\}", table)[1]
    count = 1 + 2 * columns.count("r@{}l")
    assert count == (7 if average else 5)
    assert {width(row) for part in body(table) for row in part} == {count}
    assert all(line.endswith(r" \\") for line in table.splitlines() if "&" in without_escapes(line))


def test_rows_stand_in_parts_with_numbers_and_marks_side_by_side():
    header, reference, models = body(latex_table(comparison()))
    shown = [[cell.strip() for cell in row] for row in header]
    assert shown[0] == ["system", *(rf"\multicolumn{{2}}{{c}}{{{name}}}" for name in ("one", "two", "average"))]
    assert shown[1][1] == r"\multicolumn{2}{c}{1,300 queries}"
    assert [[cell.strip() for cell in row] for row in reference] == [
        ["minilm (untouched)", "0.6450", "", "0.3100", "", "0.4775", ""],
        ["bm25", "0.6760", "", "--", "", "0.6760", ""],
    ]
    assert [[cell.strip() for cell in row] for row in models] == [
        ["run/a", r"\textbf{0.7000}", r"\,$\pm$ 0.0123$^{\uparrow\uparrow}$", "0.3000", r"$^{\downarrow}$",
         r"\textbf{0.5000}", ""],
    ]  # fmt: skip


def test_without_models_there_is_no_rule_for_them():
    whole = comparison()
    table = latex_table(Comparison(whole.metric, whole.queries, whole.rows[:1], whole.averaged))
    assert table.count(r"\midrule") == 1


def test_escaping_can_be_undone():
    """Reading the escapes back gives the text, and without them no character is left that LaTeX would take."""
    back = {r"\textbackslash{}": "\\", r"\textasciicircum{}": "^", r"\textasciitilde{}": "~", r"\textless{}": "<",
            r"\textgreater{}": ">", r"\textbar{}": "|", "{[}": "[", "{*}": "*"}  # fmt: skip
    pattern = "|".join(map(re.escape, back)) + r"|\\([{}$&#%_])"
    assert re.sub(pattern, lambda found: found[1] or back[found[0]], escape(NASTY)) == NASTY
    assert not set(re.sub(pattern, "", escape(NASTY))) & set("\\{}$&#%_^~<>|[*")
    assert escape("a\n\n b") == "a b"


def test_caption_and_label():
    table = latex_table(comparison(), "100% of R&D", "tab:main-1")
    assert r"\caption{100\% of R\&D}" in table
    assert r"\label{tab:main-1}" in table
    assert table.index(r"\caption") < table.index(r"\label")
    assert r"\caption{NDCG@10 on each dataset.}" in latex_table(comparison())
    for label in ("", "a b", "a}b", "a%"):
        with pytest.raises(InputError, match="--label"):
            latex_table(comparison(), label=label)


def test_it_compiles(tmp_path):
    if shutil.which("pdflatex") is None:
        pytest.skip("no pdflatex here")
    document = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n%s\\end{document}\n"
    (tmp_path / "t.tex").write_text(document % latex_table(comparison(model=NASTY), NASTY))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "t.pdf").exists()
