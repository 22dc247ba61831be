"""Evaluations over sets: parts and their mean, one collection at a time, what stays when one fails, and going on."""

from __future__ import annotations

import gc
import json
import random
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest

from ragcun.data.beir import Collection, Document, write_collection
from ragcun.data.beir_sets import CollectionFolder
from ragcun.errors import InputError
from ragcun.io import write_json
from ragcun.reporting.tables import results_table
from ragcun.retrieval.benchmark import run_benchmark
from ragcun.retrieval.comparison import Measured
from ragcun.retrieval.evaluate import BM25Retriever, DenseRetriever, evaluate_retriever
from ragcun.retrieval.macro_average import whole
from ragcun.retrieval.significance import paired_tests
from ragcun.retrieval.systems import System

SIZES = {"forum/a": 3, "forum/b": 8, "forum/c": 5}


class Drawn:
    """Embeddings drawn by a seed and the text."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def encode_query(self, texts: list[str]) -> Any:
        rows = [np.random.default_rng([self.seed, *text.encode()]).normal(size=4) for text in texts]
        return np.array(rows, dtype=np.float32)

    encode_document = encode_query


def collection(name: str, queries: int) -> Collection:
    documents = {f"d{i}": Document("", f"{name} text {i}") for i in range(30)}
    qrels = {f"q{i}": {f"d{i}": 1, f"d{i + 9}": 1} for i in range(queries)}
    return Collection(name, documents, {query: f"{name} {query}" for query in qrels}, qrels, "test")


def dense(name: str, seed: int) -> DenseRetriever:
    return DenseRetriever(name, Drawn(seed))


@pytest.fixture
def benchmark(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Evaluate a drawn model beside a drawn base and baseline."""

    def run(collections: list[Any], seed: int = 1, **options: Any) -> dict[str, Any]:
        model = System(dense("model", seed), "euclidean", dense("base", 2))
        others = options.pop("baselines", [System(dense("other", 3), "euclidean")])
        return run_benchmark(model, others, collections, tmp_path / "r.json", options.pop("manifest", {}), **options)

    return run


@pytest.fixture
def forums() -> list[Collection]:
    return [collection(name, size) for name, size in SIZES.items()]


def systems(results: dict[str, Any]) -> list[dict[str, Any]]:
    return [results, results["untouched_base"], *results["baselines"].values()]


def metrics(figures: dict[str, Any]) -> list[str]:
    return [name for name in figures if "@" in name]


def test_a_set_is_the_mean_of_its_parts_and_counts_once(benchmark, forums: list[Collection]) -> None:
    alone = [collection("x", 4), collection("y", 6)]
    results = benchmark([alone[0], *forums, alone[1]])
    assert list(results["datasets"]) == ["x", *SIZES, "forum", "y"]
    for system in systems(results):
        figures = system["datasets"]
        assert len(metrics(figures["forum"])) == 21
        for metric in metrics(figures["forum"]):
            assert figures["forum"][metric] == pytest.approx(fmean(figures[name][metric] for name in SIZES), abs=1e-12)
            average = fmean(figures[name][metric] for name in ("x", "forum", "y"))
            assert system["average"][metric] == pytest.approx(average, abs=1e-12)
        assert figures["forum"]["n_queries"] == sum(SIZES.values())
    about = results["manifest"]["collections"]
    assert about["forum"]["queries"] == sum(SIZES.values())
    assert about["forum"]["documents"] == 3 * 30
    assert {name: each.get("part_of") for name, each in about.items()} == {
        "x": None, **dict.fromkeys(SIZES, "forum"), "forum": None, "y": None
    }  # fmt: skip
    assert "| forum" in results_table(results)


def test_parts_have_folders_and_figures_of_their_own(benchmark, forums: list[Collection], tmp_path: Path) -> None:
    together = benchmark(forums)
    for name in SIZES:
        folder = tmp_path / "r.runs" / name
        assert {path.name for path in folder.iterdir()} == {
            f"{slug}.{end}" for slug in ("model", "untouched_base", "other") for end in ("trec", "per_query.json")
        }
    assert {path.name for path in (tmp_path / "r.runs" / "forum").iterdir()} == {"a", "b", "c"}
    plain = benchmark([replace(each, name=each.name.replace("/", "-")) for each in forums])
    for name in SIZES:
        assert together["datasets"][name] == plain["datasets"][name.replace("/", "-")]


def test_another_part_changes_the_sets_digest(benchmark, forums: list[Collection]) -> None:
    first = benchmark(forums)["manifest"]["collections"]["forum"]["sha256"]
    changed = replace(forums[1], documents={**forums[1].documents, "d9": Document("", "other")})
    assert benchmark([forums[0], changed, forums[2]])["manifest"]["collections"]["forum"]["sha256"] != first


def exact_p(differences: list[list[float]]) -> tuple[float, float]:
    """The macro mean, and its two-sided p-value over all tosses of signs: twice the smaller tail, at most 1."""

    def macro(parts: list[list[float]]) -> float:
        return fmean(fmean(part) for part in parts)

    observed, tossed = macro(differences), []
    for signs in product((1, -1), repeat=sum(map(len, differences))):
        sign = iter(signs)
        tossed.append(macro([[next(sign) * d for d in part] for part in differences]))
    above, below = (fmean(s * value >= s * observed - 1e-12 for value in tossed) for s in (1, -1))
    return observed, min(1.0, 2 * min(above, below))


@pytest.mark.parametrize("seed", range(4))
def test_the_means_test_is_the_randomisation_test_of_the_macro_mean(seed: int) -> None:
    """Up to 10 queries have no more than 10,000 tosses, so that all are counted, here as there."""
    rng = random.Random(seed)
    values = {
        name: {slug: {f"q{i}": rng.random() for i in range(size)} for slug in ("model", "base")}
        for name, size in (("s/a", 1), ("s/b", 3), ("s/c", 6))
    }
    about = {"split": "test", "queries": 0, "documents": 0, "sha256": ""}
    parts = {
        name: Measured(about, {slug: {"NDCG@10": fmean(each.values())} for slug, each in by_slug.items()}, by_slug)
        for name, by_slug in values.items()
    }
    figures = whole(parts, seed=0).figures["base"]
    differences = [[each["model"][q] - each["base"][q] for q in each["model"]] for each in values.values()]
    difference, p = exact_p(differences)
    assert figures["mean_difference"] == pytest.approx(difference, abs=1e-12)
    assert figures["p_randomisation"] == pytest.approx(p, abs=1e-9)
    assert "p_t" not in figures
    pooled = [{f"{n} {q}": v for n, each in values.items() for q, v in each[s].items()} for s in ("model", "base")]
    assert figures["mean_difference"] != pytest.approx(paired_tests(*pooled).mean_difference, abs=1e-4)


def test_parts_of_equal_size_are_tested_as_if_pooled(benchmark) -> None:
    """With equal weights the macro mean is the mean over all queries."""
    forums = [collection(f"f/{i}", 4) for i in range(3)]
    figures = benchmark(forums)["untouched_base"]["datasets"]["f"]
    values = [
        {f"{each.name} {q}": v for each in forums for q, v in evaluated(name, seed, each).items()}
        for name, seed in (("model", 1), ("base", 2))
    ]
    tests = paired_tests(*values)
    assert figures["mean_difference"] == pytest.approx(tests.mean_difference, abs=1e-12)
    assert figures["p_randomisation"] == pytest.approx(tests.p_randomisation, abs=0.01)


def evaluated(name: str, seed: int, each: Collection) -> dict[str, float]:
    return dict(evaluate_retriever(dense(name, seed), each).per_query["NDCG@10"])


def test_a_set_without_parts_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 part, got 0"):
        whole({}, seed=0)


@dataclass(frozen=True)
class Watched(CollectionFolder):
    """A folder that asserts, when it is read, that no collection read before it is still in memory."""

    def load(self) -> Collection:
        gc.collect()
        assert not [name for name, read in READ.items() if read() is not None]
        read = collection(self.name, 4)
        READ[self.name] = weakref.ref(read)
        return read


READ: dict[str, weakref.ref[Collection]] = {}


def test_one_collection_is_in_memory_at_a_time(benchmark) -> None:
    READ.clear()
    folders = [Watched(name, Path(), "test") for name in ("x", *SIZES, "y")]
    results = benchmark(folders)
    assert list(READ) == ["x", *SIZES, "y"]
    READ.clear()
    assert benchmark(folders, resume=True)["datasets"] == results["datasets"]
    assert list(READ) == ["x", *SIZES, "y"]


@pytest.fixture
def folders(tmp_path: Path) -> list[CollectionFolder]:
    """Four BEIR folders on disk, two of which are parts of one set."""
    found = []
    for name, size in (("w", 3), ("s/a", 4), ("s/b", 6), ("z", 5)):
        made = collection(name, size)
        write_collection(tmp_path / "data" / name, made.documents, made.queries, {"test": made.qrels})
        found.append(CollectionFolder(name, tmp_path / "data" / name, "test"))
    return found


def without_history(results: dict[str, Any]) -> dict[str, Any]:
    manifest = {key: value for key, value in results["manifest"].items() if key != "earlier"}
    return json.loads(json.dumps({**results, "manifest": manifest}))


@pytest.mark.parametrize(("broken", "kept"), [("s/b", ["w"]), ("z", ["w", "s/a", "s/b", "s"]), ("s/a", ["w"])])
def test_what_is_done_stays_when_a_later_set_fails_and_is_gone_on_with(
    benchmark, folders: list[CollectionFolder], tmp_path: Path, broken: str, kept: list[str]
) -> None:
    """The results after going on are those of an evaluation that was not interrupted, but for its history."""
    expected = benchmark(folders)
    (tmp_path / "r.json").unlink()
    corpus = tmp_path / "data" / broken / "corpus.jsonl"
    content = corpus.read_text()
    corpus.write_text(content[:-20])
    done = ", ".join(name for name in kept if "/" not in name)
    with pytest.raises(
        InputError, match=rf"corpus\.jsonl, line 30: .*done and kept in .*: {done}; go on with --resume"
    ):
        benchmark(folders, manifest={"started": "then"})
    stopped = json.loads((tmp_path / "r.json").read_text())
    for system in systems(stopped):
        assert list(system["datasets"]) == kept
        assert "NDCG@10" in system["average"]
    corpus.write_text(content)
    results = benchmark(folders, resume=True)
    assert without_history(results) == without_history(expected)
    assert without_history(json.loads((tmp_path / "r.json").read_text())) == without_history(expected)
    (earlier,) = results["manifest"]["earlier"]
    assert earlier["started"] == "then"


def test_a_first_set_that_fails_leaves_an_older_file_alone(
    benchmark, folders: list[CollectionFolder], tmp_path: Path
) -> None:
    benchmark(folders[:1])
    before = (tmp_path / "r.json").read_bytes()
    (tmp_path / "data" / "w" / "corpus.jsonl").unlink()
    with pytest.raises(InputError) as caught:
        benchmark(folders)
    assert "--resume" not in str(caught.value)
    assert (tmp_path / "r.json").read_bytes() == before


def test_done_sets_are_not_evaluated_again(benchmark, folders: list[CollectionFolder], tmp_path: Path) -> None:
    benchmark(folders[:3])
    runs = {path: path.stat().st_mtime_ns for path in (tmp_path / "r.runs").rglob("*.trec")}
    benchmark(folders, resume=True)
    assert {path: path.stat().st_mtime_ns for path in runs} == runs
    assert (tmp_path / "r.runs" / "z" / "model.trec").exists()


def test_sets_are_added_to_what_is_there(benchmark, folders: list[CollectionFolder]) -> None:
    expected = benchmark(folders)
    benchmark(folders[:3])
    assert without_history(benchmark(folders[3:], resume=True)) == without_history(expected)


def test_without_resume_an_older_file_is_replaced(benchmark, folders: list[CollectionFolder], tmp_path: Path) -> None:
    benchmark(folders)
    benchmark(folders[3:])
    assert list(json.loads((tmp_path / "r.json").read_text())["datasets"]) == ["z"]


def test_resuming_nothing_is_starting(benchmark, folders: list[CollectionFolder]) -> None:
    assert "earlier" not in benchmark(folders[:1], resume=True)["manifest"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cutoffs": (5, 10)}, r"cutoffs is \[1, 3, 5, 10, 100\] there and \[5, 10\] now"),
        ({"seed": 5}, "seed is 0 there and 5 now"),
        ({"baselines": []}, "system other is .* there and None now"),
        ({"baselines": [System(BM25Retriever(), "bm25")]}, "system other is"),
        (
            {"model": System(dense("model", 1), "cosine", dense("base", 2))},
            "distance is 'euclidean' there and 'cosine'",
        ),
        ({"model": System(dense("new", 1), "euclidean", dense("base", 2))}, "model is 'model' there and 'new' now"),
        ({"model": System(dense("model", 1), "euclidean", dense("new", 2))}, "system untouched_base is"),
        ({"model": System(dense("model", 1), "euclidean")}, "system untouched_base is .* and None now"),
    ],
)
def test_another_evaluation_is_not_gone_on_with(
    folders: list[CollectionFolder], tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    asked: dict[str, Any] = {
        "model": System(dense("model", 1), "euclidean", dense("base", 2)),
        "baselines": [System(dense("other", 3), "euclidean")],
        "output_file": tmp_path / "r.json",
        "manifest": {},
    }
    run_benchmark(**asked, collections=folders[:1])
    before = (tmp_path / "r.json").read_bytes()
    with pytest.raises(InputError, match=message):
        run_benchmark(**{**asked, **options}, collections=folders, resume=True)
    assert (tmp_path / "r.json").read_bytes() == before


def test_another_collection_of_that_name_is_refused(benchmark, folders: list[CollectionFolder], tmp_path: Path) -> None:
    benchmark(folders[:3])
    corpus = tmp_path / "data" / "s" / "b" / "corpus.jsonl"
    corpus.write_text(corpus.read_text().replace("text 7", "text seven"))
    with pytest.raises(InputError, match=r"s/b is not what .*r\.json has figures of: sha256 is"):
        benchmark(folders, resume=True)


@pytest.mark.parametrize(
    "content", [[1], {"model": "x"}, {"datasets": {}, "untouched_base": None, "baselines": {}, "manifest": {}}]
)
def test_what_is_no_evaluation_is_not_gone_on_with(
    benchmark, folders: list[CollectionFolder], tmp_path: Path, content: Any
) -> None:
    write_json(tmp_path / "r.json", content)
    with pytest.raises(InputError, match="no evaluation that can be gone on with"):
        benchmark(folders, resume=True)
    assert json.loads((tmp_path / "r.json").read_text()) == content


def test_the_report_hears_of_every_set(benchmark, folders: list[CollectionFolder]) -> None:
    heard: list[list[str]] = []
    benchmark(folders, report=lambda results: heard.append(list(results["datasets"])))
    assert heard[:3] == [["w"], ["w", "s/a", "s/b", "s"], ["w", "s/a", "s/b", "s", "z"]]


class OwnText:
    """Embeddings in which a text is nearest to itself: a query finds the document that it is, first of all."""

    def encode_query(self, texts: list[str]) -> Any:
        return Drawn(0).encode_query(texts)

    encode_document = encode_query


@pytest.mark.parametrize("retriever", [DenseRetriever("dense", OwnText()), BM25Retriever()])
def test_a_document_of_the_querys_own_id_is_not_found(retriever: Any) -> None:
    """As in ArguAna and Quora, queries are documents too; each is judged to be answered by its neighbour."""
    texts = {f"d{i}": f"common word{i} word{i + 1}" for i in range(8)}
    documents = {key: Document("", text) for key, text in texts.items()}
    queries = {"d2": texts["d2"], "d5": texts["d5"], "other": texts["d5"]}
    qrels = {"d2": {"d3": 1}, "d5": {"d6": 1}, "other": {"d5": 1}}
    run = retriever.retrieve(Collection("own", documents, queries, qrels, "test"), 7)
    for query in ("d2", "d5"):
        assert set(run[query]) == documents.keys() - {query}
    assert next(iter(run["other"])) == "d5"
    assert len(run["other"]) == 7
