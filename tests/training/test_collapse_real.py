"""Collapses of the founding notes on real embeddings: MiniLM on the documentation of standard-library packages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from ragcun.config import TrainConfig
from ragcun.data.pairs import write_pairs
from ragcun.data.python_docs import extract, python_doc_roots
from ragcun.training.loop import fit

pytestmark = pytest.mark.slow
PACKAGES = ["argparse", "asyncio", "logging", "email", "http", "json", "unittest", "concurrent", "xml"]
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
WORDS = 24
WHOLE = {"mined_negatives": 0, "positives_per_query": 0, "trained_share": 1.0, "average_decay": 0.0}
IDENTITY = {"head": "residual", "head_init": "identity", "normalize_output": False}
LOSS = {"symmetric": True, "temperature": 0.05, "soft_targets": False, "lambda_isotropy": 3.0}
FROM_THE_BASE: dict[str, Any] = {**WHOLE, **IDENTITY, **LOSS, "epochs": 10}
"""Heads that start as the identity, an isotropy loss, and the weights of the last epoch."""


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Summary → rest of docstrings, and the cache of their vectors."""
    folder = tmp_path_factory.mktemp("docs")
    entries = extract(python_doc_roots(), PACKAGES)
    write_pairs(folder / "pairs.jsonl", [(e.summary, " ".join(e.rest.split()[:WORDS]), None) for e in entries])
    return str(folder / "pairs.jsonl"), str(folder / "cache")


def run(pairs: tuple[str, str], folder: Path, **settings: Any) -> list[dict[str, Any]]:
    """Train, and return the rows of the metrics."""
    data, cache = pairs
    common = {"base_model": "minilm", "train_data": data, "cache_dir": cache, "output_dir": str(folder / "run")}
    fit(TrainConfig(**{**settings, **common, "overwrite": True}))
    return [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]


def of_notes(name: str) -> dict[str, Any]:
    settings: dict[str, Any] = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))
    return settings


def collapses(rows: list[dict[str, Any]]) -> list[str]:
    return [row["collapse"] for row in rows if row["kind"] == "collapse"]


HEALTHY: dict[str, dict[str, Any]] = {
    "defaults": {},
    "sigreg": FROM_THE_BASE
    | {"system": "isotropic_gaussian", "head": "linear", "isotropy": "sigreg", "lambda_isotropy": 0.1},
    "jepa": FROM_THE_BASE | {"system": "jepa", "lambda_predictive": 1.0},
    "respred": FROM_THE_BASE | {"system": "respred", "lambda_predictive": 1.0, "head": "linear"},
}


@pytest.mark.parametrize("settings", HEALTHY.values(), ids=HEALTHY)
def test_healthy_runs_are_silent(pairs: tuple[str, str], tmp_path: Path, settings: dict[str, Any]) -> None:
    rows = run(pairs, tmp_path, **settings)
    assert collapses(rows) == []
    assert len([row for row in rows if row["kind"] == "probe"]) > 5


class TestResidualPredictor:
    """The penalty λ_residual·mean‖delta‖² drives the prediction to the identity, as the notes found."""

    settings = of_notes("respred") | {"epochs": 20}

    def test_with_the_penalty_it_becomes_the_identity_and_is_named(
        self, pairs: tuple[str, str], tmp_path: Path
    ) -> None:
        rows = run(pairs, tmp_path, **self.settings)
        probes = [row for row in rows if row["kind"] == "probe"]
        assert probes[-1]["model"]["delta_mean"] < 0.1 * probes[0]["model"]["delta_mean"]
        assert "identity" in collapses(rows)
        (named,) = [row for row in rows if row.get("collapse") == "identity"]
        assert named["step"] < probes[-1]["step"]
        assert "--lambda_residual 0" in named["message"]

    def test_without_the_penalty_it_does_not(self, pairs: tuple[str, str], tmp_path: Path) -> None:
        rows = run(pairs, tmp_path, **{**self.settings, "lambda_residual": 0.0})
        assert "identity" not in collapses(rows)


class TestAsymmetricContrastive:
    """Two random heads under a contrastive loss alone lose most dimensions; they do not become one point."""

    def test_the_collapse_is_dimensional_not_total(self, pairs: tuple[str, str], tmp_path: Path) -> None:
        rows = run(pairs, tmp_path, **of_notes("asymmetric"))
        probes = [row for row in rows if row["kind"] == "probe"]
        assert collapses(rows) == ["dimensional"]
        (named,) = [row for row in rows if row["kind"] == "collapse"]
        assert named["step"] < probes[-1]["step"]
        first, last = probes[0]["figures"], probes[-1]["figures"]
        for side in ("query", "document"):
            assert last[f"rank_{side}"] < 0.25 * first[f"rank_{side}"]
            assert last[f"mean_cosine_{side}"] < first[f"mean_cosine_{side}"]
