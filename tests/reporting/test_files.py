"""Results files by name: which can be in one table, and tests from the per-query values beside them."""

from __future__ import annotations

import json
import math
import random

import pytest

from ragcun.errors import InputError
from ragcun.reporting.comparison import compare
from ragcun.reporting.files import check_alike, p_by_query, read_named, results_in
from ragcun.retrieval.metrics import paired_tests
from tests.reporting.samples import results


def files_of(*paths):
    return [file for path in paths for file in read_named(path).files]


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
    for name in ("b.json", "a.json"):
        write(name, name, {"scifact": 0.65})
    with caplog.at_level("INFO"):
        found = results_in(tmp_path)
    assert [named.files[0].path.name for named in found] == ["a.json", "b.json"]
    assert "isotropy.json" in caplog.text
    with pytest.raises(InputError, match="no results to compare"):
        compare([])


@pytest.mark.parametrize(
    ("change", "found"),
    [({"sha256": "other"}, "sha256 is scifact-a .* other"), ({"split": "dev"}, "split is test"),
     ({"queries": 299, "sha256": None}, "queries is 300 .* 299"),
     ({"documents": 5, "sha256": None}, "documents is 5183 .* 5 ")],
)  # fmt: skip
def test_versions_of_a_dataset_are_not_mixed(write, change, found):
    content = results("two", {"scifact": 0.6})
    content["manifest"]["collections"]["scifact"] |= change
    with pytest.raises(InputError, match=rf"a\.json and .*b\.json .* of scifact: {found}"):
        check_alike(files_of(write("a.json", "one", {"scifact": 0.65}), write("b.json", content)), "NDCG@10")


def test_a_hash_that_one_file_lacks_does_not_hide_that_others_differ(write):
    old, new = results("old", {"scifact": 0.6}), results("new", {"scifact": 0.7})
    del old["manifest"]["collections"]["scifact"]["sha256"]
    new["manifest"]["collections"]["scifact"]["sha256"] = "other"
    files = write("o.json", old), write("a.json", "a", {"scifact": 0.65})
    check_alike(files_of(*files), "NDCG@10")
    with pytest.raises(InputError, match=r"a\.json and .*n\.json are of different versions"):
        check_alike(files_of(*files, write("n.json", new)), "NDCG@10")


def test_a_metric_that_a_file_lacks_is_refused_with_those_that_all_have(write):
    one, two = results("one", {"scifact": 0.65}), results("two", {"scifact": 0.66})
    for each in (one, one["untouched_base"]):
        each["datasets"]["scifact"]["MRR@10"] = 0.5
    with pytest.raises(InputError, match=r"two\.json lacks MRR@10; .*: NDCG@10"):
        check_alike(files_of(write("one.json", one), write("two.json", two)), "MRR@10")


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
    path = write("a.json", content)
    assert math.isnan(p_by_query(*files_of(path), "scifact", "MRR@10"))
    per_query(tmp_path, ours, theirs)
    p = p_by_query(*files_of(path), "scifact", "MRR@10")
    assert p == paired_tests(ours, theirs).p_randomisation < 0.01
    per_query(tmp_path, {**ours, "q0": ours["q0"] + 0.1}, theirs)
    with pytest.raises(InputError, match=r"model\.per_query\.json is not of .*a\.json"):
        p_by_query(*files_of(path), "scifact", "MRR@10")
    per_query(tmp_path, {("x" if query == "q0" else query): value for query, value in ours.items()}, theirs)
    with pytest.raises(InputError, match="different queries"):
        p_by_query(*files_of(path), "scifact", "MRR@10")
