"""Which files belong to which run, and its best and worst queries, against the run files they come from."""

import itertools
import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragcun import InputError, load_collection
from ragcun.io import write_json, write_text
from ragcun.reporting.runs import examples, excerpt, extremes, gather, visible
from ragcun.results import Results
from ragcun.retrieval.runs import read_run
from tests.reporting.html.conftest import Page, evaluate, write_isotropy


def test_further_files_go_to_the_run_they_are_about_and_runs_of_one_name_are_told_apart(make_run, data_dir, tmp_path):
    one, two, three = (make_run(name) for name in ("one", "two", "three"))
    for run in (one, two):
        evaluate(run, data_dir, names=["plain"], output=tmp_path / f"{run.name}.json")
    write_isotropy(tmp_path / "iso.json", str(one / "best_model"), str(three / "best_model"))
    runs = gather([one, two, three], [tmp_path / "two.json", tmp_path / "one.json"], [tmp_path / "iso.json"])
    assert [[file.path.name for file in run.evaluations] for run in runs] == [["one.json"], ["two.json"], []]
    assert [len(run.isotropy) for run in runs] == [1, 0, 1]
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


def test_reports_of_several_collections_are_found_once_and_other_json_files_passed_over(whole_run, make_run):
    run = make_run()
    write_json(run / "notes.json", {"model": "x"})
    shutil.copy(whole_run / "isotropy" / "isotropy.json", run / "elsewhere.json")
    for name in ("b", "a"):
        write_isotropy(run / "isotropy" / name / "isotropy.json", str(run / "best_model"), judged=False)
    (found,) = gather([run])
    assert found.evaluations == []
    assert [path.parent.name for path, _ in found.isotropy] == ["a", "b"]
    again = whole_run / ".." / whole_run.name
    (run,) = gather([whole_run], [again / "results.json"], [again / "isotropy" / "isotropy.json"])
    assert [file.path.name for file in run.evaluations] == ["results.json"]
    assert [path.name for path, _ in run.isotropy] == ["isotropy.json"]
    assert run.rows.keys() == {"base", "probe", "step", "epoch"}


@given(st.lists(st.tuples(*[st.sampled_from([0.0, 0.25, 0.5, 1.0])] * 2), max_size=20))
def test_extremes_are_the_largest_differences(values):
    base, model = ({f"q{i}": pair[side] for i, pair in enumerate(values)} for side in (0, 1))
    gains, losses, counts = extremes(base, model)
    differences = {query: model[query] - base[query] for query in base}
    assert sum(counts) == len(values)
    assert (len(gains), len(losses)) == (min(5, counts[0]), min(5, counts[1]))
    for chosen, sign in ((gains, 1), (losses, -1)):
        found = [sign * differences[query] for query in chosen]
        assert all(value > 0 for value in found)
        assert found == sorted((sign * d for d in differences.values() if sign * d > 0), reverse=True)[:5]


def test_examples_come_from_the_run_files(whole_run, data_dir):
    (run,) = gather([whole_run])
    found = examples(run.evaluations[0])
    assert [each.dataset for each in found] == ["hostile", "plain"]
    plain, folder = found[1], whole_run / "results.runs" / "plain"
    assert (plain.missing, plain.without_texts) == (None, None)
    names = "untouched_base", "model"
    values = [json.loads((folder / f"{name}.per_query.json").read_text())["NDCG@10"] for name in names]
    chosen = [[example.query for example in each] for each in plain.chosen.values()]
    assert (*chosen, plain.counts) == extremes(*values)
    runs = [read_run(folder / f"{name}.trec") for name in names]
    for example in itertools.chain(*plain.chosen.values()):
        assert example.values == tuple(value[example.query] for value in values)
        assert example.documents == [list(run[example.query])[:3] for run in runs]
    assert plain.collection.sha256() == load_collection(data_dir / "plain").sha256()


def test_texts_and_grades_stand_beside_the_documents(whole_run, whole_page, data_dir):
    (run,) = gather([whole_run])
    plain, text = examples(run.evaluations[0])[1], Page(whole_page).text
    collection = load_collection(data_dir / "plain")
    for example in plain.chosen["Largest gains"]:
        assert f"{collection.queries[example.query]} NDCG@10 {example.values[0]:.4f} under the base" in text
        for document in example.documents[1]:
            relevant = document in collection.qrels[example.query]
            grade = "✓ relevant (grade 2)" if relevant else "not judged relevant"
            shown = collection.documents[document]
            assert f"{grade} · id {document} {shown.title} {excerpt(shown.text)}" in text


def moved(whole_run, tmp_path, **manifest):
    """Return the results in another folder, with another manifest."""
    shutil.copytree(whole_run / "results.runs", tmp_path / "results.runs", dirs_exist_ok=True)
    content = json.loads((whole_run / "results.json").read_text())
    content["manifest"] = {**content["manifest"], **manifest}
    write_json(tmp_path / "results.json", content)
    return Results.read(tmp_path / "results.json")


@pytest.mark.parametrize(
    ("named", "given", "reason"),
    [(None, None, "--data_dir"), ("/no/such/folder", None, "/no/such/folder"), ("/no/such/folder", "data", None),
     ("data", "changed", "not the one that was evaluated")],
)  # fmt: skip
def test_without_texts_there_are_ids_and_the_reason(whole_run, tmp_path, data_dir, named, given, reason):
    shutil.copytree(data_dir / "plain", tmp_path / "plain")
    with (tmp_path / "plain" / "corpus.jsonl").open("a") as file:
        file.write('{"_id": "more", "title": "", "text": "more"}\n')
    places = {"data": data_dir, "changed": tmp_path}
    found = examples(moved(whole_run, tmp_path, data_dir=str(places.get(named, named))), places.get(given))[1]
    assert (found.collection is None) == (reason is not None)
    assert reason is None or reason in found.without_texts
    assert [len(each) for each in found.chosen["Largest gains"][0].documents] == [3, 3]


def test_without_run_files_the_missing_one_is_named(whole_run, tmp_path):
    file = moved(whole_run, tmp_path)
    (tmp_path / "results.runs" / "plain" / "untouched_base.trec").unlink()
    hostile, plain = examples(file)
    assert hostile.missing is None
    assert "untouched_base.trec" in plain.missing


@given(st.text(st.characters(codec=None)), st.integers(1, 50))
def test_any_text_can_be_shown(text, limit):
    shown = excerpt(text, limit)
    shown.encode()
    assert visible(shown) == shown
    assert "\n" not in shown
    whole = " ".join(text.split())
    if len(text) <= 64 * limit:
        assert shown == visible(whole if len(whole) <= limit else whole[:limit].rstrip() + "…")


@pytest.mark.parametrize("text", ["x" * 10_000_000, "word " * 2_000_000, " " * 10_000_000 + "x"])
def test_a_text_of_any_length_is_cut(text):
    shown = excerpt(text)
    assert len(shown) <= 301
    assert shown.endswith("…")


def test_what_is_invisible_or_turns_others_round_is_named():
    turning = (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x61C)
    for code in (0, 8, 27, 127, 133, *turning, 0xD800, 0xFEFF, 0x200B, 0x2028):
        assert visible(f"a{chr(code)}b") == f"a⟨U+{code:04X}⟩b"
    for text in ("a\n\tb", "naïve Ünïcödé", "שלום", "👩‍🔬", "日本語", "x² ≤ ½"):
        assert visible(text) == text
