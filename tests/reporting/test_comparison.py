"""Several evaluations in one comparison: rows, averages, marks, seeds, and what is refused."""

from __future__ import annotations

import csv
import io
import json
import math
import random
import subprocess
import sys

import pytest

from ragcun.errors import InputError
from ragcun.reporting.comparison import compare
from ragcun.reporting.layout import csv_comparison, markdown_comparison, marks_text, notes_of
from ragcun.reporting.results_files import read_named, results_in
from ragcun.retrieval.significance import paired_tests

SIZES = {"scifact": (300, 5183), "nfcorpus": (323, 3633), "cranfield": (225, 1400)}
BASE = {"scifact": 0.645, "nfcorpus": 0.316, "cranfield": 0.395}


def part(name, values, p=None, metric="NDCG@10", **record):
    tests = {} if p is None else {"n_queries": 300, "p_randomisation": p, "p_t": p}
    return {"model": name, **record, "datasets": {key: {metric: value, **tests} for key, value in values.items()}}


def described(name, sha256="a"):
    queries, documents = SIZES[name]
    return {"split": "test", "queries": queries, "documents": documents, "sha256": f"{name}-{sha256}"}


def results(model, values, base="minilm", p=0.2, base_values=BASE, baselines=(), distance="euclidean", **manifest):
    """Content of a results file; `base` None is a model without one beside it."""
    before = {name: base_values[name] for name in values}
    collections = {name: described(name) for name in values}
    return {
        **part(model, values),
        "distance": distance,
        "untouched_base": None if base is None else part(base, before, p),
        "baselines": {f"b{place}": baseline for place, baseline in enumerate(baselines)},
        "manifest": {"tested": "NDCG@10", "seed": 0, "collections": collections} | manifest,
    }


@pytest.fixture
def write(tmp_path):
    """Write results under a name; return the path as text."""

    def to_file(name, *arguments, **options):
        content = arguments[0] if isinstance(arguments[0], dict) else results(*arguments, **options)
        (tmp_path / name).write_text(json.dumps(content))
        return str(tmp_path / name)

    return to_file


def compared(*specs, metric="NDCG@10"):
    return compare([read_named(spec) for spec in specs], metric)


def by_title(comparison):
    return {row.title: row for row in comparison.rows}


def test_bases_and_baselines_stand_once_before_the_models(write):
    bm25 = part("bm25", {"scifact": 0.676}, 0.1)
    one = write("a.json", "run/a", {"scifact": 0.65}, baselines=[bm25])
    two = write("b.json", "run/b", {"nfcorpus": 0.33, "scifact": 0.66}, baselines=[bm25, part("old", {"scifact": 0.5})])
    other = write("c.json", "run/c", {"scifact": 0.7}, base="mpnet", base_values={"scifact": 0.69})
    comparison = compared(one, two, other)
    assert [(row.title, row.kind) for row in comparison.rows] == [
        ("minilm (untouched)", "base"), ("mpnet (untouched)", "base"), ("bm25", "baseline"), ("old", "baseline"),
        ("run/a", "model"), ("run/b", "model"), ("run/c", "model"),
    ]  # fmt: skip
    assert comparison.queries == {"scifact": 300, "nfcorpus": 323}
    rows = by_title(comparison)
    assert {name: cell.value for name, cell in rows["minilm (untouched)"].cells.items()} == {
        name: BASE[name] for name in ("scifact", "nfcorpus")
    }
    assert set(rows["run/a"].cells) == {"scifact"}
    assert "Tested against: run/a against minilm (untouched); run/b" in " ".join(notes_of(comparison))


def test_published_models_are_bases_and_bm25_is_a_baseline(write):
    alone = write("minilm.json", "minilm", BASE, base=None)
    bm25 = write("bm25.json", "bm25", {"scifact": 0.676}, base=None, distance="bm25")
    run = write("run.json", "run", {"scifact": 0.7}, baselines=[part("minilm", {"cranfield": BASE["cranfield"]})])
    comparison = compared(run, bm25, alone)
    assert [(row.title, row.kind) for row in comparison.rows] == [
        ("minilm (untouched)", "base"), ("bm25", "baseline"), ("run", "model"),
    ]  # fmt: skip
    assert set(by_title(comparison)["minilm (untouched)"].cells) == set(BASE)


def test_names_on_the_command_line_are_the_rows_names(write):
    bare = write("minilm.json", "minilm", {"scifact": BASE["scifact"]}, base=None)
    bm25 = write("bm25.json", "bm25", {"scifact": 0.6}, base=None, distance="bm25")
    run = write("run.json", "run", {"scifact": 0.7})
    comparison = compared(f"MiniLM={bare}", f"BM25={bm25}", f"ours={run}")
    assert [row.title for row in comparison.rows] == ["MiniLM (untouched)", "BM25", "ours"]
    assert by_title(comparison)["ours"].base == "MiniLM (untouched)"


def test_a_table_without_an_untouched_base_is_refused(write):
    bm25 = write("bm25.json", "bm25", {"scifact": 0.6}, base=None, distance="bm25")
    with pytest.raises(InputError, match=r"bm25\.json and the other files hold no untouched base; evaluate"):
        compared(bm25)


def test_a_trained_model_cannot_pass_for_an_untouched_one(write):
    stored = write("s.json", "run", {"scifact": 0.7}, base=None, command="scripts/evaluate_beir.py --model run.json -x")
    with pytest.raises(InputError, match=r"s\.json has no untouched base beside run; evaluate again"):
        compared(stored)
    small = results("minilm", {"scifact": 0.6}, base=None) | {"precision": "int8", "truncate_dim": None}
    with pytest.raises(InputError, match=r"small\.json has no untouched base beside minilm, int8"):
        compared(write("small.json", small))
    alone = write("alone.json", "run", {"scifact": 0.7}, base=None)
    beside = write("beside.json", "run", {"scifact": 0.7})
    with pytest.raises(InputError, match=r"run is trained in .*beside\.json and an untouched base in another"):
        compared(alone, beside)


def test_a_model_with_small_vectors_is_tested_against_itself_untouched(write):
    small = results("minilm", {"scifact": 0.6}, p=0.001) | {"precision": "int8", "truncate_dim": 128}
    comparison = compared(write("small.json", small))
    assert [row.title for row in comparison.rows] == ["minilm (untouched)", "minilm, 128 dimensions, int8"]
    assert comparison.rows[1].cells["scifact"].marks == -2


@pytest.mark.parametrize(
    ("p", "value", "marks"),
    [(0.05, 0.7, 0), (0.0499, 0.7, 1), (0.01, 0.7, 1), (0.0099, 0.7, 2), (0.0, 0.7, 2),
     (0.02, 0.6, -1), (0.001, 0.6, -2), (0.5, 0.6, 0), (0.0, BASE["scifact"], 0)],
)  # fmt: skip
def test_marks_tell_level_and_direction(write, p, value, marks):
    cell = compared(write("a.json", "run", {"scifact": value}, p=p)).rows[-1].cells["scifact"]
    assert (cell.marks, cell.p) == (marks, p)
    assert marks_text(cell) == {2: "↑↑", 1: "↑", 0: "", -1: "↓", -2: "↓↓"}[marks]


def test_the_average_is_over_the_datasets_of_all_rows(write):
    bm25 = part("bm25", {"scifact": 0.676, "cranfield": 0.358})
    one = write("a.json", "run", {"scifact": 0.65, "nfcorpus": 0.3, "cranfield": 0.4}, baselines=[bm25])
    comparison = compared(one)
    assert comparison.averaged == ("scifact", "cranfield")
    averages = [row.average.value for row in comparison.rows]
    assert averages == pytest.approx([(0.645 + 0.395) / 2, (0.676 + 0.358) / 2, (0.65 + 0.4) / 2], abs=1e-15)
    notes = notes_of(comparison)
    assert "Average over the datasets that all rows have, each of equal weight: scifact, cranfield (2 of 3)." in notes
    assert "–: not evaluated." in notes


@pytest.mark.parametrize(
    ("second", "note"), [({"nfcorpus": 0.3}, "no dataset"), ({"nfcorpus": 0.3, "scifact": 0.6}, "only scifact")]
)
def test_no_average_over_fewer_than_two_datasets(write, second, note):
    comparison = compared(write("a.json", "one", {"scifact": 0.65}), write("b.json", "two", second))
    assert all(row.average is None for row in comparison.rows)
    assert f"No average: all rows share {note}." in notes_of(comparison)


def test_seeds_become_mean_and_sample_deviation(write):
    values = [(0.70, 0.33), (0.73, 0.34), (0.71, 0.32)]
    files = [
        write(f"{seed}.json", f"run/{seed}", {"scifact": scifact, "nfcorpus": nfcorpus}, p=0.001 * (seed + 8))
        for seed, (scifact, nfcorpus) in enumerate(values)
    ]
    comparison = compared(f"ours={','.join(files)}")
    row = by_title(comparison)["ours"]
    cell = row.cells["scifact"]
    mean = (0.70 + 0.73 + 0.71) / 3
    assert cell.value == pytest.approx(mean, abs=1e-12)
    assert cell.sd == pytest.approx(math.sqrt(sum((v - mean) ** 2 for v, _ in values) / 2), abs=1e-12)
    assert (cell.seeds, cell.p, cell.marks) == (3, 0.01, 1)
    halves = [(scifact + nfcorpus) / 2 for scifact, nfcorpus in values]
    mean = sum(halves) / 3
    assert row.average.value == pytest.approx(mean, abs=1e-12)
    assert row.average.sd == pytest.approx(math.sqrt(sum((half - mean) ** 2 for half in halves) / 2), abs=1e-12)
    assert "over seeds (ours 3); marked where every seed" in " ".join(notes_of(comparison))
    assert "0.7133 ± 0.0153 (↑)" in markdown_comparison(comparison)


@pytest.mark.parametrize(
    ("seeds", "marks"),
    [([(0.7, 0.001), (0.7, 0.06)], 0), ([(0.7, 0.001), (0.6, 0.001)], 0), ([(0.6, 0.02), (0.5, 0.001)], -1)],
)
def test_seeds_are_marked_only_where_all_agree(write, seeds, marks):
    files = [write(f"{i}.json", f"run{i}", {"scifact": value}, p=p) for i, (value, p) in enumerate(seeds)]
    cell = by_title(compared(f"x={','.join(files)}"))["x"].cells["scifact"]
    assert cell.marks == marks
    assert cell.p == max(p for _, p in seeds)


def test_queries_answered_by_training_positives_are_counted(write):
    contents = [results(f"run{seed}", {"scifact": 0.8, "nfcorpus": 0.3}) for seed in (1, 2)]
    for content, seen in zip(contents, (196, 190), strict=True):
        content["datasets"]["scifact"]["seen"] = {"n_queries": seen, "NDCG@10": 0.9}
        content["datasets"]["nfcorpus"]["seen"] = {"n_queries": 0}
    files = [write(f"{seed}.json", content) for seed, content in enumerate(contents)]
    notes = notes_of(compared(f"ours={','.join(files)}"))
    assert notes[-1] == "Queries with a relevant document that was a training positive: ours on scifact 196 of 300."
    assert "training positive" not in " ".join(notes_of(compared(write("x.json", "x", {"scifact": 0.8}))))


def test_seeds_of_different_datasets_are_counted_apart(write):
    files = [
        write("s1.json", "s1", {"scifact": 0.7}), write("s2.json", "s2", {"scifact": 0.72}),
        write("n1.json", "n1", {"nfcorpus": 0.33}),
    ]  # fmt: skip
    comparison = compared(f"ours={','.join(files)}")
    row = by_title(comparison)["ours"]
    assert {name: (cell.seeds, cell.sd is None) for name, cell in row.cells.items()} == {
        "scifact": (2, False), "nfcorpus": (1, True),
    }  # fmt: skip
    assert row.average.value == pytest.approx((0.71 + 0.33) / 2, abs=1e-12)
    assert row.average.sd is None
    assert "ours 2 on scifact, 1 on nfcorpus" in " ".join(notes_of(comparison))
    files.append(write("n2.json", "n2", {"nfcorpus": 0.35}))
    row = by_title(compared(f"ours={','.join(files)}"))["ours"]
    assert {cell.seeds for cell in row.cells.values()} == {2}
    assert row.average.value == pytest.approx((0.71 + 0.34) / 2, abs=1e-12)
    assert row.average.sd is None


def test_the_best_of_a_column_is_bold_ties_at_four_decimals_alike(write):
    one = write("a.json", "one", {"scifact": 0.70001, "nfcorpus": 0.3})
    two = write("b.json", "two", {"scifact": 0.70004, "nfcorpus": 0.2})
    comparison = compared(one, two)
    rows = by_title(comparison)
    assert [row.cells["scifact"].best for row in comparison.rows] == [False, True, True]
    assert [row.cells["nfcorpus"].best for row in comparison.rows] == [True, False, False]
    assert [row.average.best for row in comparison.rows] == [False, True, False]
    table = markdown_comparison(comparison).split("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]
    assert cells[0] == ["system", "scifact (300 queries)", "nfcorpus (323 queries)", "average"]
    assert cells[2] == ["minilm (untouched)", "0.6450", "**0.3160**", "0.4805"]
    assert cells[3] == ["one", "**0.7000**", "0.3000", "**0.5000**"]
    assert rows["one"].cells["scifact"].value == 0.70001


def test_the_csv_holds_every_cell_in_full_and_no_formula(write):
    values = {"scifact": 0.1 + 0.2, "nfcorpus": 1 / 3}
    for name in ("=1+1", "@x", "+x", "-x", 'a,"b"'):
        content = results(name, values, p=0.03)
        rows = list(csv.DictReader(io.StringIO(csv_comparison([compared(write("b.json", content))]))))
        shown = name if name[0] == "a" else f"'{name}"
        assert [(row["system"], row["kind"], row["dataset"]) for row in rows[3:]] == [
            (shown, "model", "scifact"), (shown, "model", "nfcorpus"), (shown, "model", "average"),
        ]  # fmt: skip
        assert [float(row["value"]) for row in rows[3:5]] == list(values.values())
        assert [(row["queries"], row["p"], row["marks"]) for row in rows[3:]] == [
            ("300", "0.03", "-1"), ("323", "0.03", "1"), ("", "", "0"),
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "found"),
    [({"sha256": "other"}, "sha256 is scifact-a in the first and other"), ({"split": "dev"}, "split is test in"),
     ({"queries": 299, "sha256": None}, "queries is 300 in the first and 299"),
     ({"documents": 5, "sha256": None}, "documents is 5183 in the first and 5")],
)  # fmt: skip
def test_versions_of_a_dataset_are_not_mixed(write, change, found):
    content = results("two", {"scifact": 0.6})
    content["manifest"]["collections"]["scifact"] |= change
    with pytest.raises(InputError, match=rf"a\.json and .*b\.json are of different versions of scifact: {found}"):
        compared(write("a.json", "one", {"scifact": 0.65}), write("b.json", content))


def test_a_hash_that_two_files_lack_does_not_hide_that_others_differ(write):
    old, new = results("old", {"scifact": 0.6}), results("new", {"scifact": 0.7})
    old["manifest"]["collections"]["scifact"]["sha256"] = None
    new["manifest"]["collections"]["scifact"]["sha256"] = "other"
    assert len(compared(write("o.json", old), write("a.json", "a", {"scifact": 0.65})).rows) == 3
    with pytest.raises(InputError, match=r"a\.json and .*n\.json are of different versions"):
        compared(write("o.json", old), write("a.json", "a", {"scifact": 0.65}), write("n.json", new))


def test_a_metric_that_a_file_lacks_is_refused_with_those_that_all_have(write):
    one, two = results("one", {"scifact": 0.65}), results("two", {"scifact": 0.66})
    for system in (one, one["untouched_base"]):
        system["datasets"]["scifact"]["MRR@10"] = 0.5
    files = write("one.json", one), write("two.json", two)
    with pytest.raises(InputError, match=r"two\.json lacks MRR@10, which .*one\.json has; .* all files have: NDCG@10"):
        compared(*files, metric="MRR@10")
    with pytest.raises(InputError, match=r"one\.json lacks NDCG@7; choose one"):
        compared(*files, metric="NDCG@7")


@pytest.mark.parametrize("kind", ["base", "baseline", "model"])
def test_systems_of_one_name_must_agree(write, kind):
    bm25 = [part("bm25", {"scifact": value}) for value in (0.676, 0.677 if kind == "baseline" else 0.676)]
    one = write("a.json", "run", {"scifact": 0.65}, baselines=bm25[:1])
    value, base = (0.66 if kind == "model" else 0.65), (0.646 if kind == "base" else 0.645)
    two = write("b.json", "run", {"scifact": value}, base_values={"scifact": base}, baselines=bm25[1:])
    title = {"base": r"minilm \(untouched\)", "baseline": "bm25", "model": "run"}[kind]
    with pytest.raises(InputError, match=rf"a\.json and .*b\.json disagree on NDCG@10 of {title} on scifact"):
        compared(one, two)
    if kind == "model":
        assert [row.title for row in compared(f"one={one}", f"two={two}").rows[2:]] == ["one", "two"]


def test_a_base_that_another_file_has_as_a_baseline_must_agree(write):
    alone = write("a.json", "run", {"scifact": 0.65})
    other = write("b.json", "x", {"scifact": 0.6}, base="mpnet", baselines=[part("minilm", {"scifact": 0.6})])
    with pytest.raises(InputError, match="disagree on NDCG@10 of minilm"):
        compared(alone, other)


def test_seeds_have_one_base_and_are_trained(write):
    one = write("a.json", "a", {"scifact": 0.65})
    two = write("b.json", "b", {"scifact": 0.65}, base="mpnet")
    with pytest.raises(InputError, match=r"b\.json: x has two untouched bases"):
        compared(f"x={one},{two}")
    alone = write("c.json", "minilm", {"scifact": BASE["scifact"]}, base=None)
    with pytest.raises(InputError, match=r"c\.json: minilm was not trained and has no seeds"):
        compared(f"x={one},{alone}")


def test_names_are_used_once(write):
    one, two = write("a.json", "a", {"scifact": 0.65}), write("b.json", "b", {"scifact": 0.66})
    with pytest.raises(InputError, match="the name 'x' stands twice"):
        compared(f"x={one}", f"x={two}")
    with pytest.raises(InputError, match="two rows would have the name 'b'"):
        compared(f"b={one}", two)


@pytest.mark.parametrize(
    ("spec", "message"),
    [("{a},{a}", "need a name; write NAME="), ("x={a},{a}", "stands twice"), ("={a}", "is not of the form"),
     ("x={a},", "is not of the form"), ("x=", "is not of the form"), ("nowhere.json", "no such file: nowhere.json")],
)  # fmt: skip
def test_wrong_names_are_refused(write, spec, message):
    with pytest.raises(InputError, match=message):
        read_named(spec.format(a=write("a.json", "a", {"scifact": 0.65})))


@pytest.mark.parametrize("value", [None, "0.5", True, float("nan"), float("inf")])
def test_values_are_numbers(write, value):
    with pytest.raises(InputError, match=r"a\.json: NDCG@10 of run on scifact is"):
        compared(write("a.json", part_changed("datasets", "scifact", "NDCG@10", value)))


@pytest.mark.parametrize("p", [None, "0.1", 1.5, -0.1])
def test_p_values_are_probabilities(write, p):
    content = part_changed("untouched_base", "datasets", "scifact", "p_randomisation", p)
    with pytest.raises(InputError, match=r"a\.json: p_randomisation of untouched_base on scifact is"):
        compared(write("a.json", content))


def part_changed(*path_and_value):
    *path, key, value = path_and_value
    content = inner = results("run", {"scifact": 0.65})
    for name in path:
        inner = inner[name]
    inner[key] = value
    return content


def test_files_that_are_no_results_are_named(write, tmp_path):
    (tmp_path / "bad.json").write_text("[1]")
    with pytest.raises(InputError, match=r"bad\.json is not a results file"):
        read_named(str(tmp_path / "bad.json"))
    with pytest.raises(InputError, match=r"a\.json does not say how many queries and documents scifact has"):
        read_named(write("a.json", results("run", {"scifact": 0.65}, collections={})))
    with pytest.raises(InputError, match=r"a\.json holds figures on no dataset"):
        read_named(write("a.json", results("run", {})))
    with pytest.raises(InputError, match="no results to compare"):
        compare([])


def test_a_folders_results_are_found_and_other_files_passed_over(write, tmp_path, caplog):
    with pytest.raises(InputError, match="no results files in"):
        results_in(tmp_path)
    (tmp_path / "isotropy.json").write_text('{"format": 1}')
    for name in ("b.json", "a.json"):
        write(name, name, {"scifact": 0.65})
    with caplog.at_level("INFO"):
        found = results_in(tmp_path)
    assert [named.files[0].path.name for named in found] == ["a.json", "b.json"]
    assert "isotropy.json is not a results file" in caplog.text


def per_query(tmp_path, name, ours, theirs):
    folder = tmp_path / f"{name}.runs" / "scifact"
    folder.mkdir(parents=True, exist_ok=True)
    for slug, values in (("model", ours), ("untouched_base", theirs)):
        (folder / f"{slug}.per_query.json").write_text(json.dumps({"MRR@10": values}))


def test_other_metrics_are_tested_by_query(write, tmp_path):
    rng = random.Random(0)
    theirs = {f"q{i}": rng.random() * 0.8 for i in range(60)}
    ours = {query: value + rng.gauss(0.05, 0.1) for query, value in theirs.items()}
    means = [sum(values.values()) / 60 for values in (ours, theirs)]
    content = results("run", {"scifact": 0.65}, p=0.9)
    for system, value in zip((content, content["untouched_base"]), means, strict=True):
        system["datasets"]["scifact"]["MRR@10"] = value
    path = write("a.json", content)
    untested = compared(path, metric="MRR@10")
    assert untested.rows[-1].cells["scifact"].p is None
    assert "Not tested: run on scifact." in notes_of(untested)
    per_query(tmp_path, "a", ours, theirs)
    cell = compared(path, metric="MRR@10").rows[-1].cells["scifact"]
    assert cell.p == paired_tests(ours, theirs).p_randomisation
    assert cell.p < 0.01
    assert cell.marks == 2
    per_query(tmp_path, "a", {**ours, "q0": ours["q0"] + 0.1}, theirs)
    with pytest.raises(InputError, match=r"model\.per_query\.json is not of .*a\.json"):
        compared(path, metric="MRR@10")
    per_query(tmp_path, "a", {("x" if query == "q0" else query): value for query, value in ours.items()}, theirs)
    with pytest.raises(InputError, match="the runs have different queries"):
        compared(path, metric="MRR@10")


def test_one_query_is_not_tested(write):
    content = results("run", {"scifact": 0.65})
    content["untouched_base"]["datasets"]["scifact"] = {"NDCG@10": 0.645, "n_queries": 1}
    one, other = write("a.json", content), write("b.json", "b", {"scifact": 0.7}, p=0.001)
    assert compared(one).rows[-1].cells["scifact"].p is None
    cell = by_title(compared(f"x={one},{other}"))["x"].cells["scifact"]
    assert (cell.p, cell.marks) == (None, 0)


def test_tables_import_neither_torch_nor_matplotlib():
    code = "import sys, ragcun.reporting.paper; sys.exit(bool({'torch', 'matplotlib', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_parts_of_a_set_are_neither_columns_nor_in_the_average(write, monkeypatch):
    monkeypatch.setitem(SIZES, "cqadupstack", (2, 10))
    monkeypatch.setitem(SIZES, "cqadupstack/android", (2, 10))
    values = {"scifact": 0.7, "cqadupstack": 0.4, "cqadupstack/android": 0.1}
    content = results("run", values, base_values=dict.fromkeys(values, 0.3))
    content["manifest"]["collections"]["cqadupstack/android"]["part_of"] = "cqadupstack"
    comparison = compared(write("a.json", content))
    assert list(comparison.queries) == ["scifact", "cqadupstack"]
    assert comparison.averaged == ("scifact", "cqadupstack")
    assert by_title(comparison)["run"].average.value == pytest.approx(0.55)
