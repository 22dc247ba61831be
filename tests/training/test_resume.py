"""Resume: killed, or stopped by SIGTERM or Ctrl-C, a run ends bit for bit as if it had been left alone."""

import contextlib
import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ragcun import InputError, TrainConfig, fit_head
from ragcun.cli.train import run as train_command
from ragcun.data.pairs import write_pairs
from ragcun.training.processes import StopRequest, TrainingStopped
from ragcun.training.selection import Selection
from tests.processes import run_script
from tests.training.runs import (
    DEFAULTS,
    PLAIN,
    assert_equal,
    assert_same_run,
    before_step,
    interrupted,
    newest,
    tensors_of,
)

HANDLED = (signal.SIGTERM, signal.SIGINT)
SEVERAL = "several.jsonl"
"""Pairs of which each query has three."""
JEPA = {"system": "jepa", "lambda_predictive": 1.0, "dropout": 0.3}


@pytest.fixture(autouse=True)
def _handlers_of_a_terminal() -> Iterator[None]:
    """Python's own handlers, also under nohup, which ignores Ctrl-C; each test leaves them so."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    left = {number: signal.signal(number, handler) for number, handler in before.items()}
    assert left == usual


@pytest.fixture
def settings(settings: dict[str, Any]) -> dict[str, Any]:
    return settings | PLAIN | {"projection_learning_rate": 1e-2}


def signalled(patch: pytest.MonkeyPatch, at: int, *numbers: signal.Signals) -> None:
    """Send this process signals while optimiser step `at` is being computed, once."""
    left = list(numbers)

    def send(step: int) -> None:
        while step == at and left:
            os.kill(os.getpid(), left.pop(0))

    before_step(patch, send)


@pytest.mark.parametrize(
    ("by", "after", "changes"),
    [
        (None, 2, {"state_interval": 0}),
        (None, 7, {"state_interval": 2, "gradient_accumulation_steps": 2, "epochs": 5, "lambda_predictive": 0.5}),
        (signal.SIGTERM, 1, JEPA | {"ema_schedule": "cosine"}),
        (signal.SIGINT, 3, JEPA | {"freeze_base": False, "base_learning_rate": 1e-3, "ema_decay": 0.9}),
        (signal.SIGINT, 8, {"system": "respred", "lambda_predictive": 1.0, "lambda_residual": 0.01}),
        (signal.SIGTERM, 12, DEFAULTS | {"epochs": None, "steps": 11, "head": "residual", "dropout": 0.3}),
        (None, 7, DEFAULTS | {"state_interval": 2, "train_side": "query", "output_dim": 8, "mix_with_base": 0.3}),
        (None, 6, DEFAULTS | {"state_interval": 1, "freeze_base": False, "trained_share": 0.5, "mined_negatives": 2}),
        (None, 7, DEFAULTS | {"state_interval": 2, "lora_rank": 2, "trained_share": 0.5, "never_worse": True}),
        (None, 13, DEFAULTS | {"state_interval": 1, "train_data": SEVERAL, "batch_size": 4, "positives_per_query": 2}),
        (None, 7, DEFAULTS | {"state_interval": 2, "lexical_dim": 8, "dropout": 0.3, "head": "residual"}),
        (None, 14, DEFAULTS | {"state_interval": 1, "epochs": 4, "mine_every": 2}),
        (signal.SIGTERM, 4, DEFAULTS | {"mine_every": 1, "freeze_base": False, "mined_negatives": 2, "dropout": 0.3}),
    ],
)  # fmt: skip
def test_resume_equals_uninterrupted(train, tmp_path, collection_folder, texts, by, after, changes):
    """Also what is drawn and averaged, after the last step of an epoch (4, 8), and of the run (12), still to be judged.

    The first case has no resume point: it starts afresh.
    """
    common = {"use_predictor": True, "dev_beir": str(collection_folder), **changes}
    if common.get("train_data") == SEVERAL:
        common["train_data"] = str(tmp_path / SEVERAL)
        rows = [(texts[i], texts[50 + (3 * i + j) % 40], None) for i in range(15) for j in range(3)]
        write_pairs(tmp_path / SEVERAL, rows)
    whole = train("whole", resume=True, **common)
    if by is None:
        with interrupted(after):
            train("parts", **common)
    else:
        with pytest.MonkeyPatch.context() as patch:
            signalled(patch, after, by)
            with pytest.raises(TrainingStopped, match=f"by {by.name} after step {after}; --resume") as caught:
                train("parts", **common)
        assert caught.value.code == 128 + by
        saved = json.loads((newest(tmp_path / "parts") / "state.json").read_text())
        assert saved["progress"]["step"] == after
    assert not (tmp_path / "parts" / "best_model").exists()
    parts = train("parts", resume=True, **common)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    assert (parts.best_epoch, parts.score, parts.steps) == (whole.best_epoch, whole.score, whole.steps)


def test_a_signal_during_the_last_evaluation_leaves_only_the_checkpoint_to_write(train, tmp_path, collection_folder):
    real = Selection.evaluate

    def evaluate(self: Selection, encoder: Any, epoch: int) -> Any:
        if (tmp_path / "parts" / "metrics.jsonl").read_text().count('"kind": "epoch"') == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, encoder, epoch)

    train("through", dev_beir=str(collection_folder), **JEPA)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Selection, "evaluate", evaluate)
        with pytest.raises(TrainingStopped, match="after step 12"):
            train("parts", dev_beir=str(collection_folder), **JEPA)
    train("parts", dev_beir=str(collection_folder), **JEPA, resume=True)
    assert_same_run(tmp_path / "through", tmp_path / "parts")


def test_a_finished_run_resumes_to_itself_and_with_nothing_else(train, tmp_path, texts):
    write_pairs(tmp_path / "other.jsonl", [(texts[i], texts[i + 1], None) for i in range(30)])
    first, run = train(), tmp_path / "run"
    before, rows = tensors_of(run), (run / "metrics.jsonl").read_text()
    assert train(resume=True) == first
    for name, value in {"learning_rate": 1.0, "lambda_reg": 1.0, "train_data": str(tmp_path / "other.jsonl")}.items():
        with pytest.raises(InputError, match=rf"{name}|data ="):
            train(resume=True, **{name: value})
    assert_equal(before, tensors_of(run))
    assert (run / "metrics.jsonl").read_text() == rows


@pytest.mark.parametrize("trained", [{}, {"freeze_early_layers": 2}], ids=str)
def test_a_run_is_not_resumed_on_a_base_that_changed(train, tmp_path, tiny_bert, trained):
    base = shutil.copytree(tiny_bert, tmp_path / "base")
    train(base_model=str(base), **trained)
    weights = load_file(base / "model.safetensors")
    weights["encoder.layer.0.output.dense.weight"][0, 0] += 1
    save_file(weights, base / "other", {"format": "pt"})
    (base / "other").replace(base / "model.safetensors")  # which may be mapped into memory
    with pytest.raises(InputError, match="base = "):
        train(base_model=str(base), resume=True, **trained)


@pytest.mark.slow
def test_killed_and_resumed_runs_end_as_one_that_was_left_alone():
    """With half of the kills aimed at a save, of which the seed's 3 kills hit one; nothing on disk is half written."""
    benchmark = Path(__file__).resolve().parents[2] / "benchmarks" / "kills.py"
    found = json.loads(run_script(benchmark, "--kills", 3, "--seed", 2).splitlines()[-1])
    assert found["kills"] == 3
    assert found["identical"] == found["runs"] >= 1
    assert found["corrupt"] == found["failed"] == 0


# Signals


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_second_interrupt_and_one_of_a_run_in_memory_end_at_once(train, tmp_path, monkeypatch, in_memory):
    """Training on vectors in memory has no resume point to make."""
    signalled(monkeypatch, 3, *[signal.SIGINT] * (1 if in_memory else 2))
    vectors = torch.nn.functional.normalize(torch.randn(40, 8), dim=1).numpy()
    on_vectors = partial(fit_head, vectors[:20], vectors[20:], [(i, i) for i in range(20)], epochs=2, batch_size=5)
    with pytest.raises(KeyboardInterrupt) as caught:
        on_vectors() if in_memory else train("run")
    assert not isinstance(caught.value, TrainingStopped)
    assert not (tmp_path / "run" / "state").exists()


@pytest.mark.parametrize("number", HANDLED)
def test_the_command_says_one_line_and_ends_with_the_signals_code(settings, tmp_path, monkeypatch, caplog, number):
    signalled(monkeypatch, 5, number)
    with pytest.raises(SystemExit) as caught:
        train_command(TrainConfig(**settings, output_dir=str(tmp_path / "run")))
    assert caught.value.code == {signal.SIGTERM: 143, signal.SIGINT: 130}[number]
    (record,) = [each for each in caplog.records if "stopped by" in each.message]
    assert "\n" not in record.message


def test_outside_the_main_thread_nothing_is_caught():
    before = [signal.getsignal(each) for each in HANDLED]
    inside: list[Any] = []

    def work() -> None:
        with StopRequest() as request:
            inside.extend([request.received, *(signal.getsignal(each) for each in HANDLED)])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [0, *before]


def test_ignored_signals_stay_ignored_and_handlers_come_back_after_an_error():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(ZeroDivisionError), StopRequest() as request:
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.received == signal.SIGTERM
        _ = 1 / 0
    assert signal.signal(signal.SIGINT, before) is signal.SIG_IGN


def test_an_echo_of_the_first_interrupt_is_no_second_one():
    """A launcher passes on the Ctrl-C that its processes had from the terminal."""
    with StopRequest(echo=60.0) as request:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert request.received == signal.SIGINT
    with StopRequest(echo=0.0):
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
