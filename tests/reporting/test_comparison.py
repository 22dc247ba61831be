"""Several evaluations in one comparison: rows, averages, marks, seeds, and what is refused."""

import math

import numpy as np
import pytest

from ragcun.errors import InputError
from ragcun.reporting.comparison import compare, read_named
from ragcun.reporting.formats import markdown_comparison, notes_of
from tests.reporting.conftest import BASE, results, system

BM25 = system("bm25", {"scifact": 0.677})


def compared(*specs, metric="NDCG@10"):
    return compare([read_named(spec) for spec in specs], metric)


def rows(comparison):
    """Return the systems and their kinds, in order."""
    return list(dict.fromkeys(zip(comparison.cells["system"], comparison.cells["kind"], strict=True)))


def cell(comparison, title, dataset="scifact"):
    cells = comparison.cells
    (found,) = cells[(cells["system"] == title) & (cells["dataset"] == dataset)].itertuples()
    return found


def datasets(comparison, title):
    return set(comparison.cells.loc[comparison.cells["system"] == title, "dataset"]) - {"average"}


def notes(comparison):
    return " ".join(notes_of(comparison))


def test_bases_and_baselines_come_once_before_the_models(write):
    bm25 = system("bm25", {"scifact": 0.676}, 0.1)
    one = write("a.json", "run/a", {"scifact": 0.65}, baselines=(bm25,))
    baselines = (bm25, system("old", {"scifact": 0.5}))
    two = write("b.json", "run/b", {"nfcorpus": 0.33, "scifact": 0.66}, baselines=baselines)
    other = write("c.json", "run/c", {"scifact": 0.7}, base="mpnet", base_values={"scifact": 0.69})
    comparison = compared(one, two, other)
    assert rows(comparison) == [
        ("minilm (untouched)", "base"), ("mpnet (untouched)", "base"), ("bm25", "baseline"), ("old", "baseline"),
        ("run/a", "model"), ("run/b", "model"), ("run/c", "model"),
    ]  # fmt: skip
    assert comparison.queries == {"scifact": 300, "nfcorpus": 323}
    assert cell(comparison, "minilm (untouched)", "nfcorpus").value == BASE["nfcorpus"]
    assert datasets(comparison, "run/a") == {"scifact"}
    assert "Tested against: run/a against minilm (untouched); run/b" in notes(comparison)


def test_untouched_models_are_bases_and_bm25_is_a_baseline(write):
    alone = write("minilm.json", "minilm", BASE, base=None)
    bm25 = write("bm25.json", "bm25", {"scifact": 0.676}, base=None, distance="bm25")
    minilm = system("minilm", {"scifact": BASE["scifact"]})
    run = write("run.json", "run", {"scifact": 0.7}, base="mpnet", baselines=(minilm,))
    comparison = compared(run, bm25, alone)
    assert [title for title, _ in rows(comparison)] == ["mpnet (untouched)", "minilm (untouched)", "bm25", "run"]
    assert datasets(comparison, "minilm (untouched)") == set(BASE)
    named = compared(f"MiniLM={alone}", f"BM25={bm25}", f"ours={run}")
    assert [title for title, _ in rows(named)] == ["MiniLM (untouched)", "mpnet (untouched)", "BM25", "ours"]
    beside = write("small.json", results("minilm", {"scifact": 0.6}, p=0.001) | {"precision": "int8"})
    small = compared(f"MiniLM={alone}", beside)
    assert small.bases == {"minilm, int8": "MiniLM (untouched)"}
    assert cell(small, "minilm, int8").marks == -2


def test_what_cannot_be_in_one_table_is_refused(write):
    small = results("minilm", {"scifact": 0.6}, base=None) | {"precision": "int8"}
    command = "scripts/evaluate_beir.py --model run.json -x"
    files = {
        "bm25": write("bm25.json", "bm25", {"scifact": 0.6}, base=None, distance="bm25"),
        "stored": write("s.json", "run", {"scifact": 0.7}, base=None, command=command),
        "small": write("small.json", small),
        "base": write("base.json", "minilm", {"scifact": BASE["scifact"]}, base=None),
        "alone": write("alone.json", "run", {"scifact": 0.7}, base=None),
        "run": write("run.json", "run", {"scifact": 0.7}),
        "a": write("a.json", "a", {"scifact": 0.65}), "b": write("b.json", "b", {"scifact": 0.65}, base="mpnet"),
    }  # fmt: skip
    for specs, message in (
        ("{bm25}", r"bm25\.json .*no untouched base"), ("{stored}", r"s\.json has no untouched base beside run"),
        ("{small}", r"small\.json has no untouched base beside minilm, int8"),
        ("{alone} {run}", r"run is trained in .*run\.json and untouched in another"),
        ("x={a},{b}", r"b\.json: x has two untouched bases"), ("x={a},{base}", r"base\.json: minilm was not"),
        ("x={a} x={b}", "name 'x'"), ("b={a} {b}", "two rows would have the name 'b'"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            compared(*specs.format(**files).split())


@pytest.mark.parametrize(
    ("seeds", "marks"),
    [
        ([(0.7, 0.05)], 0), ([(0.7, 0.0499)], 1), ([(0.7, 0.01)], 1), ([(0.7, 0.0099)], 2), ([(0.7, 0.0)], 2),
        ([(0.6, 0.02)], -1), ([(0.6, 0.001)], -2), ([(0.6, 0.5)], 0), ([(BASE["scifact"], 0.0)], 0),
        ([(0.7, 0.001), (0.7, 0.06)], 0), ([(0.7, 0.001), (0.6, 0.001)], 0), ([(0.6, 0.02), (0.5, 0.001)], -1),
    ],
)  # fmt: skip
def test_marks_tell_the_level_and_direction_that_all_seeds_reach(write, seeds, marks):
    files = [write(f"{i}.json", f"run{i}", {"scifact": value}, p=p) for i, (value, p) in enumerate(seeds)]
    found = cell(compared(f"x={','.join(files)}"), "x")
    assert (found.marks, found.p) == (marks, max(p for _, p in seeds))


def test_the_average_is_over_the_datasets_of_all_rows(write):
    bm25 = system("bm25", {"scifact": 0.676, "cranfield": 0.358})
    values = {"scifact": 0.65, "nfcorpus": 0.3, "cranfield": 0.4}
    comparison = compared(write("a.json", "run", values, baselines=(bm25,)))
    assert comparison.averaged == ["scifact", "cranfield"]
    found = [cell(comparison, title, "average").value for title, _ in rows(comparison)]
    assert found == pytest.approx([(0.645 + 0.395) / 2, (0.676 + 0.358) / 2, (0.65 + 0.4) / 2], abs=1e-15)
    assert "scifact, cranfield (2 of 3)" in notes(comparison)
    assert "–: not evaluated" in notes(comparison)


@pytest.mark.parametrize(
    ("second", "note"), [({"nfcorpus": 0.3}, "no dataset"), ({"nfcorpus": 0.3, "scifact": 0.6}, "only scifact")]
)
def test_no_average_over_fewer_than_two_datasets(write, second, note):
    comparison = compared(write("a.json", "one", {"scifact": 0.65}), write("b.json", "two", second))
    assert "average" not in set(comparison.cells["dataset"])
    assert f"all rows share {note}" in notes(comparison)


def test_an_average_is_apart_from_a_dataset_of_that_name_and_without_members_of_sets(write):
    values = {"scifact": 0.7, "average": 0.4, "cqadupstack/android": 0.1}
    content = results("run", values)
    content["manifest"]["collections"]["cqadupstack/android"]["part_of"] = "average"
    comparison = compared(write("a.json", content))
    assert comparison.columns == ["scifact", "average", "average of datasets"]
    assert cell(comparison, "run", "average").value == 0.4
    assert cell(comparison, "run", "average of datasets").value == pytest.approx(0.55)
    assert "0.5500" in markdown_comparison(comparison)


def test_seeds_become_mean_and_sample_deviation(write):
    values = np.array([(0.70, 0.33), (0.73, 0.34), (0.71, 0.32)])
    files = [
        write(f"{seed}.json", f"run/{seed}", dict(zip(BASE, both, strict=False)), p=0.001 * (seed + 8))
        for seed, both in enumerate(values.tolist())
    ]
    comparison = compared(f"ours={','.join(files)}")
    for dataset, each in (("scifact", values[:, 0]), ("average", values.mean(1))):
        found = cell(comparison, "ours", dataset)
        assert (found.value, found.sd) == pytest.approx((each.mean(), each.std(ddof=1)), abs=1e-12)
        assert found.seeds == 3
    assert "over seeds (ours 3)" in notes(comparison)


def test_seeds_of_different_datasets_are_counted_apart(write):
    runs = (("s1", "scifact", 0.7), ("s2", "scifact", 0.72), ("n1", "nfcorpus", 0.33), ("n2", "nfcorpus", 0.35))
    files = [write(f"{name}.json", name, {dataset: value}) for name, dataset, value in runs]
    comparison = compared(f"ours={','.join(files[:3])}")
    assert [cell(comparison, "ours", name).seeds for name in ("scifact", "nfcorpus")] == [2, 1]
    assert "ours 2 on scifact, 1 on nfcorpus" in notes(comparison)
    for each, value in ((comparison, (0.71 + 0.33) / 2), (compared(f"ours={','.join(files)}"), (0.71 + 0.34) / 2)):
        average = cell(each, "ours", "average")
        assert average.value == pytest.approx(value, abs=1e-12)
        assert math.isnan(average.sd)


def test_notes_tell_of_one_query_and_of_queries_answered_by_training_positives(write):
    contents = [results(f"run{seed}", {"scifact": 0.8, "nfcorpus": 0.3}) for seed in (1, 2)]
    for content, seen in zip(contents, (196, 190), strict=True):
        content["datasets"]["scifact"]["seen"] = {"n_queries": seen, "NDCG@10": 0.9}
        content["datasets"]["nfcorpus"]["seen"] = {"n_queries": 0}
    contents[0]["untouched_base"]["datasets"]["nfcorpus"] = {"NDCG@10": 0.316, "n_queries": 1}
    files = [write(f"{seed}.json", content) for seed, content in enumerate(contents)]
    comparison = compared(f"ours={','.join(files)}")
    assert math.isnan(cell(comparison, "ours", "nfcorpus").p)
    assert "Not tested: ours on nfcorpus." in notes(comparison)
    assert "training positive: ours on scifact 196 of 300." in notes(comparison)


@pytest.mark.parametrize(
    ("differing", "title"),
    [({"base_values": {"scifact": 0.646}}, r"minilm \(untouched\)"), ({"baselines": (BM25,)}, "bm25"), ({}, "run")],
)
def test_systems_of_one_name_must_agree(write, differing, title):
    one = write("a.json", "run", {"scifact": 0.65}, baselines=(system("bm25", {"scifact": 0.676}),))
    two = write("b.json", "run", {"scifact": 0.65 if differing else 0.66}, **differing)
    with pytest.raises(InputError, match=rf"a\.json and .*b\.json disagree on NDCG@10 of {title} on scifact"):
        compared(one, two)
