"""SIGTERM and Ctrl-C: the step ends, a resume point is written, and the run resumes as if nothing had been."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ragcun.cli.train import run as train_command
from ragcun.config import TrainConfig
from ragcun.training.fit_head import fit_head
from ragcun.training.guards import StopRequest, TrainingStopped
from ragcun.training.selection import DevSelection
from ragcun.training.trainer import Trainer
from tests.training.runs import Train, assert_same_run, before_step, newest

HANDLED = (signal.SIGTERM, signal.SIGINT)


@pytest.fixture(autouse=True)
def _handlers_of_a_terminal() -> Iterator[None]:
    """Python's own handlers, also under nohup, which ignores Ctrl-C; each test leaves them so."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    left = {number: signal.signal(number, handler) for number, handler in before.items()}
    assert left == usual


@pytest.fixture
def settings(settings: dict[str, Any], collection_folder: Path) -> dict[str, Any]:
    """All that a resume point has to hold."""
    found = settings | {"dev_beir": str(collection_folder), "system": "jepa", "lambda_predictive": 1.0}
    return found | {"dropout": 0.3, "lambda_isotropy": 1.0}


def signalled(patch: pytest.MonkeyPatch, at: int, *numbers: signal.Signals) -> None:
    """Send this process signals while optimiser step `at` is being computed, once."""
    left = list(numbers)

    def send(trainer: Trainer) -> None:
        while trainer.progress.step == at and left:
            os.kill(os.getpid(), left.pop(0))

    before_step(patch, send)


@pytest.mark.parametrize(
    ("number", "at"),
    [(signal.SIGTERM, 1), (signal.SIGINT, 3), (signal.SIGTERM, 4), (signal.SIGINT, 8), (signal.SIGTERM, 12)],
)
def test_a_signal_ends_the_step_and_the_run_goes_on(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, at: int
) -> None:
    """Bit for bit, also after the last step of an epoch (4, 8) and of the run (12), whose look is still to come."""
    train("through")
    with monkeypatch.context() as patch:
        signalled(patch, at, number)
        with pytest.raises(TrainingStopped, match=f"by {number.name} after step {at}; --resume") as caught:
            train("parts")
    assert caught.value.code == 128 + number
    saved = json.loads((newest(tmp_path / "parts") / "state.json").read_text())
    assert saved["progress"]["step"] == at
    assert not (tmp_path / "parts" / "best_model").exists()
    train("parts", resume=True)
    assert_same_run(tmp_path / "through", tmp_path / "parts")


def test_a_signal_during_the_last_look_leaves_only_the_checkpoint_to_write(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train("through")
    real = DevSelection.__call__

    def look(self: DevSelection, encoder: Any) -> Any:
        if looks := (tmp_path / "parts" / "metrics.jsonl").read_text().count('"kind": "epoch"') == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        assert looks in (True, False)
        return real(self, encoder)

    with monkeypatch.context() as patch:
        patch.setattr(DevSelection, "__call__", look)
        with pytest.raises(TrainingStopped, match="after step 12"):
            train("parts")
    train("parts", resume=True)
    assert_same_run(tmp_path / "through", tmp_path / "parts")


def test_a_second_interrupt_ends_at_once(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signalled(monkeypatch, 3, signal.SIGINT, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt) as caught:
        train("run")
    assert not isinstance(caught.value, TrainingStopped)
    assert not (tmp_path / "run" / "state").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_command_says_one_line_and_ends_with_the_signals_code(
    settings: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: signal.Signals,
    code: int,
) -> None:
    signalled(monkeypatch, 5, number)
    with pytest.raises(SystemExit) as caught:
        train_command(TrainConfig(**settings, output_dir=str(tmp_path / "run")))
    assert caught.value.code == code
    (record,) = [each for each in caplog.records if "stopped by" in each.message]
    assert "\n" not in record.message


def test_what_is_not_written_to_disk_is_interrupted_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training on vectors in memory has no resume point to make."""
    signalled(monkeypatch, 2, signal.SIGINT)
    torch.manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(40, 8), dim=1).numpy()
    with pytest.raises(KeyboardInterrupt) as caught:
        fit_head(vectors[:20], vectors[20:], [(i, i) for i in range(20)], epochs=2, batch_size=5)
    assert not isinstance(caught.value, TrainingStopped)


def test_outside_the_main_thread_nothing_is_caught() -> None:
    before = [signal.getsignal(each) for each in HANDLED]
    inside: list[Any] = []

    def work() -> None:
        with StopRequest() as request:
            inside.extend([request.received, *(signal.getsignal(each) for each in HANDLED)])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [0, *before]


def test_ignored_signals_stay_ignored_and_handlers_come_back_after_an_error() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(ZeroDivisionError), StopRequest() as request:
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.received == signal.SIGTERM
        _ = 1 / 0
    assert signal.signal(signal.SIGINT, before) is signal.SIG_IGN


def test_an_echo_of_the_first_interrupt_is_no_second_one() -> None:
    """A launcher passes on the Ctrl-C that its processes had from the terminal."""
    with StopRequest(echo=60.0) as request:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert request.received == signal.SIGINT
    with StopRequest(echo=0.0):
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
