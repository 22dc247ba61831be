"""mteb's scores of exported checkpoints and published models: ours, and never those of another model."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from sentence_transformers import SentenceTransformer

from ragcun import AsymmetricProjectionModel, EmbeddingCache, InputError, IsotropicGaussianEncoder, TextBase
from ragcun.data.beir import Collection, Document, load_collection
from ragcun.embeddings.hub import MODULES
from ragcun.embeddings.joined import JoinedBase, piece_analyser
from ragcun.embeddings.lexical import LexicalChannel
from ragcun.models.cached_encoder import CachedEncoder
from ragcun.models.encoder import RetrievalEncoder, untouched_model
from ragcun.retrieval.mteb import METRICS, collection_task, evaluate_task, find_task, name_for_mteb
from ragcun.retrieval.systems import DenseRetriever, evaluate_retriever
from tests.conftest import WORDS
from tests.models.helpers import moved

pytest.importorskip("mteb")
SYSTEMS = {"one head": 0.05, "two heads": 0.01, "a channel": 0.01, "a channel of pieces": 0.01}
"""Encoders, and how far their heads are moved."""


def saved(name: str, name_of_base: str, folder: Path, seed: int = 0) -> Path:
    """Write a checkpoint whose heads moved away from their start, at random."""
    base, settings = TextBase.load(name_of_base, device="cpu"), {"head": "mlp"}
    if "a channel" in name:
        analyser = piece_analyser(base) if "pieces" in name else None
        channel = LexicalChannel.fit([f"{one} {other}" for one, other in pairwise(WORDS)], 8, analyser)
        base, settings = JoinedBase(base, channel, 0.3), {"head": "linear"}
    system = IsotropicGaussianEncoder if name == "one head" else AsymmetricProjectionModel
    moved(system(base, **settings), SYSTEMS[name], seed).save_pretrained(folder)
    return folder


def ours(folder: Path, collection: Collection) -> dict[str, float]:
    encoder = RetrievalEncoder.from_pretrained(folder, "cpu")
    return dict(evaluate_retriever(DenseRetriever("ours", encoder), collection).mean)


def in_mteb(folder: Path, collection: Collection, cache: Path) -> dict[str, float]:
    encoder = RetrievalEncoder.from_pretrained(folder, "cpu")
    plain = (folder / MODULES).exists()
    model = SentenceTransformer(str(folder), device="cpu") if plain else encoder.to_sentence_transformer()
    name_for_mteb(model, str(folder))
    return evaluate_task(model, collection_task(collection), cache)


@pytest.fixture(scope="module")
def collection(collection_folder) -> Collection:
    """The toy collection with titles, graded judgments, and every query as a document of its own id.

    Only where such documents are left out can a relevant one be first; but half of the ids are of other texts, which
    are relevant.
    """
    toy = load_collection(collection_folder, "test")
    names = list(toy.documents)
    documents = {key: Document(each.text.split()[0], each.text) for key, each in toy.documents.items()}
    documents |= {query: Document("", text) for query, text in toy.queries.items()}
    others = list(toy.queries)[::2]
    documents |= {query: Document("", f"{toy.queries[query]} and more") for query in others}
    qrels = {
        query: judged | {names[row]: 2, names[row + 1]: 0} for row, (query, judged) in enumerate(toy.qrels.items())
    }
    qrels |= {query: {**qrels[query], query: 1} for query in others}
    return replace(toy, documents=documents, qrels=qrels)


@pytest.fixture(scope="module")
def base_with_prompts(tiny_bert, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("prompts") / "model"
    prompts = {"query": "word1 word2 ", "passage": "word3 "}
    SentenceTransformer(tiny_bert, device="cpu", prompts=prompts).save_pretrained(str(folder))
    return str(folder)


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_checkpoint_scores_in_mteb_what_it_scores_here(system, base_with_prompts, collection, tmp_path):
    folder = saved(system, base_with_prompts, tmp_path / "mine")
    here, there = ours(folder, collection), in_mteb(folder, collection, tmp_path / "cache")
    assert there["metric"] == "ndcg_at_10"
    assert there["main_score"] == there["NDCG@10"]
    assert 0.05 < here["NDCG@10"] < 0.95
    assert {name: there[name] for name in METRICS} == pytest.approx({name: here[name] for name in METRICS}, abs=1e-3)


@pytest.mark.parametrize(("distance", "unit"), [("cosine", True), ("dot", False), ("euclidean", True)])
def test_an_untouched_base_scores_in_mteb_what_it_scores_here(distance, unit, base_with_prompts, collection, tmp_path):
    base = TextBase.load(base_with_prompts, device="cpu")
    base.model.similarity_fn_name = distance
    base.ends_normalized = unit
    encoder = CachedEncoder(EmbeddingCache(base, tmp_path / "vectors"))
    here = evaluate_retriever(DenseRetriever("base", encoder, base.distance), collection).mean
    model = untouched_model(base)
    assert model.similarity_fn_name == distance
    name_for_mteb(model, "base")
    there = evaluate_task(model, collection_task(collection), tmp_path / "cache")
    assert there["NDCG@10"] == pytest.approx(here["NDCG@10"], abs=1e-3)


def test_a_cache_serves_the_same_checkpoint_on_the_same_collection_alone(tiny_bert, collection, tmp_path):
    """Not another checkpoint under the same path, nor another collection of the same name."""
    cache, place = tmp_path / "cache", tmp_path / "run" / "best_model"
    first = in_mteb(saved("one head", tiny_bert, place, 1), collection, cache)["NDCG@10"]
    folder = saved("one head", tiny_bert, place, 2)
    other = replace(collection, qrels={query: {"d0": 1} for query in collection.queries})
    for each in (other, collection):
        second = in_mteb(folder, each, cache)["NDCG@10"]
        assert second == pytest.approx(ours(folder, each)["NDCG@10"], abs=1e-3)
    assert abs(first - second) > 2e-3, "the seeds give scores too near to tell apart"
    names = sorted(path.name for path in (cache / "results").iterdir())
    assert [name.startswith("ragcun__run-best_model-") for name in names] == [True, True]
    for stored in cache.rglob("toy-test-*.json"):
        marked = json.loads(stored.read_text())
        marked["scores"]["test"][0] |= {"main_score": 0.125, "ndcg_at_10": 0.125}
        stored.write_text(json.dumps(marked))
    assert in_mteb(folder, collection, cache)["NDCG@10"] == 0.125


def test_a_name_is_of_all_that_decides_a_score(tiny_bert, tmp_path):
    def model(**settings):
        return SentenceTransformer(tiny_bert, device="cpu", **settings)

    prompts = [model(prompts={role: "word1 "}) for role in ("query", "document")]
    different = [model(), *prompts, model(similarity_fn_name="euclidean"), model(), model()]
    different[-2].max_seq_length = 7
    next(different[-1].parameters()).data.mul_(1.01)
    assert len({name_for_mteb(each, "mine") for each in different}) == len(different)
    assert name_for_mteb(model(), "mine") == name_for_mteb(model(), "mine")
    assert name_for_mteb(model(), "intfloat/e5 small").startswith("ragcun/intfloat-e5-small-")


def test_tasks_of_mteb_are_found_and_others_refused():
    task = find_task("SciFact", "test")
    assert (task.metadata.name, list(task.eval_splits)) == ("SciFact", ["test"])
    for wrong, split, facts in (
        ("Scifact", None, "'SciFact'"),
        ("STSBenchmark", None, "STS"),
        ("SciFact", "train", "test"),
    ):
        with pytest.raises(InputError, match=facts):
            find_task(wrong, split)
