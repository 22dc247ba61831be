"""Which files belong to which run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ragcun.errors import InputError
from ragcun.io import write_json, write_text
from ragcun.reporting.runs import gather
from tests.reporting.html.conftest import evaluate, write_isotropy


def test_isotropy_of_several_collections_is_found(make_run):
    run = make_run()
    for name in ("b", "a"):
        write_isotropy(run / "isotropy" / name / "isotropy.json", str(run / "best_model"), judged=False)
    (found,) = gather([run])
    assert [path.parent.name for path, _ in found.isotropy] == ["a", "b"]


def test_further_files_go_to_the_run_whose_checkpoint_they_are_about(make_run, data_dir, tmp_path):
    one, two, three = (make_run(name) for name in ("one", "two", "three"))
    for run in (one, two):
        evaluate(run, data_dir, names=["plain"], output=tmp_path / f"{run.name}.json")
    write_isotropy(tmp_path / "iso.json", str(one / "best_model"), str(three / "best_model"))
    runs = gather([one, two, three], [tmp_path / "two.json", tmp_path / "one.json"], [tmp_path / "iso.json"])
    assert [[file.path.name for file in run.evaluations] for run in runs] == [["one.json"], ["two.json"], []]
    assert [len(run.isotropy) for run in runs] == [1, 0, 1]


def test_runs_of_one_name_are_told_apart(make_run):
    runs = [make_run(name) for name in ("a/run", "b/run", "b/other")]
    assert [run.name for run in gather(runs)] == [str(runs[0]), str(runs[1]), "other"]


def test_paths_are_compared_resolved(make_run, data_dir, tmp_path, monkeypatch):
    run = make_run()
    results = evaluate(run, data_dir, names=["plain"])
    monkeypatch.chdir(tmp_path)
    write_json(run / "results.json", results | {"model": "other/../run/./best_model"})
    (tmp_path / "link").symlink_to(run)
    for folder in (Path("run"), tmp_path / "link", run):
        assert len(gather([folder])[0].evaluations) == 1


def test_a_file_that_is_found_and_given_counts_once(whole_run):
    again = whole_run / ".." / whole_run.name
    (run,) = gather([whole_run], [again / "results.json"], [again / "isotropy" / "isotropy.json"])
    assert [file.path.name for file in run.evaluations] == ["results.json"]
    assert [path.name for path, _ in run.isotropy] == ["isotropy.json"]
    assert run.rows.keys() == {"base", "probe", "step", "epoch"}


@pytest.mark.parametrize("kind", ["results", "isotropy"])
def test_a_file_about_something_else_is_refused_with_both_names(make_run, whole_run, kind):
    other = make_run("other")
    given = {"results": whole_run / "results.json", "isotropy": whole_run / "isotropy" / "isotropy.json"}[kind]
    with pytest.raises(InputError) as error:
        gather([other], **{kind: [given]})
    for name in (given, whole_run / "best_model", other / "best_model"):
        assert str(name) in str(error.value)


def test_what_is_no_run_folder_is_refused(whole_run, make_run, tmp_path):
    with pytest.raises(InputError, match=r"no config\.yaml"):
        gather([tmp_path / "nowhere"])
    with pytest.raises(InputError, match="given twice"):
        gather([whole_run, whole_run.parent / "." / whole_run.name])
    run = make_run()
    write_text(run / "manifest.json", "[]")
    with pytest.raises(InputError, match=r"manifest\.json"):
        gather([run])
    with pytest.raises(InputError, match="not a results file"):
        gather([whole_run], [whole_run / "manifest.json"])


def test_other_json_files_in_a_run_folder_are_passed_over(whole_run, make_run):
    run = make_run()
    write_json(run / "notes.json", {"model": "x"})
    shutil.copy(whole_run / "isotropy" / "isotropy.json", run / "elsewhere.json")
    assert gather([run])[0].evaluations == []
