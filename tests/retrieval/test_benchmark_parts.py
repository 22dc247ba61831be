"""Scores on part of the queries: documents hidden from training ranked alone, and seen and unseen documents."""

import json
import random
from dataclasses import replace
from statistics import fmean

import pytest

from ragcun import IsotropicGaussianEncoder, TextBase
from ragcun.data.beir import Collection, Document
from ragcun.data.overlap import SEEN, HoldOut, text_hashes
from ragcun.io import write_json
from ragcun.retrieval.benchmark import run_benchmark
from ragcun.retrieval.metrics import paired_tests
from ragcun.retrieval.runs import read_run
from ragcun.retrieval.systems import EncodingOptions, evaluate_retriever, open_system
from tests.models.helpers import moved
from tests.retrieval.conftest import judged, systems

HELD_OUT = HoldOut(0.4, 4)
SLUGS = ("model", "untouched_base", "bm25")


@pytest.fixture(scope="module")
def collection(texts):
    """120 documents; 40 queries of three words of a document, each with up to three judged documents."""
    rng = random.Random(1)
    documents = {f"d{i}": Document(text.split()[0] if i % 2 else "", text) for i, text in enumerate(texts[:120])}
    queries = {f"q{i}": " ".join(documents[f"d{i}"].text.split()[:3]) for i in range(40)}
    qrels = {key: dict(zip(rng.sample(list(documents), 2), (0, 1), strict=True)) for key in queries}
    for i, grades in enumerate(qrels.values()):
        grades[f"d{i}"] = 2
    return Collection("toy", documents, queries, qrels, "test")


@pytest.fixture(scope="module")
def save(tiny_bert, tmp_path_factory):
    """Save an encoder whose head has moved away from the identity."""

    def save(held_out, seen=frozenset()):
        encoder = moved(IsotropicGaussianEncoder(TextBase.load(tiny_bert, device="cpu")), 0.3)
        folder = tmp_path_factory.mktemp("held") / "model"
        encoder.save_pretrained(folder, seen=seen, held_out=held_out)
        return folder

    return save


@pytest.fixture(scope="module")
def checkpoint(save):
    return save(HELD_OUT)


def evaluate(checkpoint, collections, out, baselines=("bm25",)):
    options = EncodingOptions(device="cpu")
    others = [open_system(spec, options) for spec in baselines]
    run_benchmark(open_system(str(checkpoint), options), others, collections, out, {})
    return json.loads(out.read_text())


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def blocks(results):
    return {slug: system["datasets"]["toy"]["held_out"] for slug, system in systems(results).items()}


def hidden_ids(collection):
    return [key for key, document in collection.documents.items() if HELD_OUT.hides(document.content)]


def test_scores_are_those_of_ranking_the_hidden_documents_alone(collection, checkpoint, tmp_path):
    scores = blocks(evaluate(checkpoint, [collection], tmp_path / "r.json"))
    hidden, options = HELD_OUT.hidden_only(collection), EncodingOptions(device="cpu")
    assert 10 < len(hidden.qrels) < len(collection.queries)
    assert tuple(scores) == SLUGS
    model = open_system(str(checkpoint), options)
    retrievers = (model.retriever, model.untouched_base, open_system("bm25", options).retriever)
    alone = {slug: evaluate_retriever(each, hidden) for slug, each in zip(SLUGS, retrievers, strict=True)}
    for slug, evaluation in alone.items():
        assert {name: scores[slug][name] for name in evaluation.mean} == pytest.approx(evaluation.mean, abs=1e-12)
        assert (scores[slug]["n_documents"], scores[slug]["n_queries"]) == (len(hidden.documents), len(hidden.queries))
        files = tmp_path / "r.runs" / "toy"
        per_query = json.loads((files / f"{slug}.held_out.per_query.json").read_text())
        assert per_query["NDCG@10"] == evaluation.per_query["NDCG@10"]
        run = read_run(files / f"{slug}.held_out.trec")
        assert run == {query: documents for query, documents in evaluation.run.items() if documents}
    for slug in SLUGS[1:]:
        tests = paired_tests(*(alone[each].per_query["NDCG@10"] for each in ("model", slug)))
        found = [scores[slug][name] for name in ("mean_difference", "p_randomisation", "p_t")]
        assert found == pytest.approx([tests.mean_difference, tests.p_randomisation, tests.p_t], abs=1e-12)


def test_a_hold_out_changes_no_other_score(collection, checkpoint, save, tmp_path):
    hidden = evaluate(checkpoint, [collection], tmp_path / "a.json")
    plain = evaluate(save(None), [collection], tmp_path / "b.json")
    assert plain["manifest"]["held_out"] is None
    assert HoldOut(**hidden["manifest"]["held_out"]) == HELD_OUT
    for slug, system in systems(hidden).items():
        scores = {key: value for key, value in system["datasets"]["toy"].items() if key != "held_out"}
        assert scores == systems(plain)[slug]["datasets"]["toy"]
    assert hidden["average"] == plain["average"]


def test_an_earlier_run_has_no_held_out_figures(collection, checkpoint, tmp_path, caplog):
    evaluate(checkpoint, [collection], tmp_path / "a.json")
    assert not warnings(caplog)
    results = evaluate(checkpoint, [collection], tmp_path / "b.json", ("bm25", str(tmp_path / "a.json")))
    (warning,) = warnings(caplog)
    assert "held-out" in warning
    *_, ranked, stored = systems(results).values()
    assert "p_randomisation" in ranked["datasets"]["toy"]["held_out"]
    assert stored["datasets"]["toy"]["NDCG@10"] == pytest.approx(results["datasets"]["toy"]["NDCG@10"])
    assert "held_out" not in stored["datasets"]["toy"]


def test_hidden_documents_that_were_seen_after_all_have_no_figures(collection, save, tmp_path, caplog):
    content = collection.documents[hidden_ids(collection)[0]].content
    results = evaluate(save(HELD_OUT, text_hashes([content])), [collection], tmp_path / "r.json")
    (warning,) = warnings(caplog)
    assert "toy" in warning
    assert " 1 of the hidden documents" in warning
    assert not any("held_out" in system["datasets"]["toy"] for system in systems(results).values())


@pytest.mark.parametrize("left", [0, 1])
def test_few_queries_have_no_tests(collection, checkpoint, tmp_path, left):
    """One query with a relevant hidden document, or none."""
    hidden, queries = hidden_ids(collection), list(collection.queries)[:5]
    visible = next(key for key in collection.documents if key not in hidden)
    qrels = {query: {visible: 1, hidden[i]: int(i < left)} for i, query in enumerate(queries)}
    few = replace(collection, queries={query: collection.queries[query] for query in queries}, qrels=qrels)
    for block in blocks(evaluate(checkpoint, [few], tmp_path / "r.json")).values():
        assert block["n_queries"] == left
        assert not any(key.startswith("p_") for key in block)
        assert ("NDCG@10" in block) == (left == 1)


QUERIES = 12


@pytest.fixture
def results_with(benchmark, tmp_path):
    """Evaluate a checkpoint that saw the first `seen` queries' documents in training, or has no record of it."""
    collection = judged(QUERIES, 40)
    for i, grades in enumerate(collection.qrels.values()):
        grades[f"d{i + 20:03}"] = 0

    def run(seen):
        folder = tmp_path / "checkpoint"
        if seen is not None:
            write_json(folder / SEEN, sorted(text_hashes(f"toy text {i}" for i in (*range(seen), 25))))
        results = benchmark([collection], str(folder))
        return {slug: system["datasets"]["toy"] for slug, system in systems(results).items()}

    return run


@pytest.mark.parametrize("seen", [0, 1, 2, 5, QUERIES - 1, QUERIES])
def test_scores_and_tests_of_either_side_are_of_its_queries_alone(results_with, seen, tmp_path):
    scores = results_with(seen)
    files = {slug: tmp_path / "r.runs" / "toy" / f"{slug}.per_query.json" for slug in scores}
    values = {slug: json.loads(file.read_text()) for slug, file in files.items()}
    for slug, figures in scores.items():
        assert len(values[slug]) == 21
        for side, numbers in (("seen", range(seen)), ("unseen", range(seen, QUERIES))):
            found, queries = figures[side], [f"q{i}" for i in numbers]
            assert found["n_queries"] == len(queries)
            for metric, of_query in values[slug].items():
                assert figures[metric] == pytest.approx(fmean(of_query.values()), abs=1e-12)
                assert found.get(metric) == (pytest.approx(fmean(map(of_query.get, queries))) if queries else None)
            tested = slug != "model" and len(queries) > 1
            assert ("p_t" in found) == ("p_randomisation" in found) == tested
            if tested:
                ours, theirs = ({q: values[each]["NDCG@10"][q] for q in queries} for each in ("model", slug))
                expected = paired_tests(ours, theirs)
                assert (found["p_t"], found["p_randomisation"]) == (expected.p_t, expected.p_randomisation)
                assert found["mean_difference"] == pytest.approx(expected.mean_difference)


def test_unknown_seen_documents_change_nothing_but_the_log(results_with, caplog):
    unknown = results_with(None)
    assert caplog.text.count("seen documents are unknown") == 1
    for slug, known in results_with(3).items():
        assert unknown[slug] == {name: value for name, value in known.items() if name not in ("seen", "unseen")}
