"""The learning rate's factor and the EMA decay: closed forms and bounds."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragcun.training.step import EMA_SCHEDULES, ema_decay, warmup_cosine


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.1), (4, 0.5), (9, 1.0), (10, 1.0), (35, 0.5 + math.sqrt(0.125)), (60, 0.5), (85, 0.5 - math.sqrt(0.125))],
)
def test_closed_form(step: int, expected: float) -> None:
    assert warmup_cosine(step, 110, 10) == pytest.approx(expected, abs=1e-12)


@given(total=st.integers(1, 500), warmup=st.integers(0, 600))
def test_shape(total: int, warmup: int) -> None:
    factors = [warmup_cosine(step, total, warmup) for step in range(total)]
    assert all(0 < factor <= 1 for factor in factors)
    rising, falling = factors[:warmup], factors[warmup:]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)
    if 0 < warmup <= total:
        assert rising[-1] == 1
    if falling:
        assert falling[0] == 1


@pytest.mark.parametrize("total", [50, 500, 5000])
def test_ends_near_zero(total: int) -> None:
    assert warmup_cosine(total - 1, total, total // 10) < 5 / total
    assert warmup_cosine(total, total, total // 10) == pytest.approx(0, abs=1e-15)
    assert warmup_cosine(total + 99, total, total // 10) == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize(("schedule", "middle"), [("constant", 0.9), ("cosine", 0.95), ("linear", 0.95)])
def test_ema_decay_at_the_middle_and_the_end(schedule: str, middle: float) -> None:
    assert ema_decay(50, 100, 0.9, schedule) == pytest.approx(middle, abs=1e-12)
    assert ema_decay(100, 100, 0.9, schedule) == pytest.approx(0.9 if schedule == "constant" else 1.0, abs=1e-12)


@given(st.integers(1, 500), st.integers(1, 500), st.floats(0, 1), st.sampled_from(sorted(EMA_SCHEDULES)))
def test_ema_decay_stays_between_its_start_and_1_and_never_falls(
    step: int, total: int, start: float, schedule: str
) -> None:
    now, later = (ema_decay(s, total, start, schedule) for s in (step, step + 1))
    assert start - 1e-12 <= now <= later + 1e-12 <= 1 + 2e-12
