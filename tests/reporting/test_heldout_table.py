"""The table of results among the documents that were hidden from training."""

from __future__ import annotations

from typing import Any

import pytest

from ragcun.errors import InputError
from ragcun.reporting.heldout_table import held_out_table


def block(value: float, **more: Any) -> dict[str, Any]:
    return {"n_documents": 1800, "n_queries": 310, "NDCG@10": value, **more}


def system(name: str, scifact: dict[str, Any] | None, nfcorpus: dict[str, Any] | None) -> dict[str, Any]:
    blocks = {"scifact": scifact, "nfcorpus": nfcorpus}
    datasets = {key: {"NDCG@10": 0.9} | ({} if value is None else {"held_out": value}) for key, value in blocks.items()}
    return {"model": name, "datasets": datasets, "average": {"NDCG@10": 0.9}}


@pytest.fixture
def results() -> dict[str, Any]:
    return {
        **system("checkpoints/run", block(0.7), block(0.33339, n_documents=2, n_queries=1)),
        "untouched_base": system("minilm", block(0.66, p_randomisation=0.03125), block(0.33341, n_queries=1)),
        "baselines": {"bm25": system("bm25", block(0.71), block(0.1)), "stored": system("stored", None, None)},
    }


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]


def test_each_row_holds_the_held_out_figures_of_a_dataset(results: dict[str, Any]) -> None:
    header, _, scifact, nfcorpus = cells(held_out_table(results))
    assert header == [
        "hidden documents", "documents", "queries", "minilm (untouched)", "bm25", "stored", "checkpoints/run",
        "Δ vs base (p)",
    ]  # fmt: skip
    assert scifact == ["scifact", "1,800", "310", "0.6600", "**0.7100**", "–", "0.7000", "+0.0400 (0.0312)"]
    assert nfcorpus == ["nfcorpus", "2", "1", "**0.3334**", "0.1000", "–", "**0.3334**", "-0.0000"]


def test_without_a_base_there_is_no_difference(results: dict[str, Any]) -> None:
    header, _, scifact, _ = cells(held_out_table(results | {"untouched_base": None}))
    assert header[-1] == "checkpoints/run"
    assert scifact == ["scifact", "1,800", "310", "**0.7100**", "–", "0.7000"]


@pytest.mark.parametrize("empty", [None, {"n_queries": 0}])
def test_a_dataset_without_held_out_figures_has_no_row(results: dict[str, Any], empty: dict[str, Any] | None) -> None:
    without = {
        **system("checkpoints/run", empty, block(0.5)),
        "untouched_base": system("minilm", empty, block(0.4, p_randomisation=1e-5)),
    }
    assert [row[0] for row in cells(held_out_table(without))[2:]] == ["nfcorpus"]
    assert held_out_table(results | system("checkpoints/run", empty, empty)) == ""


@pytest.mark.parametrize("key", ["NDCG@10", "n_documents"])
def test_missing_parts_are_named(results: dict[str, Any], key: str) -> None:
    del results["datasets"]["scifact"]["held_out"][key]
    with pytest.raises(InputError, match=f"lack '{key}'"):
        held_out_table(results)
