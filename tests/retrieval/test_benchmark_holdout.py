"""Evaluations in which only the documents that were hidden from training are ranked."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sentence_transformers import SentenceTransformer

from ragcun.data.beir import Collection, Document
from ragcun.data.overlap import HoldOut, text_hashes
from ragcun.embeddings.text_base import TextBase
from ragcun.models.encoder import RetrievalEncoder
from ragcun.models.systems import IsotropicGaussianEncoder
from ragcun.retrieval.benchmark import run_benchmark
from ragcun.retrieval.bm25 import bm25_run
from ragcun.retrieval.runs import read_run
from ragcun.retrieval.significance import paired_tests
from ragcun.retrieval.systems import EncodingOptions, open_system

HELD_OUT = HoldOut(0.4, 4)
SLUGS = ("model", "untouched_base", "bm25")


@pytest.fixture(scope="module")
def collection(texts: list[str]) -> Collection:
    """120 documents; 40 queries of three words of a document, each with up to three judged documents."""
    rng = random.Random(1)
    documents = {f"d{i}": Document(text.split()[0] if i % 2 else "", text) for i, text in enumerate(texts[:120])}
    queries = {f"q{i}": " ".join(documents[f"d{i}"].text.split()[:3]) for i in range(40)}
    qrels = {key: dict(zip(rng.sample(list(documents), 2), (0, 1), strict=True)) for key in queries}
    for i, judged in enumerate(qrels.values()):
        judged[f"d{i}"] = 2
    return Collection("toy", documents, queries, qrels, "test")


@pytest.fixture(scope="module")
def save(tiny_bert: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Save an encoder whose head has moved away from the identity."""

    def save(held_out: HoldOut | None, seen: frozenset[str] = frozenset()) -> Path:
        torch.manual_seed(0)
        encoder = IsotropicGaussianEncoder(TextBase.load(tiny_bert, device="cpu"))
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in encoder.head.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        folder = tmp_path_factory.mktemp("held") / "model"
        encoder.save_pretrained(folder, seen=seen, held_out=held_out)
        return folder

    return save


@pytest.fixture(scope="module")
def checkpoint(save: Callable[..., Path]) -> Path:
    return save(HELD_OUT)


def evaluate(checkpoint: Path, collections: list[Collection], out: Path, baselines: tuple[str, ...] = ("bm25",)) -> Any:
    options = EncodingOptions(device="cpu")
    systems = [open_system(spec, options) for spec in baselines]
    run_benchmark(open_system(str(checkpoint), options), systems, collections, out, {})
    return json.loads(out.read_text())


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def systems(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {"model": results, "untouched_base": results["untouched_base"], **results["baselines"]}


def blocks(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {slug: system["datasets"]["toy"]["held_out"] for slug, system in systems(results).items()}


def hidden_ids(collection: Collection) -> list[str]:
    return [key for key, document in collection.documents.items() if HELD_OUT.hides(document.content)]


def ndcg_by_hand(ranking: list[str], judged: dict[str, int], cut: int = 10) -> float:
    def gain(scores: list[int]) -> float:
        return sum(score / math.log2(rank + 1) for rank, score in enumerate(scores[:cut], start=1))

    ideal = gain(sorted((score for score in judged.values()), reverse=True))
    return gain([judged.get(document, 0) for document in ranking]) / ideal


@pytest.fixture(scope="module")
def by_hand(collection: Collection, checkpoint: Path, tiny_bert: str) -> dict[str, dict[str, list[str]]]:
    """Full rankings of the hidden documents by each system, for each query that has a relevant one."""
    keys = hidden_ids(collection)
    contents = [collection.documents[key].content for key in keys]
    queries = {
        query: text
        for query, text in collection.queries.items()
        if any(score > 0 and key in keys for key, score in collection.qrels[query].items())
    }
    assert 10 < len(queries) < len(collection.queries)
    encoder = RetrievalEncoder.from_pretrained(checkpoint, device="cpu")
    base = SentenceTransformer(tiny_bert, device="cpu")
    asked = list(queries.values())
    distances = {
        "model": cdist(encoder.encode_query(asked), encoder.encode_document(contents)),
        "untouched_base": cdist(base.encode(asked), base.encode(contents), "cosine"),
    }
    rankings = {
        slug: {query: [keys[i] for i in np.argsort(row)] for query, row in zip(queries, rows, strict=True)}
        for slug, rows in distances.items()
    }
    found = bm25_run(dict(zip(keys, contents, strict=True)), queries, len(keys))
    return rankings | {"bm25": {query: list(documents) for query, documents in found.items()}}


def test_scores_are_those_of_ranking_the_hidden_documents_by_hand(
    collection: Collection, checkpoint: Path, by_hand: dict[str, dict[str, list[str]]], tmp_path: Path
) -> None:
    results = blocks(evaluate(checkpoint, [collection], tmp_path / "r.json"))
    assert tuple(results) == SLUGS
    keys = set(hidden_ids(collection))
    values = {}
    for slug, rankings in by_hand.items():
        judged = {q: {d: s for d, s in collection.qrels[q].items() if d in keys} for q in rankings}
        values[slug] = {query: ndcg_by_hand(ranking, judged[query]) for query, ranking in rankings.items()}
        recall = [
            sum(judged[query].get(d, 0) > 0 for d in ranking[:5]) / sum(s > 0 for s in judged[query].values())
            for query, ranking in rankings.items()
        ]
        assert results[slug]["NDCG@10"] == pytest.approx(np.mean(list(values[slug].values())), abs=1e-9)
        assert results[slug]["Recall@5"] == pytest.approx(np.mean(recall), abs=1e-9)
        assert (results[slug]["n_documents"], results[slug]["n_queries"]) == (len(keys), len(rankings))
        per_query = json.loads((tmp_path / "r.runs" / "toy" / f"{slug}.held_out.per_query.json").read_text())
        assert per_query["NDCG@10"] == pytest.approx(values[slug], abs=1e-9)
        run = read_run(tmp_path / "r.runs" / "toy" / f"{slug}.held_out.trec")
        assert {query: set(found) for query, found in run.items()} == {q: set(r) for q, r in rankings.items() if r}
    for slug in SLUGS[1:]:
        tests = paired_tests(values["model"], values[slug])
        assert results[slug]["mean_difference"] == pytest.approx(tests.mean_difference, abs=1e-9)
        assert results[slug]["p_randomisation"] == pytest.approx(tests.p_randomisation, abs=0.01)
        assert results[slug]["p_t"] == pytest.approx(tests.p_t, abs=1e-6)


def test_documents_that_training_saw_do_not_matter(collection: Collection, checkpoint: Path, tmp_path: Path) -> None:
    first = evaluate(checkpoint, [collection], tmp_path / "a.json")
    hidden = set(hidden_ids(collection))
    visible = [key for key in collection.documents if key not in hidden]
    others = dict(zip(visible, visible[1:] + visible[:1], strict=True))
    mixed = {key: collection.documents[others.get(key, key)] for key in collection.documents}
    second = evaluate(checkpoint, [replace(collection, documents=mixed)], tmp_path / "b.json")
    assert blocks(second) == blocks(first)
    assert second["average"] != first["average"]


def test_a_hold_out_changes_no_other_score(
    collection: Collection, checkpoint: Path, save: Callable[..., Path], tmp_path: Path
) -> None:
    hidden = evaluate(checkpoint, [collection], tmp_path / "a.json")
    plain = evaluate(save(None), [collection], tmp_path / "b.json")
    assert plain["manifest"]["held_out"] is None
    assert HoldOut.from_dict(hidden["manifest"]["held_out"]) == HELD_OUT
    for slug, system in systems(hidden).items():
        scores = {key: value for key, value in system["datasets"]["toy"].items() if key != "held_out"}
        assert scores == systems(plain)[slug]["datasets"]["toy"]
    assert hidden["average"] == plain["average"]


def test_an_earlier_run_has_no_held_out_figures(
    collection: Collection, checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    evaluate(checkpoint, [collection], tmp_path / "a.json")
    assert not warnings(caplog)
    results = evaluate(checkpoint, [collection], tmp_path / "b.json", ("bm25", str(tmp_path / "a.json")))
    (warning,) = warnings(caplog)
    assert "held-out" in warning
    *_, ranked, stored = systems(results).values()
    assert "p_randomisation" in ranked["datasets"]["toy"]["held_out"]
    assert stored["datasets"]["toy"]["NDCG@10"] == pytest.approx(results["datasets"]["toy"]["NDCG@10"])
    assert "held_out" not in stored["datasets"]["toy"]


def test_hidden_documents_that_were_seen_after_all_have_no_figures(
    collection: Collection, save: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = collection.documents[hidden_ids(collection)[0]].content
    results = evaluate(save(HELD_OUT, text_hashes([content])), [collection], tmp_path / "r.json")
    (warning,) = warnings(caplog)
    assert "toy" in warning
    assert " 1 of the hidden documents" in warning
    assert not any("held_out" in system["datasets"]["toy"] for system in systems(results).values())


@pytest.mark.parametrize("left", [0, 1])
def test_few_queries_have_no_tests(collection: Collection, checkpoint: Path, tmp_path: Path, left: int) -> None:
    """One query with a relevant hidden document, or none."""
    hidden, queries = hidden_ids(collection), list(collection.queries)[:5]
    visible = next(key for key in collection.documents if key not in hidden)
    qrels = {query: {visible: 1, hidden[i]: int(i < left)} for i, query in enumerate(queries)}
    few = replace(collection, queries={query: collection.queries[query] for query in queries}, qrels=qrels)
    for block in blocks(evaluate(checkpoint, [few], tmp_path / "r.json")).values():
        assert block["n_queries"] == left
        assert not any(key.startswith("p_") for key in block)
        assert ("NDCG@10" in block) == (left == 1)
