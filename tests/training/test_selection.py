"""What the best epoch is selected by, and which of trained, initial encoder and base is the final model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ragcun.data.beir import Collection, Document, load_collection, pairs_from_collection
from ragcun.embeddings.cache import EmbeddingCache
from ragcun.embeddings.precomputed import VectorStore
from ragcun.embeddings.text_base import TextBase
from ragcun.losses.objective import Objective
from ragcun.models.systems import AsymmetricProjectionModel, IsotropicGaussianEncoder
from ragcun.retrieval.metrics import paired_tests
from ragcun.training.batches import LivePairs, epoch_batches
from ragcun.training.selection import (
    is_better,
    make_selection,
    mean_loss,
    select_final_model,
    with_weights,
)
from ragcun.training.setup import TrainingData


@pytest.fixture
def encoder(tiny_bert: str) -> IsotropicGaussianEncoder:
    torch.manual_seed(0)
    return IsotropicGaussianEncoder(TextBase.load(tiny_bert, device="cpu"), head="mlp")


@pytest.fixture
def collection(collection_folder: Path) -> Collection:
    return load_collection(collection_folder, "dev")


def ndcg_by_hand(collection: Collection, queries: np.ndarray, documents: np.ndarray) -> float:
    """Mean NDCG@10 with one relevant document a query, distances in float64."""
    names, total = list(collection.documents), 0.0
    for row, query in zip(queries.astype(np.float64), collection.queries, strict=True):
        distances = np.sqrt(((documents.astype(np.float64) - row) ** 2).sum(1))
        (relevant,) = collection.qrels[query]
        rank = int((distances < distances[names.index(relevant)]).sum())
        total += 1 / np.log2(rank + 2) if rank < 10 else 0.0
    return total / len(collection.queries)


@pytest.mark.parametrize("cached", [True, False])
def test_dev_selection_is_ndcg_at_10(
    encoder: IsotropicGaussianEncoder, collection: Collection, tmp_path: Path, cached: bool
) -> None:
    base = encoder.base
    base.freeze(cached)
    data = TrainingData(pairs_from_collection(collection), dev=collection)
    selection = make_selection(
        data, base, EmbeddingCache(base, tmp_path) if cached else None, Objective(), 8, torch.device("cpu")
    )
    texts = [list(collection.queries.values()), [document.content for document in collection.documents.values()]]
    queries, documents = (encoder.encode(some) for some in texts)
    score, row = selection.evaluate(encoder, 1)
    assert score == pytest.approx(ndcg_by_hand(collection, queries, documents), abs=1e-6)
    assert row == {"dev": {"NDCG@10": score}}
    untouched = [base.untouched_array(base.encode(some, "document")) for some in texts]
    assert selection.base_score == pytest.approx(ndcg_by_hand(collection, *untouched), abs=1e-6)
    assert selection.base_score > 0.1


def test_objective_selection_averages_over_pairs_without_dropout(
    encoder: IsotropicGaussianEncoder, collection: Collection
) -> None:
    pairs = pairs_from_collection(collection)
    source = LivePairs(pairs, encoder.base, torch.device("cpu"))
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


@pytest.mark.parametrize(
    ("score", "best", "expected"),
    [
        (None, None, True),
        (0.1, None, True),
        (0.2, 0.1, True),
        (0.1, 0.1, False),
        (0.05, 0.1, False),
        (-1.0, -2.0, True),
        (float("nan"), 0.1, False),
        (float("inf"), 0.1, False),
    ],
)
def test_better(score: float | None, best: float | None, expected: bool) -> None:
    assert is_better(score, best) is expected


# Never worse: on held-out queries whose best map is known

DIM, DOCUMENTS, QUERIES = 16, 200, 40
Matrix = NDArray[np.float64]


class Problem:
    """Queries are noisy copies of their documents that were turned by `turn`; its transpose is the best query head."""

    def __init__(self, turned: bool, queries: int = QUERIES) -> None:
        drawn = np.random.default_rng(0)
        documents = drawn.normal(size=(DOCUMENTS, DIM))
        self.turn: Matrix = np.linalg.qr(drawn.normal(size=(DIM, DIM)))[0] if turned else np.eye(DIM)
        vectors = (documents[:queries] + 0.7 * drawn.normal(size=(queries, DIM))) @ self.turn.T
        names, asked = [f"d{i}" for i in range(DOCUMENTS)], [f"q{i}" for i in range(queries)]
        self.cache = VectorStore([(names, documents)], [(asked, vectors)])
        qrels = {query: {f"d{i}": 1} for i, query in enumerate(asked)}
        corpus = {name: Document("", name) for name in names}
        self.collection = Collection("held out", corpus, {query: query for query in asked}, qrels, "dev")
        self.queries = vectors.astype(np.float32)

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

    def ndcg(self, encoder: AsymmetricProjectionModel) -> dict[str, float]:
        """NDCG@10 of each query by its definition: one relevant document, distances in float64."""
        documents = encoder.embed(self.cache.encode([f"d{i}" for i in range(DOCUMENTS)], "document"), "document")
        queries = encoder.embed(self.queries, "query").astype(np.float64)
        distances = np.linalg.norm(queries[:, None] - documents[None].astype(np.float64), axis=2)
        ranks = [int((row < row[place]).sum()) for place, row in enumerate(distances)]
        return {f"q{i}": 1 / np.log2(rank + 2) if rank < 10 else 0.0 for i, rank in enumerate(ranks)}


FINAL: dict[str, tuple[bool, int, str, str, str]] = {
    "a better trained encoder stays": (True, QUERIES, "best", "base", "trained"),
    "a destroyed one gives way to its start": (True, QUERIES, "destroyed", "best", "start"),
    "where the start is destroyed too the base is kept": (False, QUERIES, "destroyed", "random", "base"),
    "the base has to beat the start that replaced the trained one": (False, QUERIES, "destroyed", "doubled", "start"),
    "of equals the trained one stays": (False, QUERIES, "base", "doubled", "trained"),
    "of 3 queries no permutation of signs gives p < .05": (True, 3, "destroyed", "best", "trained"),
}


@pytest.mark.parametrize("name", FINAL)
def test_the_final_model_is_selected_by_paired_tests_of_ndcg(name: str) -> None:
    turned, queries, trained, start, kept = FINAL[name]
    problem = Problem(turned, queries)
    encoders = {"trained": problem.made(trained), "start": problem.made(start), "base": problem.made("base")}
    final, found = select_final_model(encoders["trained"], encoders["start"], problem.collection, problem.cache, 4)
    assert (found.kept, found.queries, found.source) == (kept, queries, "held out")
    ndcg = {one: problem.ndcg(encoder) for one, encoder in encoders.items()}
    assert found.scores == pytest.approx({one: np.mean([*values.values()]) for one, values in ndcg.items()})
    assert (found.scores[kept] == max(found.scores.values())) == (queries == QUERIES)
    p = paired_tests(ndcg["trained"], ndcg["start"], seed=4).p_randomisation
    before = "start" if found.scores["start"] > found.scores["trained"] and p < 0.05 else "trained"
    compared = {"trained against start": ("trained", "start"), f"{before} against base": (before, "base")}
    expected = {pair: paired_tests(ndcg[a], ndcg[b], seed=4).p_randomisation for pair, (a, b) in compared.items()}
    assert found.p_values == pytest.approx(expected)
    if kept != "base":
        assert final is encoders[kept]
    else:
        untouched = problem.cache.base(torch.from_numpy(problem.queries)).numpy()
        np.testing.assert_array_equal(final.embed(problem.queries, "query"), untouched)


def test_an_encoder_of_another_dimension_is_compared_with_its_start_alone() -> None:
    problem = Problem(turned=False)
    half = np.random.default_rng(3).normal(size=(4, DIM))
    trained, start = (problem.encoder(half * sign, half, output_dim=4) for sign in (-1, 1))
    kept, comparison = select_final_model(trained, start, problem.collection, problem.cache, 0)
    assert comparison.scores.keys() == {"trained", "start"}
    assert kept is start


def test_with_weights_is_another_encoder_on_the_same_base() -> None:
    problem = Problem(turned=True)
    best, other = problem.made("best"), problem.made("destroyed")
    before = best.embed(problem.queries, "query")
    made = with_weights(other, best.state_dict())
    np.testing.assert_array_equal(made.embed(problem.queries, "query"), before)
    assert made.base is other.base
    with torch.no_grad():
        made.head.layers[0].weight.zero_()
    np.testing.assert_array_equal(best.embed(problem.queries, "query"), before)
    assert np.abs(other.embed(problem.queries, "query") - before).max() > 0.1


def test_what_was_kept_stands_in_summary_card_and_manifest(collection_folder, tiny_bert, tmp_path):
    import ragcun
    from ragcun.cli.train import run

    settings = {"train_data": str(collection_folder), "base_model": tiny_bert, "dev_beir": str(collection_folder)}
    config = ragcun.TrainConfig(**settings, never_worse=True, steps=4, output_dir=str(tmp_path / "run"))
    assert "never worse: " in run(config)
    assert "never worse: " in (tmp_path / "run" / "best_model" / "README.md").read_text()
    assert '"kept"' in (tmp_path / "run" / "manifest.json").read_text()
