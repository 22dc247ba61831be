"""The learning rate's factor: closed form and bounds."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragcun.training.schedule import warmup_cosine


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.1), (4, 0.5), (9, 1.0), (10, 1.0), (35, 0.5 + math.sqrt(0.125)), (60, 0.5), (85, 0.5 - math.sqrt(0.125))],
)
def test_closed_form(step: int, expected: float) -> None:
    assert warmup_cosine(step, 110, 10) == pytest.approx(expected, abs=1e-12)


def test_no_warm_up_starts_at_one() -> None:
    assert warmup_cosine(0, 10, 0) == 1.0
    assert warmup_cosine(0, 1, 1) == 1.0


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
