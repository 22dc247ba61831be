"""Trackers show what metrics.jsonl holds, under the same names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ragcun.errors import InputError
from ragcun.io import read_json_lines
from ragcun.training.run_dir import named, require_tracker
from tests.training.runs import Train, interrupted

pytest.importorskip("tensorboard", reason="tensorboard is not installed")


@pytest.fixture
def settings(settings: dict[str, Any], collection_folder: Path) -> dict[str, Any]:
    shown = {"dev_beir": str(collection_folder), "lambda_isotropy": 0.5, "tracker": "tensorboard"}
    return settings | shown | {"log_interval": 2, "state_interval": 2}


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def expected(metrics: Path) -> dict[str, list[tuple[int, float]]]:
    """What is in metrics.jsonl, by name."""
    found: dict[str, list[tuple[int, float]]] = {}
    for _, row in read_json_lines(metrics):
        for name, value in named(row).items():
            if not isinstance(value, str):
                found.setdefault(name, []).append((row.get("step", 0), value))
    return found


def assert_same(run: Path) -> None:
    shown, there = scalars(run / "tensorboard"), expected(run / "metrics.jsonl")
    assert shown.keys() == there.keys()
    for name, values in there.items():
        assert [step for step, _ in shown[name]] == [step for step, _ in values], name
        assert [value for _, value in shown[name]] == pytest.approx([value for _, value in values], rel=1e-6), name


def test_tensorboard_holds_every_number_of_the_metrics(train: Train, tmp_path: Path) -> None:
    train()
    assert_same(tmp_path / "run")
    names = scalars(tmp_path / "run" / "tensorboard").keys()
    assert {"step/total", "step/terms/contrastive", "base/dev/NDCG@10", "epoch/dev/NDCG@10"} <= names
    assert {"probe/figures/rank_query", "step/learning_rate/head"} <= names
    train(overwrite=True, epochs=1)
    assert_same(tmp_path / "run")


def test_a_resumed_run_has_no_row_twice(train: Train, tmp_path: Path) -> None:
    with interrupted(7):
        train()
    train(resume=True)
    assert_same(tmp_path / "run")


def test_nothing_is_tracked_unless_asked_for(train: Train, tmp_path: Path) -> None:
    train(tracker="none", epochs=1)
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_a_tracker_that_is_not_installed_is_named() -> None:
    with pytest.raises(InputError, match="pip install no_such_tracker"):
        require_tracker("no_such_tracker")
