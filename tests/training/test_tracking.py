"""Trackers show what metrics.jsonl holds, under the same names."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from ragcun.config import TrainConfig
from ragcun.errors import InputError
from ragcun.io import read_json_lines, write_json_lines
from ragcun.training.loop import fit
from ragcun.training.run_dir import named, require_tracker

pytest.importorskip("tensorboard", reason="tensorboard is not installed")


@pytest.fixture
def config(tmp_path: Path, tiny_bert: str, texts: list[str], collection_folder: Path) -> TrainConfig:
    pairs = [{"query": text.split()[0], "positive": text} for text in texts[:40]]
    write_json_lines(tmp_path / "pairs.jsonl", pairs)
    return TrainConfig(
        train_data=str(tmp_path / "pairs.jsonl"),
        dev_beir=str(collection_folder),
        base_model=tiny_bert,
        output_dir=str(tmp_path / "run"),
        batch_size=8,
        epochs=3,
        log_interval=2,
        state_interval=2,
        lambda_isotropy=0.5,
        tracker="tensorboard",
        device="cpu",
    )


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


def test_tensorboard_holds_every_number_of_the_metrics(config: TrainConfig) -> None:
    fit(config)
    run = Path(config.output_dir)
    assert_same(run)
    names = scalars(run / "tensorboard").keys()
    assert {"step/total", "step/terms/contrastive", "base/dev/NDCG@10", "epoch/dev/NDCG@10"} <= names
    assert {"probe/figures/rank_query", "step/learning_rate/head"} <= names


def test_a_resumed_run_has_no_row_twice(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    from ragcun.training.trainer import Trainer

    steps = 0

    def killed_later(self: Any, batches: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 8:
            raise KeyboardInterrupt
        return self.stepper(batches, self.progress.step)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", killed_later)
        with pytest.raises(KeyboardInterrupt):
            fit(config)
    fit(dataclasses.replace(config, resume=True))
    assert_same(Path(config.output_dir))


def test_an_earlier_run_is_replaced_with_its_events(config: TrainConfig) -> None:
    fit(config)
    fit(dataclasses.replace(config, overwrite=True, epochs=1))
    assert_same(Path(config.output_dir))


def test_nothing_is_tracked_unless_asked_for(config: TrainConfig) -> None:
    fit(dataclasses.replace(config, tracker="none"))
    assert not (Path(config.output_dir) / "tensorboard").exists()


def test_a_tracker_that_is_not_installed_is_named_before_anything_runs(config: TrainConfig) -> None:
    with pytest.raises(InputError, match="pip install no_such_tracker"):
        require_tracker("no_such_tracker")
