"""Training that is killed, also in the middle of a save, and resumed until it is finished ends as if left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "kills.py"


@pytest.mark.slow
def test_killed_and_resumed_runs_end_as_one_that_was_left_alone() -> None:
    """The same weights, optimiser, random state, rows and checkpoint, bit for bit; and nothing on disk is half written.

    With half of the kills aimed at a save; the seed is one whose 3 kills hit at least one.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(BENCHMARK.parents[1])}
    run = [sys.executable, str(BENCHMARK), "--kills", "3", "--seed", "2"]
    done = subprocess.run(run, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["kills"] == 3
    assert found["identical"] == found["runs"] >= 1
    assert found["corrupt"] == found["failed"] == 0
