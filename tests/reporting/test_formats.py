"""Results files by name, which can be in one table; a comparison as Markdown, CSV and LaTeX."""

import csv
import io
import json
import math
import random
import re

import pytest

from ragcun.errors import InputError
from ragcun.reporting.comparison import compare, p_by_query, read_named, results_in
from ragcun.reporting.formats import csv_comparison, escape, latex_comparison, markdown_comparison
from ragcun.reporting.tables import check_alike
from ragcun.results import Results
from ragcun.retrieval.metrics import paired_tests
from tests.reporting.conftest import cells_of, results, system

NASTY = r"a_b & 50% #1 $x$ {y} ~/z^2 \input{q} <p|q> [n]*"


@pytest.mark.parametrize(
    ("spec", "message"),
    [("{a},{a}", "write NAME="), ("x={a},{a}", "given twice"), ("={a}", "is not of the form"),
     ("x={a},", "is not of the form"), ("x=", "is not of the form"), ("nowhere.json", "no such file: nowhere.json")],
)  # fmt: skip
def test_wrong_names_are_refused(write, spec, message):
    with pytest.raises(InputError, match=message):
        read_named(spec.format(a=write("a.json", "a", {"scifact": 0.65})))


def test_a_folders_results_are_found_and_other_files_skipped(write, tmp_path, caplog):
    with pytest.raises(InputError, match="no results files in"):
        results_in(tmp_path)
    (tmp_path / "isotropy.json").write_text('{"format": 1}')
    (tmp_path / "publication").mkdir()
    for name in ("b.json", "a.json", "publication/c.json"):
        write(name, name, {"scifact": 0.65})
    with caplog.at_level("INFO"):
        found = results_in(tmp_path)
    assert [named.files[0].path.name for named in found] == ["a.json", "b.json", "c.json"]
    assert "isotropy.json" in caplog.text
    with pytest.raises(InputError, match="no results to compare"):
        compare([])


@pytest.mark.parametrize(
    ("changes", "found"),
    [([{}, {"sha256": "other"}], "sha256 is scifact-a .* other"), ([{}, {"split": "dev"}], "split is test"),
     ([{}, {"queries": 299, "sha256": None}], "queries is 300 .* 299"),
     ([{}, {"documents": 5, "sha256": None}], "documents is 5183 .* 5 "),
     ([{"sha256": None}, {}, {"sha256": "other"}], "sha256 is scifact-a .* other")],
)  # fmt: skip
def test_versions_of_a_dataset_are_not_mixed(write, changes, found):
    """A hash that one file lacks does not hide that others differ."""
    files = []
    for place, change in enumerate(changes, 3 - len(changes)):
        content = results(f"run{place}", {"scifact": 0.6})
        content["manifest"]["collections"]["scifact"] |= change
        files.append(Results.read(write(f"{place}.json", content)))
    check_alike(files[:-1])
    with pytest.raises(InputError, match=rf"1\.json and .*2\.json .* of scifact: {found}"):
        check_alike(files)


def test_a_metric_that_a_file_lacks_is_refused_with_those_that_all_have(write):
    one, two = results("one", {"scifact": 0.65}), results("two", {"scifact": 0.66})
    for each in (one, one["untouched_base"]):
        each["datasets"]["scifact"]["MRR@10"] = 0.5
    with pytest.raises(InputError, match=r"two\.json lacks MRR@10; .*: NDCG@10"):
        check_alike([Results.read(write("one.json", one)), Results.read(write("two.json", two))], "MRR@10")


def per_query(tmp_path, ours, theirs):
    folder = tmp_path / "a.runs" / "scifact"
    folder.mkdir(parents=True, exist_ok=True)
    for slug, values in (("model", ours), ("untouched_base", theirs)):
        (folder / f"{slug}.per_query.json").write_text(json.dumps({"MRR@10": values}))


def test_other_metrics_are_tested_by_query(write, tmp_path):
    rng = random.Random(0)
    theirs = {f"q{i}": rng.random() * 0.8 for i in range(60)}
    ours = {query: value + rng.gauss(0.05, 0.1) for query, value in theirs.items()}
    content = results("run", {"scifact": 0.65}, p=0.9)
    for each, values in ((content, ours), (content["untouched_base"], theirs)):
        each["datasets"]["scifact"]["MRR@10"] = sum(values.values()) / 60
    found = Results.read(write("a.json", content))
    assert math.isnan(p_by_query(found, "scifact", "MRR@10"))
    per_query(tmp_path, ours, theirs)
    assert p_by_query(found, "scifact", "MRR@10") == paired_tests(ours, theirs).p_randomisation < 0.01
    other = {("x" if query == "q0" else query): value for query, value in ours.items()}
    for wrong, message in (
        ({**ours, "q0": ours["q0"] + 0.1}, r"model\.per_query\.json is not of .*a\.json"), (other, "different queries"),
    ):  # fmt: skip
        per_query(tmp_path, wrong, theirs)
        with pytest.raises(InputError, match=message):
            p_by_query(found, "scifact", "MRR@10")


@pytest.fixture
def comparison(write):
    """Two seeds of a model beside its base, and BM25 on one of two datasets, as good as the model at four decimals."""

    def of(name="ours"):
        bm25 = (system("bm25", {"scifact": 0.72001}),)
        files = [
            write(f"{seed}.json", f"run{seed}", {"scifact": value, "nfcorpus": 0.3}, p=0.001 * seed, baselines=bm25)
            for seed, value in ((1, 0.71), (2, 0.73))
        ]
        return compare([read_named(",".join(files[:1] if name is None else [f"{name}={files[0]}", files[1]]))])

    return of


def test_markdown_holds_values_deviations_marks_and_notes(comparison):
    table, notes = markdown_comparison(comparison()).split("\n\n")
    rows = cells_of(table)
    assert rows[0] == ["system", "scifact (300 queries)", "nfcorpus (323 queries)"]
    assert rows[2:] == [
        ["minilm (untouched)", "0.6450", "**0.3160**"],
        ["bm25", "**0.7200**", "–"],
        ["ours", "**0.7200 ± 0.0141 (↑↑)**", "0.3000 ± 0.0000 (↓↓)"],
    ]
    assert "p < 0.05" in notes
    assert "not corrected" in notes


def test_embeddings_have_columns_beside_ndcg(write):
    content = results("run", {"scifact": 0.65, "nfcorpus": 0.3}) | {"trained_parameters": 147840}
    for each, score in ((content, 0.5), (content["untouched_base"], -1.25)):
        for place, scores in enumerate(each["datasets"].values()):
            scores["space"] = {"isotropy_score": score + place, "mean_norm": 2.0 + place, "norm_deviation": 0.125}
    comparison = compare([read_named(write("a.json", content))])
    table, notes = markdown_comparison(comparison).split("\n\n")
    rows = [row[4:] for row in cells_of(table)]
    assert rows[0] == ["isotropy score", "mean norm", "norm deviation", "trained parameters"]
    assert rows[2:] == [["-0.7500", "2.5000", "0.1250", "–"], ["1.0000", "2.5000", "0.1250", "147,840"]]
    assert "scifact, nfcorpus" in notes.partition("Isotropy score")[2]
    lines = list(csv.DictReader(io.StringIO(csv_comparison([comparison]))))
    found = {(line["system"], line["metric"]): float(line["value"]) for line in lines if not line["dataset"]}
    assert found["run", "trained parameters"] == 147840
    assert found["minilm (untouched)", "isotropy score"] == -0.75
    assert len(found) == 7


def test_the_csv_holds_every_cell_in_full_and_no_formula(write):
    values = {"scifact": 0.1 + 0.2, "nfcorpus": 1 / 3}
    for name in ("=1+1", "@x", "+x", "-x", 'a,"b"'):
        comparison = compare([read_named(write("b.json", results(name, values, p=0.03)))])
        rows = list(csv.DictReader(io.StringIO(csv_comparison([comparison]))))[3:]
        shown = name if name[0] == "a" else f"'{name}"
        assert {(row["system"], row["kind"]) for row in rows} == {(shown, "model")}
        assert [float(row["value"]) for row in rows[:2]] == list(values.values())
        assert [(row["dataset"], row["queries"], row["p"], row["marks"]) for row in rows] == [
            ("scifact", "300", "0.03", "-1"), ("nfcorpus", "323", "0.03", "1"), ("average", "", "", "0"),
        ]  # fmt: skip


def test_latex_escapes_every_name_and_has_a_caption_and_a_label(comparison):
    table = latex_comparison(comparison(NASTY), NASTY, "tab:x")
    assert table.count(escape(NASTY)) == 3
    assert NASTY not in table
    assert {line.count("&") for line in table.replace(r"\&", "").splitlines() if "&" in line} == {2}
    table = latex_comparison(comparison(), None, "tab:main-1")
    assert r"\label{tab:main-1}" in table
    assert "NDCG@10" in re.search(r"\\caption\{(.*)\}", table)[1]
    for label in ("", "a b", "a}b", "a%"):
        with pytest.raises(InputError, match="--label"):
            latex_comparison(comparison(), None, label)


def test_latex_rows_are_grouped_and_hold_the_figures(comparison):
    table = latex_comparison(comparison(), None, "tab:x")
    groups = [part.splitlines() for part in table.split(r"\toprule")[1].split(r"\bottomrule")[0].split(r"\midrule")]
    cells = [[[cell.strip() for cell in line.removesuffix(r"\\").split("&")] for line in group if line.strip()]
             for group in groups]  # fmt: skip
    assert cells == [
        [["", "scifact", "nfcorpus"], ["", "300 queries", "323 queries"]],
        [["minilm (untouched)", "0.6450", r"\textbf{0.3160}"], ["bm25", r"\textbf{0.7200}", "--"]],
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
