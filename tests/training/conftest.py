"""What tests of training share."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer

from ragcun import FitResult, TextBase, TrainConfig, fit
from tests.training.runs import Train


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Compute in one thread, which is the fastest for tiny tensors."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def base(tiny_bert: str) -> TextBase:
    """The tiny BERT, frozen, with a prompt for queries and another for documents."""
    model = SentenceTransformer(tiny_bert, device="cpu", prompts={"query": "word1 ", "document": "word2 "})
    base = TextBase(model, "tiny")
    base.freeze(True)
    return base.eval()


@pytest.fixture
def settings(collection_folder: Path, tiny_bert: str) -> dict[str, Any]:
    """30 pairs in 4 batches an epoch, 12 steps."""
    data = {"train_data": str(collection_folder), "base_model": tiny_bert, "device": "cpu"}
    return data | {"epochs": 3, "batch_size": 8, "log_interval": 1}


@pytest.fixture
def train(settings: dict[str, Any], tmp_path: Path) -> Train:
    """Train with the common settings and the given ones; `out` names the run's folder."""

    def run(out: str = "run", **changes: Any) -> FitResult:
        return fit(TrainConfig(**settings | {"output_dir": str(tmp_path / out)} | changes))

    return run
