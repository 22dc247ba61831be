"""MiniLM: collapses of the founding notes on the documentation of Python packages, and adaptation to real corpora."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ragcun import TrainConfig, fit, load_collection
from ragcun.data.pairs import write_pairs
from ragcun.data.python_docs import extract, python_doc_roots
from ragcun.options import read_config
from ragcun.retrieval.benchmark import run_benchmark
from ragcun.retrieval.systems import EncodingOptions, open_system
from tests.training.runs import PLAIN, rows_of

pytestmark = pytest.mark.slow
PACKAGES = ["argparse", "asyncio", "logging", "email"]
WORDS = 24
FROM_THE_BASE = PLAIN | {"epochs": 5, "lexical_dim": None}
Rows = list[dict[str, Any]]
Run = Callable[..., tuple[Rows, Rows]]
needs_a_cache = pytest.mark.skipif(
    not os.environ.get("RAGCUN_TEST_CACHE"),
    reason="encodes whole corpora (minutes): set RAGCUN_TEST_CACHE to a folder that keeps their vectors",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Summary → rest of docstrings, and the cache of their vectors."""
    folder = tmp_path_factory.mktemp("docs")
    entries = extract(python_doc_roots(), PACKAGES)
    write_pairs(folder / "pairs.jsonl", [(e.summary, " ".join(e.rest.split()[:WORDS]), None) for e in entries])
    return {"train_data": str(folder / "pairs.jsonl"), "cache_dir": str(folder / "cache"), "base_model": "minilm"}


@pytest.fixture
def run(data: dict[str, str], tmp_path: Path) -> Run:
    """Train as the notes' configuration of a name says, with changes; return the probes and the collapses."""

    def train(notes: str | None = None, **changes: Any) -> tuple[Rows, Rows]:
        read = read_config(notes) if notes else {}
        fit(TrainConfig(**{**read, **changes, **data, "output_dir": str(tmp_path / "run"), "overwrite": True}))
        return rows_of(tmp_path / "run", "probe"), rows_of(tmp_path / "run", "collapse")

    return train


@pytest.mark.parametrize(
    "settings",
    [
        {},
        FROM_THE_BASE | {"head": "linear", "isotropy": "sigreg", "lambda_isotropy": 0.1},
        FROM_THE_BASE | {"system": "jepa", "lambda_predictive": 1.0},
        FROM_THE_BASE | {"system": "respred", "lambda_predictive": 1.0, "head": "linear"},
    ],
    ids=["defaults", "sigreg", "jepa", "respred"],
)
def test_healthy_runs_are_silent(run, settings):
    probes, collapses = run(**settings)
    assert collapses == []
    assert len(probes) > 5


def test_the_residual_penalty_makes_the_prediction_the_identity(run):
    """λ_residual·mean‖delta‖² drives it there, as the notes found; without the penalty it does not go there."""
    probes, collapses = run("respred", epochs=10)
    assert probes[-1]["model"]["delta_mean"] < 0.1 * probes[0]["model"]["delta_mean"]
    (named,) = [row for row in collapses if row["collapse"] == "identity"]
    assert named["step"] < probes[-1]["step"]
    assert "--lambda_residual 0" in named["message"]
    _, collapses = run("respred", epochs=10, lambda_residual=0.0)
    assert "identity" not in [row["collapse"] for row in collapses]


def test_random_heads_under_a_contrastive_loss_alone_lose_dimensions_but_are_not_one_point(run):
    probes, (named,) = run("asymmetric")
    assert named["collapse"] == "dimensional"
    assert named["step"] < probes[-1]["step"]
    first, last = probes[0]["figures"], probes[-1]["figures"]
    for side in ("query", "document"):
        assert last[f"rank_{side}"] < 0.25 * first[f"rank_{side}"]
        assert last[f"mean_cosine_{side}"] < first[f"mean_cosine_{side}"]


# Adaptation, measured through the exported checkpoint, beside the untouched base


def measured(config: TrainConfig, collection: Path, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train, and return the figures of the checkpoint that was written and of its base on the test queries."""
    checkpoint = fit(config).checkpoint
    model = open_system(str(checkpoint), EncodingOptions())
    test = load_collection(collection, "test")
    run_benchmark(model, model.companions, [test], folder / "results.json", {}, seed=0)
    results = json.loads((folder / "results.json").read_text())
    return results["datasets"][test.name], results["untouched_base"]["datasets"][test.name]


@needs_a_cache
@pytest.mark.parametrize(("lexical_dim", "whole", "unseen"), [(0, 0.78, 0.66), (None, 0.86, 0.71)])
def test_scifact_s_labels_lift_it_on_documents_seen_and_unseen(shared_data, tmp_path, lexical_dim, whole, unseen):
    """809 training and 300 test queries, with the lexical channel of the defaults and without (base .645, .676)."""
    data = str(shared_data / "scifact")
    config = TrainConfig(train_data=data, lexical_dim=lexical_dim, output_dir=str(tmp_path / "run"))
    found, base = measured(config, shared_data / "scifact", tmp_path)
    assert base["NDCG@10"] == pytest.approx(0.6451, abs=0.002)
    assert found["NDCG@10"] >= whole
    assert base["p_randomisation"] < 0.001
    assert found["unseen"]["NDCG@10"] >= unseen


@needs_a_cache
@pytest.mark.parametrize(
    ("name", "lexical_dim", "least"), [("scifact", None, 0.69), ("cranfield", None, 0.42), ("cranfield", 0, 0.0)]
)
def test_documents_alone_adapt_and_are_never_below_the_base(shared_data, tmp_path, name, lexical_dim, least):
    """With the lexical channel and without; base .645 and .395."""
    config = TrainConfig(corpus=str(shared_data / name), lexical_dim=lexical_dim, output_dir=str(tmp_path / "run"))
    found, base = measured(config, shared_data / name, tmp_path)
    assert found["NDCG@10"] >= max(least, base["NDCG@10"])
