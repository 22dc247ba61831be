"""What the best epoch is selected by, and which of trained, initial encoder and base is the final model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ragcun.cli.train import run
from ragcun.config import TrainConfig
from ragcun.data.beir import Collection, Document, load_collection, pairs_from_collection
from ragcun.embeddings.cache import EmbeddingCache, vector_source
from ragcun.embeddings.joined import JoinedBase
from ragcun.embeddings.lexical import LexicalChannel
from ragcun.embeddings.precomputed import VectorStore
from ragcun.embeddings.text_base import TextBase
from ragcun.io import read_json
from ragcun.losses.objective import Objective
from ragcun.models.cached_encoder import CachedEncoder
from ragcun.models.encoder import RetrievalEncoder
from ragcun.models.systems import AsymmetricProjectionModel, IsotropicGaussianEncoder
from ragcun.retrieval.metrics import paired_tests
from ragcun.retrieval.systems import DenseRetriever, evaluate_retriever
from ragcun.training.batches import PairSource, epoch_batches
from ragcun.training.loop import fit
from ragcun.training.selection import is_better, make_selection, mean_loss, select_final_model, with_weights
from ragcun.training.setup import TrainingData

DIM, DOCUMENTS, QUERIES = 16, 200, 40
Matrix = NDArray[np.float64]


@pytest.fixture
def encoder(tiny_bert: str) -> IsotropicGaussianEncoder:
    torch.manual_seed(0)
    return IsotropicGaussianEncoder(TextBase.load(tiny_bert, device="cpu"), head="mlp")


@pytest.fixture
def collection(collection_folder: Path) -> Collection:
    return load_collection(collection_folder, "dev")


def ndcg(queries: np.ndarray, documents: np.ndarray, relevant: Sequence[int]) -> Matrix:
    """NDCG@10 of each query by its definition: one relevant document, distances in float64."""
    distances = np.linalg.norm(queries[:, None].astype(np.float64) - documents[None], axis=2)
    ranks = (distances < distances[np.arange(len(queries)), relevant][:, None]).sum(1)
    return np.where(ranks < 10, 1 / np.log2(ranks + 2), 0.0)


@pytest.mark.parametrize("cached", [True, False])
def test_dev_selection_is_ndcg_at_10(encoder, collection, tmp_path, cached):
    base = encoder.base
    base.freeze(cached)
    data = TrainingData(pairs_from_collection(collection), dev=collection)
    features = EmbeddingCache(base, tmp_path) if cached else None
    selection = make_selection(data, PairSource(data.train, base, torch.device("cpu"), features), Objective(), 8)
    texts = [list(collection.queries.values()), [document.content for document in collection.documents.values()]]
    names, judged = list(collection.documents), (collection.qrels[query] for query in collection.queries)
    relevant = [names.index(document) for each in judged for document in each]
    score, row = selection.evaluate(encoder, 1)
    assert score == pytest.approx(ndcg(*map(encoder.encode, texts), relevant).mean(), abs=1e-6)
    assert row == {"dev": {"NDCG@10": score}}
    untouched = [base.untouched_array(base.encode(some, "document")) for some in texts]
    assert selection.base_score == pytest.approx(ndcg(*untouched, relevant).mean(), abs=1e-6)
    assert selection.base_score > 0.1


def test_objective_selection_averages_over_pairs_without_dropout(encoder, collection):
    pairs = pairs_from_collection(collection)
    source = PairSource(pairs, encoder.base, torch.device("cpu"))
    objective = Objective(lambda_isotropy=0.5)
    batches = epoch_batches(len(pairs), 7, 0, None)
    encoder.train()
    score, row = mean_loss(encoder, source, batches, objective)
    encoder.eval()
    with torch.no_grad():
        totals = [float(objective(encoder(source.batch(rows))).total) for rows in batches]
    assert -score == pytest.approx(np.average(totals, weights=[len(rows) for rows in batches]), rel=1e-6)
    terms = row["val_terms"]
    assert row["val_total"] == -score == pytest.approx(terms["contrastive"] + 0.5 * terms["isotropy"], rel=1e-6)


def test_better_is_finite_and_above_the_best_or_the_first():
    assert all(is_better(score, best) for score, best in ((None, None), (0.1, None), (0.2, 0.1), (-1.0, -2.0)))
    assert not any(is_better(score, 0.1) for score in (0.1, 0.05, float("nan"), float("inf")))


# Never worse: on held-out queries whose best map is known


class Problem:
    """Queries are noisy copies of their documents that were turned by `turn`; its transpose is the best query head."""

    def __init__(self, turned: bool, queries: int = QUERIES) -> None:
        drawn = np.random.default_rng(0)
        documents = drawn.normal(size=(DOCUMENTS, DIM))
        self.turn: Matrix = np.linalg.qr(drawn.normal(size=(DIM, DIM)))[0] if turned else np.eye(DIM)
        self.queries = (documents[:queries] + 0.7 * drawn.normal(size=(queries, DIM))) @ self.turn.T
        names, asked = [f"d{i}" for i in range(DOCUMENTS)], [f"q{i}" for i in range(queries)]
        self.cache = VectorStore([(names, documents)], [(asked, self.queries)])
        qrels = {query: {f"d{i}": 1} for i, query in enumerate(asked)}
        corpus = {name: Document("", name) for name in names}
        self.collection = Collection("held out", corpus, {query: query for query in asked}, qrels, "dev")

    def encoder(self, query: Matrix, document: Matrix, **settings: Any) -> AsymmetricProjectionModel:
        """Linear heads of given matrices."""
        model = AsymmetricProjectionModel(self.cache.base, head="linear", normalize_output=True, **settings)
        for head, matrix in ((model.head, query), (model.document_head, document)):
            head.start_as(torch.from_numpy(matrix), torch.zeros(len(matrix)))
        return model.eval()

    def made(self, name: str) -> AsymmetricProjectionModel:
        """Return an encoder whose queries are turned back, left, doubled as documents are, or destroyed."""
        one = np.eye(DIM)
        random = [np.random.default_rng(seed).normal(size=(DIM, DIM)) for seed in (1, 2)]
        queries = {"best": self.turn.T, "base": one, "doubled": 2 * one, "destroyed": random[0], "random": random[1]}
        return self.encoder(queries[name], 2 * one if name == "doubled" else one)

    def embedded(self, encoder: AsymmetricProjectionModel) -> NDArray[np.float32]:
        return encoder.embed(self.queries.astype(np.float32), "query")

    def ndcg(self, encoder: AsymmetricProjectionModel) -> dict[str, float]:
        """NDCG@10 of each query."""
        documents = encoder.embed(self.cache.encode([*self.collection.documents], "document"), "document")
        values = ndcg(self.embedded(encoder), documents, range(len(self.queries)))
        return {f"q{i}": float(value) for i, value in enumerate(values)}


def test_the_base_is_the_text_model_without_its_lexical_channel(tiny_bert, collection, tmp_path):
    contents = [document.content for document in collection.documents.values()]
    base = JoinedBase(TextBase.load(tiny_bert, device="cpu"), LexicalChannel.fit(contents, 8), 0.5)
    features = vector_source(base, tmp_path)
    start = AsymmetricProjectionModel(base, normalize_output=True)
    trained = with_weights(start, {name: torch.zeros_like(value) for name, value in start.own_state().items()})
    data = TrainingData(pairs_from_collection(collection), dev=collection)
    untouched = make_selection(
        data, PairSource(data.train, base, torch.device("cpu"), features), Objective(), 8
    ).base_score
    kept, found = select_final_model(trained, start, collection, features, seed=0)
    alone = CachedEncoder(EmbeddingCache(base.dense, tmp_path))
    without = evaluate_retriever(DenseRetriever("alone", alone, base.distance), collection, cutoffs=(10,))
    assert found.scores["base"] == untouched == pytest.approx(without.mean["NDCG@10"])
    assert found.scores["start"] > untouched
    assert (found.kept, kept) == ("start", start)


FINAL: dict[str, tuple[bool, int, str, str, str]] = {
    "a better trained encoder stays": (True, QUERIES, "best", "base", "trained"),
    "a destroyed one gives way to its start": (True, QUERIES, "destroyed", "best", "start"),
    "where the start is destroyed too the base is kept": (False, QUERIES, "destroyed", "random", "base"),
    "the base has to beat the start that replaced the trained one": (False, QUERIES, "destroyed", "doubled", "start"),
    "of equals the trained one stays": (False, QUERIES, "base", "doubled", "trained"),
    "19 queries cannot tell, and the start is kept": (True, 19, "best", "destroyed", "start"),
    "20 queries can": (True, 20, "destroyed", "best", "start"),
}


@pytest.mark.parametrize("name", FINAL)
def test_the_final_model_is_selected_by_paired_tests_of_ndcg(name):
    turned, queries, trained, start, kept = FINAL[name]
    problem = Problem(turned, queries)
    encoders = {"trained": problem.made(trained), "start": problem.made(start), "base": problem.made("base")}
    final, found = select_final_model(encoders["trained"], encoders["start"], problem.collection, problem.cache, 4)
    assert (found.kept, found.queries, found.source) == (kept, queries, "held out")
    ndcg = {one: problem.ndcg(encoder) for one, encoder in encoders.items()}
    assert found.scores == pytest.approx({one: np.mean([*values.values()]) for one, values in ndcg.items()})
    assert (found.scores[kept] == max(found.scores.values())) == ("cannot tell" not in str(found)) == (queries >= 20)
    p = paired_tests(ndcg["trained"], ndcg["start"], seed=4).p_randomisation
    before = "start" if found.scores["start"] > found.scores["trained"] and p < 0.05 else "trained"
    compared = {"trained against start": ("trained", "start"), f"{before} against base": (before, "base")}
    expected = {pair: paired_tests(ndcg[a], ndcg[b], seed=4).p_randomisation for pair, (a, b) in compared.items()}
    assert found.p_values == pytest.approx(expected if queries >= 20 else {})
    if kept != "base":
        assert final is encoders[kept]
    else:
        untouched = problem.cache.base(torch.from_numpy(problem.queries.astype(np.float32))).numpy()
        np.testing.assert_array_equal(problem.embedded(final), untouched)


def test_an_encoder_of_another_dimension_is_compared_with_its_start_alone():
    problem = Problem(turned=False)
    half = np.random.default_rng(3).normal(size=(4, DIM))
    trained, start = (problem.encoder(half * sign, half, output_dim=4) for sign in (-1, 1))
    kept, comparison = select_final_model(trained, start, problem.collection, problem.cache, 0)
    assert comparison.scores.keys() == {"trained", "start"}
    assert kept is start


def test_with_weights_is_another_encoder_on_the_same_base():
    problem = Problem(turned=True)
    best, other = problem.made("best"), problem.made("destroyed")
    before = problem.embedded(best)
    made = with_weights(other, best.state_dict())
    np.testing.assert_array_equal(problem.embedded(made), before)
    assert made.base is other.base
    with torch.no_grad():
        made.head.layers[0].weight.zero_()
    np.testing.assert_array_equal(problem.embedded(best), before)
    assert np.abs(problem.embedded(other) - before).max() > 0.1


@pytest.mark.parametrize("kept", ["start", "trained"])
def test_what_was_kept_stands_in_summary_card_and_manifest(settings, collection_folder, tmp_path, kept):
    """Half of the queries are too few to tell, so that the start is kept; of all of them the trained model is."""
    dev = {"dev_fraction": 0.5} if kept == "start" else {"dev_beir": str(collection_folder)}
    dev |= {"head_init": "identity", "trained_share": 1.0, "average_decay": 0.0, "projection_learning_rate": 0.01}
    config = TrainConfig(**settings, **dev, never_worse=True, output_dir=str(tmp_path))
    summary, _ = run(config)
    card, manifest = (tmp_path / "best_model" / "README.md").read_text(), read_json(tmp_path / "manifest.json")
    result, found = manifest["result"], manifest["never_worse"]
    assert f"| this model | {result['score']:.4f} |" in card
    assert f"epoch {result['best_epoch']} kept" in summary
    assert found["kept"] == kept
    assert all(f"never worse: {kept} kept" in shown for shown in (summary, card))
    assert result["score"] == pytest.approx(found["scores"][kept])
    assert (result["best_epoch"] == 0) is (kept == "start")
    about = read_json(tmp_path / "best_model" / "ragcun" / "encoder.json")
    assert ("trained_parameters" in about) is (kept == "trained")


@pytest.mark.parametrize("kept", ["trained", "start"])
def test_without_held_out_queries_never_worse_cross_validates(collection_folder, tiny_bert, tmp_path, kept):
    """Each training query is held out once; a kept model is that of a run on all of them, bit for bit."""
    settings = {"train_data": str(collection_folder), "base_model": tiny_bert, "device": "cpu", "epochs": 1, "seed": 3}
    settings |= {"projection_learning_rate": 30.0, "average_decay": 0.0} if kept == "start" else {}
    settings |= {"trained_share": 1.0, "lexical_dim": 0, "head_init": "identity", "hold_out_documents": 0.1}
    encoders = []
    for name, checked in (("plain", False), ("checked", True)):
        fit(TrainConfig(**settings, never_worse=checked, output_dir=str(tmp_path / name)))
        encoders.append(RetrievalEncoder.from_pretrained(tmp_path / name / "best_model", "cpu"))
    found = read_json(tmp_path / "checked" / "manifest.json")["never_worse"]
    queries = load_collection(collection_folder, "train").queries
    assert (found["kept"], found["queries"], found["per_query"]) == (kept, len(queries), {})
    texts = [*queries.values()][:9]
    same = np.array_equal(*(encoder.encode_query(texts) for encoder in encoders))
    assert same is (kept == "trained")
    if kept == "start":
        base = encoders[1].base
        np.testing.assert_array_equal(
            encoders[1].encode_query(texts), base(torch.from_numpy(base.encode(texts, "query")))
        )
