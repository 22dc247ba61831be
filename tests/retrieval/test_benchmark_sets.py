"""Evaluations over sets: parts and their mean, one collection at a time, what is kept when one fails, and resuming."""

import gc
import json
import random
import weakref
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest

from ragcun.data.beir import Collection, write_collection
from ragcun.data.beir_sets import CollectionFolder
from ragcun.errors import InputError
from ragcun.io import write_json
from ragcun.results import CollectionFacts, Scores
from ragcun.retrieval.metrics import CollectionScores, average_parts
from ragcun.retrieval.runs import StoredRetriever
from ragcun.retrieval.systems import BM25Retriever, System
from tests.retrieval.conftest import judged, systems

SIZES = {"forum/a": 3, "forum/b": 8, "forum/c": 5}


@pytest.fixture
def forums():
    return [judged(size, name=name, more=9) for name, size in SIZES.items()]


def test_a_set_is_the_mean_of_its_parts_and_counts_once(benchmark, forums):
    alone = [judged(4, name="x", more=9), judged(6, name="y", more=9)]
    results = benchmark([alone[0], *forums, alone[1]])
    assert list(results["datasets"]) == ["x", *SIZES, "forum", "y"]
    for system in systems(results).values():
        scores = system["datasets"]
        metrics = [name for name in scores["forum"] if "@" in name]
        assert len(metrics) == 21
        for metric in metrics:
            assert scores["forum"][metric] == pytest.approx(fmean(scores[name][metric] for name in SIZES), abs=1e-12)
            average = fmean(scores[name][metric] for name in ("x", "forum", "y"))
            assert system["average"][metric] == pytest.approx(average, abs=1e-12)
        assert scores["forum"]["n_queries"] == sum(SIZES.values())
    facts = results["manifest"]["collections"]
    assert (facts["forum"]["queries"], facts["forum"]["documents"]) == (sum(SIZES.values()), 3 * 30)
    assert [name for name, each in facts.items() if each.get("part_of") == "forum"] == list(SIZES)


def test_a_broken_stored_run_replaces_no_file_of_an_earlier_evaluation(benchmark, dense, tmp_path):
    collection = judged(4, name="x", more=9)
    benchmark([collection])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    (tmp_path / "broken.trec").write_text("q0 Q0 d0 1 high t\n")
    before[tmp_path / "broken.trec"] = (tmp_path / "broken.trec").read_bytes()
    broken = System(StoredRetriever("broken", tmp_path / "broken.trec"), "run")
    with pytest.raises(InputError, match=r"broken\.trec, line 1"):
        benchmark([collection], model=System(dense("another", 4), "euclidean"), baselines=[broken])
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_parts_have_folders_and_scores_of_their_own(benchmark, forums, tmp_path):
    together = benchmark(forums)
    files = {f"{slug}.{end}" for slug in ("model", "untouched_base", "other") for end in ("trec", "per_query.json")}
    for name in SIZES:
        assert {path.name for path in (tmp_path / "r.runs" / name).iterdir()} == files
    plain = benchmark([replace(each, name=each.name.replace("/", "-")) for each in forums])
    for name in SIZES:
        assert together["datasets"][name] == plain["datasets"][name.replace("/", "-")]


def exact_p(parts):
    """The macro average, and its two-sided p-value over all tosses of signs: twice the smaller tail, at most 1."""
    terms = np.concatenate([np.array(part) / len(part) / len(parts) for part in parts])
    tossed = np.array(list(product((1, -1), repeat=len(terms)))) @ terms
    tails = [(sign * tossed >= sign * terms.sum() - 1e-12).mean() for sign in (1, -1)]
    return terms.sum(), min(1.0, 2 * min(tails))


@pytest.mark.parametrize("sizes", [(1, 3, 6), (2, 3, 4), (3, 3, 3)])
def test_the_means_test_is_the_randomisation_test_of_the_macro_average(sizes):
    """Up to 10 queries have no more than 10,000 tosses, so that all are counted, here as there."""
    rng = random.Random(sum(sizes))
    values = {
        f"s/{part}": {slug: {f"q{i}": rng.random() for i in range(size)} for slug in ("model", "base")}
        for part, size in enumerate(sizes)
    }
    parts = {}
    for name, tested in values.items():
        scores_of = {slug: Scores({"NDCG@10": fmean(each.values())}) for slug, each in tested.items()}
        parts[name] = CollectionScores(CollectionFacts(0, 0), scores_of, tested)
    scores = average_parts(parts, seed=0).scores["base"]
    differences = [[each["model"][q] - each["base"][q] for q in each["model"]] for each in values.values()]
    difference, p = exact_p(differences)
    assert scores.mean_difference == pytest.approx(difference, abs=1e-12)
    assert scores.p_randomisation == pytest.approx(p, abs=1e-9)
    assert scores.p_t is None


@dataclass(frozen=True)
class Watched(CollectionFolder):
    """A folder that asserts, when it is read, that no collection read before it is still in memory."""

    def load(self):
        gc.collect()
        assert not [name for name, read in READ.items() if read() is not None]
        read = judged(4, name=self.name, more=9)
        READ[self.name] = weakref.ref(read)
        return read


READ: dict[str, weakref.ref[Collection]] = {}


def test_one_collection_is_in_memory_at_a_time(benchmark):
    folders = [Watched(name, Path(), "test") for name in ("x", *SIZES, "y")]
    gc.collect()
    gc.freeze()  # only what the evaluation makes is collected, which is fast
    try:
        for options in ({}, {"resume": True}):
            READ.clear()
            benchmark(folders, **options)
            assert list(READ) == ["x", *SIZES, "y"]
    finally:
        gc.unfreeze()


@pytest.fixture
def folders(tmp_path):
    """Four BEIR folders on disk, two of which are parts of one set."""
    found = []
    for name, size in (("w", 3), ("s/a", 4), ("s/b", 6), ("z", 5)):
        made = judged(size, name=name, more=9)
        write_collection(tmp_path / "data" / name, made.documents, made.queries, {"test": made.qrels})
        found.append(CollectionFolder(name, tmp_path / "data" / name, "test"))
    return found


def without_history(results):
    return {**results, "manifest": {key: value for key, value in results["manifest"].items() if key != "earlier"}}


@pytest.mark.parametrize(("broken", "kept"), [("s/b", ["w"]), ("z", ["w", "s/a", "s/b", "s"]), ("s/a", ["w"])])
def test_finished_sets_are_kept_when_a_later_one_fails_and_resumed(benchmark, folders, tmp_path, broken, kept):
    """The results after resuming are those of an evaluation that was not interrupted, but for its history."""
    reported: list[list[str]] = []
    expected = benchmark(folders, report=lambda results: reported.append(list(results.model.datasets)))
    assert reported[:3] == [["w"], ["w", "s/a", "s/b", "s"], ["w", "s/a", "s/b", "s", "z"]]
    (tmp_path / "r.json").unlink()
    corpus = tmp_path / "data" / broken / "corpus.jsonl"
    content = corpus.read_text()
    corpus.write_text(content[:-20])
    done = ", ".join(name for name in kept if "/" not in name)
    with pytest.raises(InputError, match=rf"corpus\.jsonl, line 30: .*r\.json: {done};.*--resume"):
        benchmark(folders, manifest={"started": "then"})
    assert all(
        list(each["datasets"]) == kept for each in systems(json.loads((tmp_path / "r.json").read_text())).values()
    )
    runs = {path: path.stat().st_mtime_ns for name in kept for path in (tmp_path / "r.runs" / name).rglob("*.trec")}
    corpus.write_text(content)
    results = benchmark(folders, resume=True)
    assert without_history(results) == without_history(expected)
    assert [each["started"] for each in results["manifest"]["earlier"]] == ["then"]
    assert {path: path.stat().st_mtime_ns for path in runs} == runs


def test_a_first_set_that_fails_leaves_an_older_file_alone(benchmark, folders, tmp_path):
    benchmark(folders[:1])
    before = (tmp_path / "r.json").read_bytes()
    (tmp_path / "data" / "w" / "corpus.jsonl").unlink()
    with pytest.raises(InputError) as caught:
        benchmark(folders)
    assert "--resume" not in str(caught.value)
    assert (tmp_path / "r.json").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        ({"seed": 5}, "seed is 0 there and 5 now"),
        ({"baselines": []}, "system other is .* there and None now"),
        ({"baselines": [System(BM25Retriever(), "bm25")]}, "system other is"),
        ({"model": ("model", "cosine", "base")}, "distance is 'euclid.* 'cosine'"),
        ({"model": ("new", "euclidean", "base")}, "model is 'model' there and 'new' now"),
        ({"model": ("model", "euclidean", "new")}, "system untouched_base is"),
        ({"model": ("model", "euclidean", None)}, "system untouched_base is .* and None now"),
    ],
)  # fmt: skip
def test_another_evaluation_is_not_resumed(benchmark, dense, folders, tmp_path, options, facts):
    if "model" in options:
        name, distance, base = options["model"]
        options = {"model": System(dense(name, 1), distance, base and dense(base, 2))}
    benchmark(folders[:1])
    before = (tmp_path / "r.json").read_bytes()
    with pytest.raises(InputError, match=facts):
        benchmark(folders, resume=True, **options)
    assert (tmp_path / "r.json").read_bytes() == before


def test_only_resume_adds_to_what_is_there_and_refuses_another_collection_of_that_name(benchmark, folders, tmp_path):
    benchmark(folders[:3])
    corpus = tmp_path / "data" / "s" / "b" / "corpus.jsonl"
    corpus.write_text(corpus.read_text().replace("text 7", "text seven"))
    with pytest.raises(InputError, match=r"s/b is not .*r\.json .*: sha256 is"):
        benchmark(folders, resume=True)
    expected = benchmark(folders)
    assert "earlier" not in benchmark(folders[:3], resume=False)["manifest"]
    assert without_history(benchmark(folders[3:], resume=True)) == without_history(expected)
    assert list(benchmark(folders[3:])["datasets"]) == ["z"]


@pytest.mark.parametrize("content", [[1], {"model": "x"}, "no settings"])
def test_a_file_that_is_no_evaluation_is_not_resumed(benchmark, folders, tmp_path, content):
    if content == "no settings":
        content = benchmark(folders[:1])
        del content["manifest"]["settings"]
    write_json(tmp_path / "r.json", content)
    with pytest.raises(InputError, match=r"r\.json"):
        benchmark(folders, resume=True)
    assert json.loads((tmp_path / "r.json").read_text()) == content
