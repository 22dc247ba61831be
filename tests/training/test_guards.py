"""Non-finite losses and out of memory: found in the step, written down, and never saved."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ragcun import InputError, LossOutput, TrainConfig
from ragcun.data.beir import load_collection, pairs_from_collection
from ragcun.reporting.plots import loss_figure, write_png
from ragcun.training.processes import explaining_memory, flags_that_save_memory
from ragcun.training.step import Step, Stepper
from ragcun.training.trainer import Trainer
from tests.training.runs import assert_equal, newest, rows_of


@pytest.fixture
def settings(settings: dict[str, Any]) -> dict[str, Any]:
    jepa = {"system": "jepa", "lambda_predictive": 1.0, "ema_decay": 0.5}
    return settings | jepa | {"lambda_isotropy": 1.0, "collapse_checks": 0, "lexical_dim": 0}


def all_finite(path: Path) -> bool:
    return all(bool(value.isfinite().all()) for value in load_file(path).values())


def poisoned(patch: pytest.MonkeyPatch, steps: set[int], value: float = math.nan) -> None:
    """Make a weight of the head non-finite for these steps."""
    real = Stepper.__call__

    def step(self: Stepper, batches: Any, number: int) -> Step:
        if number not in steps:
            return real(self, batches, number)
        weight = next(self.model.head.parameters()).data.view(-1)
        before = weight[0].clone()
        weight[0] = value
        done = real(self, batches, number)
        assert not weight[0].isfinite()
        weight[0] = before
        return done

    patch.setattr(Stepper, "__call__", step)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_run_stops_and_leaves_the_batch_and_the_last_good_point(
    train, tmp_path, collection_folder, monkeypatch, value
):
    poisoned(monkeypatch, {6}, value)
    path = tmp_path / "run" / "non_finite.json"
    named = "contrastive nan", "isotropy nan", "at step 6", str(path), "--learning_rate", "--on_nan skip"
    with pytest.raises(InputError) as caught:
        train()
    assert [part for part in (*named, "\n") if part not in str(caught.value)] == ["\n"]
    found = json.loads(path.read_text())
    assert (found["epoch"], found["step"]) == (2, 6)
    (batch,) = found["batches"]
    assert batch["total"] == "nan"
    assert batch["terms"].keys() == {"contrastive", "isotropy", "predictive"}
    pairs = pairs_from_collection(load_collection(collection_folder, "train"))
    assert 7 <= len(batch["pairs"]) <= 8
    for pair in batch["pairs"]:
        shown = (pair["query"], pair["positive"], pair["negative"])
        assert shown == next(pairs.rows(np.array([pair["pair"]])))
    (point,) = (tmp_path / "run" / "state").iterdir()
    assert json.loads((point / "state.json").read_text())["progress"]["step"] == 4
    assert all_finite(point / "model.safetensors")
    assert not (tmp_path / "run" / "best_model").exists()


def test_steps_that_are_skipped_move_nothing_and_are_counted(train, tmp_path, monkeypatch):
    """Weights, moments, EMA target and average are those of before; the run goes on and its summary counts."""
    states: dict[int, list[torch.Tensor]] = {}
    real = Trainer._scheduled_step

    def watched(self: Trainer, batches: Any) -> Any:
        done = real(self, batches)
        now = [*self.encoder.state_dict().values(), *self.average.average.values()]
        moments = [each for values in self.stepper.optimizer.state_dict()["state"].values() for each in values.values()]
        states[self.progress.step] = [each.detach().clone() for each in (*now, *moments)]
        return done

    poisoned(monkeypatch, {5, 9, 10})
    monkeypatch.setattr(Trainer, "_scheduled_step", watched)
    result = train(on_nan="skip", dropout=0.2)
    assert (result.steps, result.skipped, result.overflows) == (12, 3, 0)
    for step in range(2, 13):
        same = all(torch.equal(one, other) for one, other in zip(states[step - 1], states[step], strict=True))
        assert same == (step in {5, 9, 10}), step
    skipped, taken = (rows_of(tmp_path / "run", kind) for kind in ("skipped", "step"))
    assert [row["step"] for row in skipped] == [5, 9, 10]
    assert {(row["cause"], row["total"]) for row in skipped} == {("not finite", "nan")}
    assert [row["step"] for row in taken] == [1, 2, 3, 4, 6, 7, 8, 11, 12]
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["result"]["skipped"] == 3
    write_png(loss_figure(tmp_path / "run" / "metrics.jsonl"), tmp_path / "curve.png")


def test_too_many_skipped_steps_end_the_run_which_resumes_with_more(train, tmp_path, monkeypatch):
    """As a run that left them out from the start; what was left out before a resume point counts after it."""
    poisoned(monkeypatch, {2, 3, 7})
    through = train("through", on_nan="skip", max_skipped=3)
    with pytest.raises(InputError, match=r"after 2 steps left out, the loss is nan .* at step 7 .*--max_skipped"):
        train(on_nan="skip", max_skipped=2)
    assert json.loads((tmp_path / "run" / "non_finite.json").read_text())["step"] == 7
    resumed = train(on_nan="skip", max_skipped=3, resume=True)
    assert through.skipped == resumed.skipped == 3
    assert_equal(*(load_file(newest(tmp_path / name) / "model.safetensors") for name in ("through", "run")))


@pytest.mark.parametrize("policy", ["stop", "skip"])
@pytest.mark.parametrize(("rate", "saved"), [(1e30, True), (1e39, False)])
def test_an_exploding_rate_ends_in_one_sentence_and_saves_no_weight_that_is_not_finite(
    train, tmp_path, policy, rate, saved
):
    """Nothing is tampered with, and each step asks to be saved.

    After one step at the first rate all losses are non-finite, not the weights; the other, too large for float32, makes
    non-finite weights by a step whose loss and gradient are finite.
    """
    with pytest.raises(InputError, match="--learning_rate"):
        train(learning_rate=rate, warmup_steps=1, on_nan=policy, max_skipped=3, state_interval=1)
    found = list((tmp_path / "run").rglob("*.safetensors"))
    assert bool(found) == saved
    assert all(map(all_finite, found))
    assert not (tmp_path / "run" / "best_model").exists()


def step_of(total: float, terms: dict[str, float], norm: float = math.nan) -> Step:
    values = {name: torch.tensor(value) for name, value in terms.items()}
    return Step([LossOutput(torch.tensor(1.0), {}), LossOutput(torch.tensor(total), values)], torch.tensor(norm))


def test_what_is_wrong_is_named():
    nan, inf = math.nan, math.inf
    assert step_of(nan, {"a": 1.0, "b": nan}).cause() == "the loss is nan by b nan"
    assert step_of(inf, {"a": -inf, "b": inf}).cause() == "the loss is inf by a -inf, b inf"
    assert step_of(inf, {"a": 3e38, "b": 3e38}).cause() == "the loss is inf"
    assert step_of(2.0, {"a": 2.0}, inf).cause() == "the gradient's norm is inf"


# Memory


def test_a_step_without_memory_names_the_batch_and_the_flags(train):
    """10¹³ directions of 16 numbers are 640 TB, which the allocator refuses."""
    named = "out of memory", "batch of 8 pairs (--batch_size 8)", "--num_slices", "--batch_size 4"
    with pytest.raises(InputError) as caught:
        train(isotropy="sigreg", num_slices=10**13)
    assert [part for part in (*named, "\n") if part not in str(caught.value)] == ["\n"]


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (RuntimeError("size mismatch"), RuntimeError, "size mismatch"),
        (torch.OutOfMemoryError("CUDA out of memory"), InputError, "out of memory at a batch of 8 pairs"),
        (MemoryError(), InputError, "out of memory at a batch of 8 pairs"),
    ],
)
def test_errors_of_memory_are_explained_and_others_pass(error, kind, message):
    with pytest.raises(kind, match=message), explaining_memory(TrainConfig(train_data="x"), 8):
        raise error


@pytest.mark.parametrize(
    ("changes", "flags"),
    [
        ({"freeze_base": False}, "--gradient_checkpointing, or --grad_cache_size 64, or --batch_size 64 with"),
        ({"freeze_base": False, "gradient_checkpointing": True, "grad_cache_size": 8}, "a smaller --grad_cache_size"),
        ({}, "a smaller --mined_negatives, or --batch_size 64 with --gradient_accumulation_steps 2"),
        (
            {"mined_negatives": 0, "gradient_accumulation_steps": 3},
            "--batch_size 64 with --gradient_accumulation_steps 6",
        ),
    ],
)
def test_the_flags_fit_the_run_and_exist(changes, flags):
    found = flags_that_save_memory(TrainConfig(train_data="x", **changes))
    assert found.startswith(flags)
    for word in found.replace(",", "").split():
        assert not word.startswith("--") or word[2:] in TrainConfig.__dataclass_fields__
