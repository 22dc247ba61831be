"""What tests of training share."""

from __future__ import annotations

import pytest
from sentence_transformers import SentenceTransformer

from ragcun.embeddings.text_base import TextBase


@pytest.fixture
def base(tiny_bert: str) -> TextBase:
    """The tiny BERT, frozen, with a prompt for queries and another for documents."""
    model = SentenceTransformer(tiny_bert, device="cpu", prompts={"query": "word1 ", "document": "word2 "})
    base = TextBase(model, "tiny")
    base.freeze(True)
    return base.eval()
