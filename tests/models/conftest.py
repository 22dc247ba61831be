"""What tests of models share: the tiny base, on the CPU."""

from __future__ import annotations

import pytest

from ragcun.embeddings.text_base import TextBase


@pytest.fixture
def base(tiny_bert: str) -> TextBase:
    return TextBase.load(tiny_bert, device="cpu")
