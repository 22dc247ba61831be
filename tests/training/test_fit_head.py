from pathlib import Path

import numpy as np
import pytest
import torch

from ragcun import EmbeddingCache, TextBase, TrainConfig, fit, fit_head, load_collection, load_head
from tests.training.runs import rows_of

DIM = 16
QUICK = {"device": "cpu", "steps": 12, "batch_size": 16}


@pytest.fixture(scope="module")
def problem():
    """Vectors of 60 queries near one of 90 documents each, in a space with one direction too many."""
    random = np.random.default_rng(0)
    documents = random.normal(size=(90, DIM)).astype(np.float32)
    queries = documents[:60] + 0.8 * random.normal(size=(60, DIM)).astype(np.float32)
    queries[:, 0] += 3
    return queries, documents, [(i, i) for i in range(60)]


def texts_and_vectors(folder, model):
    """Return what `fit` trains on, as vectors: queries and documents by id, and pairs of indices."""
    collection = load_collection(folder, "train")
    cache = EmbeddingCache(TextBase.load(model))
    queries, documents = list(collection.queries), list(collection.documents)
    pairs = [(queries.index(q), documents.index(d)) for q, judged in collection.qrels.items() for d in judged]
    query_vectors = cache.encode(list(collection.queries.values()), "query")
    return query_vectors, cache.encode([d.content for d in collection.documents.values()], "document"), pairs


@pytest.mark.parametrize(
    "settings",
    [
        {"head_init": "identity", "mined_negatives": 0},
        {"lambda_isotropy": 0.1, "isotropy": "sigreg", "head_init": "identity"},
        {"head_init": "random", "head": "residual", "trained_share": 1.0, "seed": 7},
        {"system": "jepa", "lambda_predictive": 1.0, "head_init": "identity"},
        {"output_dim": 8, "head_init": "identity"},
    ],
)
def test_it_trains_as_fit_trains_on_the_texts(collection_folder, tiny_bert, tmp_path, settings):
    common = QUICK | settings
    where = {"train_data": str(collection_folder), "base_model": tiny_bert, "output_dir": str(tmp_path / "run")}
    trained = load_head(fit(TrainConfig(lexical_dim=0, **where, **common)).checkpoint, "cpu").encoder.own_state()
    head = fit_head(*texts_and_vectors(collection_folder, tiny_bert), **common)
    torch.testing.assert_close(dict(head.encoder.own_state()), dict(trained), rtol=1e-5, atol=1e-6)
    logs = rows_of(tmp_path / "run"), head.history
    losses = [[row["total"] for row in log if row["kind"] == "step"] for log in logs]
    assert losses[0]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"output_dim": 14}, {"output_dim": 20, "head_init": "identity"}])
def test_queries_find_their_documents(problem, settings):
    queries, documents, pairs = problem
    head = fit_head(*problem, **QUICK | {"steps": 60, "trained_share": 1.0} | settings)
    found = head.encoder.similarity(head.embed_queries(queries), head.embed_documents(documents)).argmax(1)
    before = torch.cdist(torch.from_numpy(queries), torch.from_numpy(documents)).argmin(1)
    right = torch.arange(len(pairs))
    assert (found == right).sum() > (before == right).sum()


def test_inputs_and_settings_of_other_types_mean_the_same_and_are_saved(problem, tmp_path):
    queries, documents, pairs = problem
    plain = QUICK | {"output_dir": "x", "nested_dims": (4,), "average_decay": 0.5, "symmetric": True}
    odd = {"output_dir": Path("x"), "batch_size": np.int64(16), "nested_dims": np.array([4]), "symmetric": np.True_}
    odd |= {"average_decay": np.float32(0.5)}
    head, config = fit_head(*problem, **plain), TrainConfig("elsewhere.jsonl", **plain | {"steps": 99})
    for name, value in odd.items():
        setattr(config, name, value)
    given = torch.from_numpy(queries), torch.from_numpy(documents).double(), np.array(pairs)
    for other in (fit_head(*given, **plain | odd), fit_head(*problem, config=config, steps=12)):
        other.save(tmp_path / "head")
        for each in (other, load_head(tmp_path / "head", "cpu")):
            np.testing.assert_array_equal(each.embed_queries(given[0]), head.embed_queries(queries))
            np.testing.assert_array_equal(each.embed_documents(documents), head.embed_documents(documents))
    assert config.steps == 99


def test_dev_pairs_choose_the_epoch(problem):
    queries, documents, pairs = problem
    dev = queries[40:], [(i, 40 + i) for i in range(20)]
    settings = QUICK | {"projection_learning_rate": 0.05, "steps": 30}
    seen = []
    head = fit_head(queries[:40], documents, pairs[:40], dev_pairs=dev, callbacks=[seen.append], **settings)
    assert seen == head.history
    scores = {row["epoch"]: row["dev"]["NDCG@10"] for row in head.history if row["kind"] == "epoch"}
    assert head.result.score == max(scores.values()) == scores[head.result.best_epoch]


def test_never_worse_gives_way_to_the_start(problem):
    queries, documents, _ = problem
    dev = queries[20:], [(i, 20 + i) for i in range(40)]
    wrong = queries[:20], documents, [(i, (7 * i + 45) % 90) for i in range(20)]
    settings = QUICK | {"projection_learning_rate": 0.5, "trained_share": 1.0, "steps": 60, "average_decay": 0.0}
    start = fit_head(*wrong, **settings | {"projection_learning_rate": 0.0}).embed_queries(queries)
    assert not np.allclose(fit_head(*wrong, **settings).embed_queries(queries), start, atol=1e-3)
    found = fit_head(*wrong, dev_pairs=dev, never_worse=True, **settings).embed_queries(queries)
    untouched = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    assert any(np.allclose(found, candidate, atol=1e-6) for candidate in (start, untouched))


def test_nothing_is_written_until_it_is_saved_and_then_it_comes_back(problem, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAGCUN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    head = fit_head(*problem, dev_pairs=(problem[0][:9], problem[2][:9]), state_interval=1, **QUICK)
    assert not list(tmp_path.iterdir())
    head.save(tmp_path / "head")
    again = load_head(tmp_path / "head", "cpu")
    np.testing.assert_array_equal(again.embed_queries(problem[0]), head.embed_queries(problem[0]))
    np.testing.assert_array_equal(again.embed_documents(problem[1]), head.embed_documents(problem[1]))
    assert "load_head" in (tmp_path / "head" / "README.md").read_text()
    again.save(tmp_path / "copy")
    parts = [(tmp_path / name / "ragcun" / "parts.safetensors").read_bytes() for name in ("head", "copy")]
    assert parts[0] == parts[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pairs": []}, "pairs must be pairs of integers"),
        ({"pairs": [(0, 1), (60, 1)]}, r"60 queries and 90 documents, pair 1 is \[60, 1\]"),
        ({"pairs": [(0, -1)]}, r"pair 0 is \[0, -1\]"),
        ({"pairs": [(0, 1), (0, 1)]}, "at least 2 different pairs, got 1"),
        ({"queries": np.ones((60, 3))}, "query_vectors must have length 16, got 3"),
        ({"dev_pairs": (np.ones((2, 4)), [(0, 0)])}, "dev_pairs must have length 16"),
        ({"dev_pairs": (np.ones((2, DIM)), [(2, 0)])}, "dev_pairs must index 2 queries"),
        ({"corpus": "corpus.jsonl"}, "corpus cannot be used with vectors"),
        ({"never_worse": True}, "give dev_pairs"),
        ({"step": 3}, "unexpected keyword argument 'step'"),
        ({"steps": 0}, "steps = 0 .* must be at least 1"),
    ],
)
def test_what_is_not_possible_is_said(problem, change, message):
    given = dict(zip(("queries", "documents", "pairs"), problem, strict=True)) | change
    vectors = [given.pop(name) for name in ("queries", "documents", "pairs")]
    with pytest.raises(TypeError if "step" in change else ValueError, match=message):
        fit_head(*vectors, **QUICK | given)
