"""Adapting MiniLM to real corpora, measured through the exported checkpoint, beside the untouched base."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from ragcun.config import TrainConfig
from ragcun.data.beir import load_collection
from ragcun.retrieval.benchmark import run_benchmark
from ragcun.retrieval.systems import EncodingOptions, open_system
from ragcun.training.loop import fit

_needs_a_cache = pytest.mark.skipif(
    not os.environ.get("RAGCUN_TEST_CACHE"),
    reason="encodes whole corpora (minutes): set RAGCUN_TEST_CACHE to a folder that keeps their vectors",
)
pytestmark = [pytest.mark.slow, _needs_a_cache]


def measured(config: TrainConfig, collection: Path, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train, and return the figures of the checkpoint that was written and of its base on the test queries."""
    checkpoint = fit(config).checkpoint
    model = open_system(str(checkpoint), EncodingOptions())
    test = load_collection(collection, "test")
    run_benchmark(model, model.companions, [test], folder / "results.json", {}, seed=0)
    results = json.loads((folder / "results.json").read_text())
    return results["datasets"][test.name], results["untouched_base"]["datasets"][test.name]


def test_scifact_s_labels_lift_it_on_documents_seen_and_unseen(shared_data: Path, tmp_path: Path) -> None:
    """Defaults, 809 training and 300 test queries: NDCG@10 at least .78 (base .645), where unseen .66 (base .676)."""
    config = TrainConfig(train_data=str(shared_data / "scifact"), output_dir=str(tmp_path / "run"))
    found, base = measured(config, shared_data / "scifact", tmp_path)
    assert base["NDCG@10"] == pytest.approx(0.6451, abs=0.002)
    assert found["NDCG@10"] >= 0.78
    assert base["p_randomisation"] < 0.001
    assert found["unseen"]["NDCG@10"] >= 0.66


def test_without_labels_cranfield_is_never_below_the_base(shared_data: Path, tmp_path: Path) -> None:
    """Documents alone; 225 test queries that training did not see."""
    config = TrainConfig(corpus=str(shared_data / "cranfield"), output_dir=str(tmp_path / "run"))
    found, base = measured(config, shared_data / "cranfield", tmp_path)
    assert found["NDCG@10"] >= base["NDCG@10"]
