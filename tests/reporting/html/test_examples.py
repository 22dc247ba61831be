"""Best and worst queries, against the run files they come from."""

from __future__ import annotations

import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragcun.data.beir import load_collection
from ragcun.io import write_json
from ragcun.reporting.files import read_results_file
from ragcun.reporting.runs import examples, excerpt, extremes, gather, visible
from ragcun.retrieval.runs import read_run
from tests.reporting.html.conftest import Page


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
    plain, collection = found[1], load_collection(data_dir / "plain")
    assert plain.missing is None
    assert plain.without_texts is None
    folder = whole_run / "results.runs" / "plain"
    values = {
        name: json.loads((folder / f"{name}.per_query.json").read_text())["NDCG@10"]
        for name in ("model", "untouched_base")
    }
    differences = [values["model"][query] - values["untouched_base"][query] for query in collection.queries]
    gains, losses = plain.chosen.values()
    assert plain.counts == tuple(
        sum(test)
        for test in ([d > 0 for d in differences], [d < 0 for d in differences], [d == 0 for d in differences])
    )
    assert [each.values[1] - each.values[0] for each in gains] == sorted(differences)[::-1][:5]
    assert [each.values[1] - each.values[0] for each in losses] == sorted(differences)[:5]
    runs = {name: read_run(folder / f"{name}.trec") for name in ("model", "untouched_base")}
    for example in (*gains, *losses):
        assert example.documents == [list(runs[name][example.query])[:3] for name in ("untouched_base", "model")]
    assert plain.collection.sha256() == collection.sha256()


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
    return read_results_file(tmp_path / "results.json")


@pytest.mark.parametrize("place", [None, "/no/such/folder"])
def test_without_texts_there_are_ids_and_the_reason(whole_run, tmp_path, place):
    found = examples(moved(whole_run, tmp_path, data_dir=place))[1]
    assert "--data_dir" in found.without_texts
    assert place is None or place in found.without_texts
    assert found.collection is None
    assert [len(each) for each in found.chosen["Largest gains"][0].documents] == [3, 3]


def test_the_folder_that_is_given_goes_before_the_one_in_the_results(whole_run, tmp_path, data_dir):
    file = moved(whole_run, tmp_path, data_dir="/no/such/folder")
    assert examples(file, data_dir)[1].without_texts is None


def test_texts_of_a_changed_collection_are_not_shown(whole_run, tmp_path, data_dir):
    shutil.copytree(data_dir / "plain", tmp_path / "plain")
    with (tmp_path / "plain" / "corpus.jsonl").open("a") as file:
        file.write('{"_id": "more", "title": "", "text": "more"}\n')
    found = examples(moved(whole_run, tmp_path), tmp_path)[1]
    assert "not the one that was evaluated" in found.without_texts
    assert found.collection is None


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
    hidden = [
        chr(i) for i in (0, 8, 27, 127, 133, *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x61C)
    ]
    for letter in (*hidden, "\ud800", "\ufeff", "\u200b", "\u2028"):
        assert visible(f"a{letter}b") == f"a⟨U+{ord(letter):04X}⟩b"
    for text in ("a\n\tb", "naïve Ünïcödé", "שלום", "👩‍🔬", "日本語", "x² ≤ ½"):
        assert visible(text) == text
