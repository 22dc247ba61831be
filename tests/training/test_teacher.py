"""Teachers (docs/training.md): the scores of a model, a TREC run and a pairs file, training by them, and refusals."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ragcun import EmbeddingCache, InputError, TextBase, TrainConfig, fit, fit_head, load_collection
from ragcun.data.pairs import PairDataset, Scores, read_pairs
from ragcun.io import write_json_lines
from ragcun.losses.contrastive import similarity_logits
from ragcun.retrieval.runs import write_run
from ragcun.training.batches import mine, teacher_of_scores
from ragcun.training.setup import build_data
from tests.conftest import save_tiny_bert
from tests.training.runs import rows_of

CPU = torch.device("cpu")
MODEL, RUN, PAIRS = "model", "run.trec", "pairs.jsonl"
KL: dict[str, Any] = {"contrastive": "kl"}


@pytest.fixture(scope="module")
def teacher_bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model of two layers, unlike the tiny one of three."""
    return save_tiny_bert(tmp_path_factory.mktemp("teacher") / "model", layers=2)


@pytest.fixture
def scores(collection_folder: Path, teacher_bert: str) -> dict[str, dict[str, float]]:
    """The teacher's cosines of all queries and documents of the collection, by their ids."""
    collection, base = load_collection(collection_folder, "train"), TextBase.load(teacher_bert, device="cpu")
    contents = [document.content for document in collection.documents.values()]
    sides = base.encode([*collection.queries.values()], "query"), base.encode(contents, "document")
    table = similarity_logits(*map(torch.from_numpy, sides), "cosine").tolist()
    return {
        q: dict(zip(collection.documents, row, strict=True)) for q, row in zip(collection.queries, table, strict=True)
    }


@pytest.fixture
def taught(
    scores: dict[str, dict[str, float]], collection_folder: Path, teacher_bert: str, tmp_path: Path
) -> dict[str, dict[str, Any]]:
    """Settings of a run by each source; a pairs file has 5 negatives of each query."""
    collection = load_collection(collection_folder, "train")
    text = {key: document.content for key, document in collection.documents.items()}
    write_run(tmp_path / RUN, scores, "teacher")
    records = []
    for query, judged in collection.qrels.items():
        (positive,), negatives = judged, [key for key in list(text)[::24] if key not in judged]
        given = [scores[query][key] for key in (positive, *negatives)]
        texts = {"positive": text[positive], "negative": [text[key] for key in negatives]}
        records.append({"query": collection.queries[query], **texts, "scores": given})
    write_json_lines(tmp_path / PAIRS, records)
    common = {"temperature": 0.05, "lexical_dim": 0, "epochs": 8, "head_init": "identity"}
    common |= {"projection_learning_rate": 0.01}
    own = {MODEL: {"teacher": teacher_bert}, RUN: {"teacher": str(tmp_path / RUN)}}
    return {name: common | own.get(name, {"train_data": str(tmp_path / PAIRS)}) for name in (MODEL, RUN, PAIRS)}


@pytest.mark.parametrize(
    ("source", "contrastive", "frozen"), [(MODEL, "kl", True), (RUN, "margin_mse", False), (PAIRS, "kl", True)]
)
def test_a_student_comes_to_score_as_its_teacher(train, tmp_path, taught, source, contrastive, frozen):
    changes = {"contrastive": contrastive, "freeze_base": frozen, "average_decay": 0.0}
    train(**taught[source] | changes | {"base_learning_rate": 1e-3})
    losses = [row["terms"]["contrastive"] for row in rows_of(tmp_path / "run", "step")]
    assert np.mean(losses[-4:]) < 0.85 * np.mean(losses[:4])


def test_a_run_of_a_models_scores_teaches_as_the_model(train, tmp_path, taught):
    for name in (MODEL, RUN):
        train(f"by {name}", **taught[name] | {"contrastive": "margin_mse", "epochs": 2, "mined_negatives": 0})
    losses = [[row["total"] for row in rows_of(tmp_path / f"by {name}", "step")] for name in (MODEL, RUN)]
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_fit_head_learns_from_vectors_as_fit_from_the_model(taught, settings, tmp_path, teacher_bert, tiny_bert):
    config = TrainConfig(**settings | taught[MODEL] | KL | {"mined_negatives": 0, "output_dir": str(tmp_path / "run")})
    fit(config)
    data = build_data(config).train
    sides: list[tuple[Any, Any]] = []
    for model in (tiny_bert, teacher_bert):
        cache = EmbeddingCache(TextBase.load(model, device="cpu"))
        sides.append((cache.encode(data.queries, "query"), cache.encode(data.documents, "document")))
    pairs = list(zip(data.query_ids.tolist(), data.positive_ids.tolist(), strict=True))
    own = KL | {"device": "cpu", "mined_negatives": 0, "batch_size": 8, "log_interval": 1}
    common = {name: value for name, value in taught[MODEL].items() if name not in ("teacher", "lexical_dim")}
    head = fit_head(*sides[0], pairs, teacher_vectors=sides[1], **common | own)
    losses = [
        [row["total"] for row in log if row["kind"] == "step"] for log in (rows_of(tmp_path / "run"), head.history)
    ]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    with pytest.raises(ValueError, match="both or neither"):
        fit_head(*sides[0], pairs, **common | own)
    with pytest.raises(ValueError, match=r"teacher_vectors .*\(29, 16\), \(120, 16\)"):
        fit_head(*sides[0], pairs, teacher_vectors=(sides[1][0][:-1], sides[1][1]), **common | own)


# Scores that are given


def random_scores(share: float = 0.5) -> tuple[PairDataset, Scores]:
    """Return 9 pairs with 20 further documents, and scores of a share of all queries and documents, and of others."""
    random = np.random.default_rng(0)
    data = PairDataset.from_rows([(f"q{i}", f"d{i}", None) for i in range(9)], "made", (f"d{i}" for i in range(29)))
    asked, shown = [*data.queries, "unknown"], [*data.documents, "hidden"]
    table = {q: {d: float(random.normal()) for d in shown if random.random() < share} for q in asked}
    return data, table | {"q3": {}}


@pytest.mark.parametrize("share", [0.2, 1.0])
def test_scores_are_looked_up_and_what_is_missing_is_nan(share):
    data, scores = random_scores(share)
    teacher = teacher_of_scores(scores, data, "t", CPU)
    queries, documents = np.array([8, 0, 3, 3]), np.array([28, -1, 0, 5, 5, 8])
    expected = [
        [scores[data.queries[q]].get(data.documents[d], math.nan) if d >= 0 else math.nan for d in documents]
        for q in queries
    ]
    found = teacher(queries, documents)
    torch.testing.assert_close(found, torch.tensor(expected), equal_nan=True)


def test_negatives_are_the_best_of_the_teachers_that_are_no_positives():
    data, scores = random_scores()
    teacher = teacher_of_scores(scores, data, "t", CPU)
    empty = np.zeros((9, 1), np.float32), np.zeros((29, 1), np.float32)
    for row, query in zip(mine(*empty, data, 2, 8, teacher), data.queries, strict=True):
        others = {d: s for d, s in scores[query].items() if d in data.documents and d != f"d{query[1:]}"}
        best = sorted(others, key=lambda each: -others[each])[2:8]
        assert [data.documents[each] for each in row if each >= 0] == best


def test_a_pairs_file_gives_scores_in_the_order_of_its_texts(tmp_path):
    records = [
        {"query": "q", "positives": ["a", "b"], "negative": "c", "scores": [3, 2.5, -1.0]},
        {"query": "r", "positive": "a", "negative_1": "c", "negative_2": "b", "scores": [1e3, 0, 7]},
        {"query": "r", "positive": "a"},
    ]
    write_json_lines(tmp_path / PAIRS, records)
    scores: Scores = {}
    read_pairs(tmp_path / PAIRS, scores)
    assert scores == {"q": {"a": 3, "b": 2.5, "c": -1.0}, "r": {"a": 1e3, "c": 0, "b": 7}}


@pytest.mark.parametrize(
    ("scores", "changes", "message"),
    [
        ("[1.0]", KL, r"pairs.jsonl, line 2: .*1 of positives, then 1 of negatives, got \[1.0\]"),
        ("[1.0, NaN]", KL, "pairs.jsonl, line 2: .*finite"),
        (f"[1{'0' * 400}, 1]", KL, "pairs.jsonl, line 2: .*finite"),
        ("[1.0, 1e39]", {}, "pairs.jsonl, line 2: .*finite"),
        ("null", KL, "pairs.jsonl has none.*--teacher"),
        ("[1.0, null]", KL, "pairs.jsonl, line 2: .*finite"),
        ('[1.0, "2"]', KL, "pairs.jsonl, line 2: .*finite"),
        ("[1.0, 2.0]", {}, "pairs.jsonl, line 2: .*--contrastive kl"),
        ("[1.0, 2.0]", KL | {"teacher": "minilm"}, "pairs.jsonl, line 2: .*no --teacher"),
        ("0.7", KL, "pairs.jsonl, line 2: .*teacher's scores are a list"),
        ("[]", KL, "pairs.jsonl has none.*--teacher"),
        ("[]", {"teacher": "minilm"}, "--teacher .*--contrastive kl"),
        ("[]", KL | {"teacher": "/no/such/model"}, "/no/such/model"),
        ("[]", KL | {"teacher": PAIRS}, "--teacher pairs.jsonl .*BEIR folder"),
        ("[]", KL | {"teacher": "minilm", "val_data": PAIRS}, "--val_data .*--dev_beir"),
        ("[]", KL | {"teacher": "minilm", "teacher_temperature": 0.0}, "teacher_temperature"),
    ],
)
def test_wrong_scores_are_refused(train, tmp_path, monkeypatch, scores, changes, message):
    monkeypatch.chdir(tmp_path)
    row = '{"query": "q%d", "positive": "p%d", "negative": "n", "scores": %s}\n'
    Path(PAIRS).write_text(row % (0, 0, "[]") + row % (1, 1, scores) + row % (2, 2, "[]"))
    with pytest.raises(InputError, match=message) as caught:
        train(train_data=PAIRS, **changes)
    assert "\n" not in str(caught.value)
    assert not Path("run").exists()


def test_a_fold_without_scores_is_refused_before_anything_is_trained(train, tmp_path, scores):
    query = next(iter(scores))
    write_run(tmp_path / RUN, {query: scores[query]}, "teacher")
    with pytest.raises(InputError, match=r"run.trec has none of a positive"):
        train(**KL, teacher=str(tmp_path / RUN), never_worse=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q0 Q0 d0 1 nan t", "run.trec, line 1: .*finite"),
        ("q0 Q0 d0 1 1e39 t", "run.trec: .*1e[+]39"),
        ("q0 Q0 d999 1 1.0 t", "run.trec: .*'d999'"),
        ("q999 Q0 d0 1 1.0 t", "run.trec: .*any of the queries"),
        ("q0 Q0 d5 1 1.0 t\nq0 Q0 d6 1 1.0 t", "run.trec has none of a positive"),
        ("q0 Q0 d0 1 1.0 t", "run.trec has none of a positive and another document"),
    ],
)
def test_wrong_runs_are_refused(train, tmp_path, line, message):
    (tmp_path / RUN).write_text(f"{line}\n")
    with pytest.raises(InputError, match=message):
        train(contrastive="kl", teacher=str(tmp_path / RUN))
    assert not (tmp_path / "run").exists()
