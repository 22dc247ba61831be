"""What the best epoch is chosen by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ragcun.data.beir import Collection, load_collection, pairs_from_collection
from ragcun.embeddings.cache import EmbeddingCache
from ragcun.embeddings.text_base import TextBase
from ragcun.losses.objective import Objective
from ragcun.models.systems import IsotropicGaussianEncoder
from ragcun.training.batches import LivePairs, epoch_batches
from ragcun.training.setup import TrainingData
from ragcun.training.selection import LastSelection, ObjectiveSelection, is_better, make_selection, mean_loss


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
    selection = make_selection(data, base, EmbeddingCache(base, tmp_path) if cached else None, Objective(), 8, torch.device("cpu"))
    texts = [list(collection.queries.values()), [document.content for document in collection.documents.values()]]
    queries, documents = (encoder.encode(some) for some in texts)
    verdict = selection(encoder)
    assert verdict.score == pytest.approx(ndcg_by_hand(collection, queries, documents), abs=1e-6)
    assert verdict.row == {"dev": {"NDCG@10": verdict.score}}
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
    verdict = ObjectiveSelection(source, batches, objective)(encoder)
    encoder.eval()
    with torch.no_grad():
        totals = [float(objective(encoder(source.batch(rows))).total) for rows in batches]
    assert -verdict.score == pytest.approx(np.average(totals, weights=[len(rows) for rows in batches]), rel=1e-6)
    terms = verdict.row["val_terms"]
    assert verdict.row["val_total"] == pytest.approx(terms["contrastive"] + 0.5 * terms["isotropy"], rel=1e-6)
    assert mean_loss(encoder, source, batches, objective) == (-verdict.score, terms)


def test_last_selection_has_no_score(encoder: IsotropicGaussianEncoder) -> None:
    verdict = LastSelection()(encoder)
    assert verdict.score is None
    assert verdict.row == {}


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
