"""Fusion against a second implementation, what a weight is chosen by, and run files of other programs."""

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from ragcun.data.overlap import text_hashes
from ragcun.errors import InputError
from ragcun.retrieval.hybrid import TRAINED_WEIGHT, WEIGHT, Feedback, HybridRetriever, fuse, move_queries
from ragcun.retrieval.memory import Labels
from ragcun.retrieval.metrics import choose
from ragcun.retrieval.runs import write_run
from ragcun.retrieval.systems import Embedded, EncodingOptions, open_system
from tests.models.helpers import unit
from tests.retrieval.conftest import Ranking, judged


def random_run(seed: int, queries: int = 3, found: int = 8, documents: int = 12) -> dict[str, dict[str, float]]:
    """Return a run of random scores from best to worst, some of them equal."""
    rng, run = random.Random(seed), {}
    for query in range(queries):
        names = rng.sample(range(documents), found)
        scores = sorted((round(rng.uniform(-3, 9), 1) for _ in names), reverse=True)
        run[f"q{query}"] = {f"d{name}": score for name, score in zip(names, scores, strict=True)}
    return run


def reference(runs, weights, method):
    """Fuse as ranx does: each run's scores are normalised, and added up; z-scores count from the lowest."""
    fused = {query: Counter() for run in runs for query in run}
    for run, weight in zip(runs, weights, strict=True):
        for query, found in run.items():
            scores = np.array(list(found.values()))
            scaled = {
                "minmax": (scores - scores.min()) / np.ptp(scores),
                "zscore": (scores - scores.min()) / scores.std(),
                "rrf": 1 / (60 + np.arange(1, len(scores) + 1)),
            }[method]
            fused[query].update(dict(zip(found, (weight * scaled).tolist(), strict=True)))
    return fused


@pytest.mark.parametrize("method", ["minmax", "zscore", "rrf"])
def test_fusion_agrees_with_a_second_implementation(method):
    """Also where a run lacks a query, and whatever the order of the runs."""
    runs, weights = [random_run(1), random_run(2), random_run(3)], (0.5, 0.3, 0.2)
    del runs[1]["q2"]
    fused, expected = fuse(runs, weights, method), reference(runs, weights, method)
    assert fused.keys() == expected.keys()
    for query, scores in expected.items():
        assert fused[query] == pytest.approx(scores, abs=1e-12)
        assert list(fused[query]) == sorted(fused[query], key=lambda name: (-fused[query][name], name))
    backwards = fuse(runs[::-1], weights[::-1], method)
    assert backwards.keys() == fused.keys()
    assert all(backwards[query] == pytest.approx(fused[query], abs=1e-12) for query in fused)


def test_equal_scores_rank_by_id_and_the_rest_is_cut():
    run = {"q": {"c": 2.0, "b": 2.0, "a": 2.0}}
    assert fuse([run], k=2) == {"q": {"a": 1.0, "b": 1.0}}
    assert fuse([run], depth=2) == {"q": {"b": 1.0, "c": 1.0}}
    assert fuse([run, {"q": {}}], (0.5, 0.5)) == {"q": {"a": 0.5, "b": 0.5, "c": 0.5}}


def test_a_weight_is_used_where_held_out_queries_support_it_and_not_where_chance_explains_it():
    dev = replace(judged(60, 60), split="dev")
    helped = HybridRetriever((Ranking("bad", [12]), Ranking("good", [0])), dev=lambda _: dev)
    helped.retrieve(judged(60, 60), 10)
    record = helped.chosen["toy"]["weight"]
    assert record["chosen"] == record["best"] > 0.5
    assert (record["queries"], record["split"], record["without"]) == (60, "dev", 0)
    assert record["p"] < 0.05
    harmed = HybridRetriever((Ranking("good", [0]), Ranking("bad", [12])), dev=lambda _: dev)
    assert harmed.retrieve(judged(60, 60), 10) == harmed.fused(judged(60, 60), 10, 0.0)
    qrels = {f"q{i}": {"d": 1} for i in range(60)}
    for found, expected in (({"q1": {"d": 1.0}}, 0.0), (qrels, 0.5)):
        assert choose({0.0: {}, 0.5: found}.__getitem__, (0.0, 0.5), qrels, "dev")["chosen"] == expected


@pytest.mark.parametrize(
    ("trained", "strength", "share"),
    [(False, 0.0, WEIGHT), (False, 1.0, WEIGHT), (True, 0.0, TRAINED_WEIGHT), (True, 1.0, WEIGHT)],
)
def test_without_held_out_queries_the_values_are_fixed(dense, trained, strength, share):
    """The share of others beside a trained system depends on whether they have memory."""
    collection, other = judged(60, 60), Ranking("bad", [12])
    other.strength = lambda _: strength
    blind = HybridRetriever((dense("x", 1), other), trained=trained, feedback=(None, None))
    assert blind.retrieve(collection, 10) == blind.fused(collection, 10, share, Feedback(2, 0.3, share))


def test_dev_queries_are_neither_tested_nor_trained_on(tmp_path):
    """The judgments of query i + 100 are those of query i; q0 is judged in both splits."""
    collection = judged(100, 100)
    folder = tmp_path / "toy"
    (folder / "qrels").mkdir(parents=True)
    rows = "".join(f'{{"_id": "q{i}", "text": "question {i}"}}\n' for i in range(400))
    (folder / "queries.jsonl").write_text(rows)
    train = "".join(f"q{i}\td{i % 100:03}\t1\n" for i in (0, *range(100, 400)))
    (folder / "qrels" / "train.tsv").write_text(train)
    labels = Labels({"toy": folder})
    dev = labels.dev(collection)
    assert dev is labels.dev(collection)
    assert len(dev.qrels) == 90
    assert not dev.qrels.keys() & collection.qrels.keys()
    assert not {text for text, _ in labels.pairs(dev)} & set(dev.queries.values())
    assert labels.dev(collection, None) is None
    seen = text_hashes(f"toy text {i}" for i in range(40))
    left = labels.dev(collection, seen)
    assert all(int(document[1:]) >= 40 for judged_ in left.qrels.values() for document in judged_)
    (folder / "qrels" / "dev.tsv").write_text("".join(f"q{i}\td{i % 100:03}\t1\n" for i in range(100, 200)))
    assert labels.dev(replace(collection), None).split == "dev"


def test_run_files_of_other_programs_are_checked_against_the_collection(tmp_path, caplog):
    file, collection = tmp_path / "other.trec", judged(3)
    system = lambda: open_system(str(file), EncodingOptions()).retriever  # noqa: E731
    write_run(file, {"q0": {"d001": 2.0, "d000": 2.0}, "elsewhere": {"x": 1.0}}, "other")
    assert system().retrieve(collection, 1) == {"q0": {"d001": 2.0}}
    assert "2 of the queries of toy" in caplog.text
    fused = HybridRetriever((Ranking("good", [0]), system())).retrieve(collection, 10)
    assert fused.keys() == collection.qrels.keys()
    write_run(file, {"q0": {"x9": 1.0}}, "other")
    with pytest.raises(InputError, match=r"other\.trec.*'x9'"):
        system().retrieve(collection, 10)
    write_run(file, {"elsewhere": {"d001": 1.0}}, "other")
    with pytest.raises(InputError, match="any of the queries"):
        system().retrieve(collection, 10)


def test_feedback_moves_queries_by_rocchios_formula_and_keeps_their_length():
    rng = np.random.default_rng(0)
    queries, documents = (rng.normal(size=(n, 4)).astype(np.float32) for n in (2, 6))
    collection = replace(judged(6), queries={"q0": "a", "q1": "b"})
    run = {"q0": {"d003": 1.0, "d001": 0.5, "d000": 0.25}, "q1": {"d002": 0.0}}
    moved = move_queries(Embedded(queries, documents, "cosine"), collection, run, k=2, weight=0.4)

    mean = (unit(documents[3]) + 0.5 * unit(documents[1])) / 1.5
    expected = np.linalg.norm(queries[0]) * unit(0.6 * unit(queries[0]) + 0.4 * mean)
    assert moved[0] == pytest.approx(expected, abs=1e-6)
    assert np.array_equal(moved[1], queries[1])


def test_feedback_is_a_second_search_and_no_more(dense):
    """Without weight it changes nothing; it is recorded, and refused where there are no vectors."""
    collection, parts = judged(60, 60), (dense("x", 1), Ranking("good", [0]))
    plain = HybridRetriever(parts).retrieve(collection, 10)
    still = HybridRetriever(parts, feedback=(2, 0.0)).retrieve(collection, 10)
    assert {query: list(found) for query, found in still.items()} == {q: list(found) for q, found in plain.items()}
    chosen = HybridRetriever(parts, dev=lambda _: replace(collection, split="dev"), feedback=(None, None))
    chosen.retrieve(collection, 10)
    assert chosen.chosen["toy"]["feedback"]["queries"] == 60
    with pytest.raises(InputError, match=r"--feedback.*good"):
        HybridRetriever(parts[::-1], feedback=(2, 0.3)).retrieve(collection, 10)
