"""A message stays a sentence whatever value it shows."""

from __future__ import annotations

import pickle

import pytest

from ragcun.errors import InputError


@pytest.mark.parametrize("size", [0, 10, 1400, 1450, 1600, 100_000])
def test_place_and_remedy_stay(size: int) -> None:
    whole = f"place.jsonl, line 3: id {'x' * size!r} stands twice; keep one of them"
    message = str(InputError(whole))
    assert message.startswith("place.jsonl, line 3: id")
    assert message.endswith("keep one of them")
    assert len(message) <= 1500
    assert message == whole or len(whole) > 1500


def test_an_error_can_be_sent_to_another_process() -> None:
    error = InputError("x" * 5000)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
