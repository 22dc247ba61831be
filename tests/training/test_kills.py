"""Training that is killed, also in the middle of a save, and resumed until it is finished ends as if left alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.training.runs import run_script

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "kills.py"


@pytest.mark.slow
def test_killed_and_resumed_runs_end_as_one_that_was_left_alone() -> None:
    """The same weights, optimiser, random state, rows and checkpoint, bit for bit; and nothing on disk is half written.

    With half of the kills aimed at a save; the seed is one whose 3 kills hit at least one.
    """
    found = json.loads(run_script(BENCHMARK, "--kills", 3, "--seed", 2).splitlines()[-1])
    assert found["kills"] == 3
    assert found["identical"] == found["runs"] >= 1
    assert found["corrupt"] == found["failed"] == 0
