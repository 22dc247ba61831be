"""The page on extending ragcun, run as it stands: an own loss and an own system by the command line."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path
from unittest import mock

import pytest
import torch

from ragcun import ObjectiveConfig, RetrievalEncoder, register_loss, register_system
from ragcun.cli.parser import parse_config
from ragcun.config import TrainConfig
from ragcun.embeddings.base import Base
from ragcun.errors import InputError
from ragcun.io import read_json_lines
from ragcun.losses import ISOTROPY
from ragcun.models.encoder import SYSTEMS
from ragcun.models.projection import ProjectionEncoder
from ragcun.options import load_plugins
from ragcun.training.loop import fit

PAGE = Path(__file__).parents[1] / "docs" / "tutorial-loss.md"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Folder with the files of the page; what they register is forgotten afterwards."""
    blocks = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE.read_text(), re.S)
    assert len(blocks) == 2
    for name, code in blocks:
        (tmp_path / name).write_text(code)
    with mock.patch.dict(ISOTROPY), mock.patch.dict(SYSTEMS):
        yield tmp_path


def train(folder: Path, collection: Path, base: str, *flags: str) -> TrainConfig:
    words = ["--train_data", str(collection), "--base_model", base, "--steps", "4", "--batch_size", "8", *flags]
    config = parse_config(TrainConfig, "Train.", [*words, "--output_dir", str(folder / "run"), "--log_interval", "1"])
    fit(config)
    return config


def test_an_own_loss_is_trained(files: Path, collection_folder: Path, tiny_bert: str) -> None:
    flags = ["--plugins", str(files / "my_loss.py"), "--isotropy", "log_determinant", "--lambda_isotropy", "0.5"]
    train(files, collection_folder, tiny_bert, *flags)
    rows = [row for _, row in read_json_lines(files / "run" / "metrics.jsonl")]
    steps = [row for row in rows if row["kind"] == "step"]
    assert all(row["terms"]["isotropy"] > 0 for row in steps)
    z = torch.randn(4000, 4, generator=torch.Generator().manual_seed(0))
    assert abs(float(ISOTROPY["log_determinant"](z, ObjectiveConfig(), 0))) < 0.02
    assert float(ISOTROPY["log_determinant"](z * torch.tensor([1.0, 1.0, 1.0, 9.0]), ObjectiveConfig(), 0)) > 0.1


def test_an_own_system_is_trained_and_loaded(
    files: Path, collection_folder: Path, tiny_bert: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where an installed package has it, and nothing else has loaded that."""
    train(files, collection_folder, tiny_bert, "--plugins", str(files / "my_system.py"), "--system", "noisy_queries")
    del SYSTEMS["noisy_queries"]
    load_plugins.cache_clear()
    monkeypatch.syspath_prepend(files)
    entry = importlib.metadata.EntryPoint("mine", "my_system", "ragcun.plugins")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [entry])
    encoder = RetrievalEncoder.from_pretrained(files / "run" / "best_model")
    assert (encoder.system, encoder.to_config()["noise"]) == ("noisy_queries", 0.1)
    monkeypatch.delitem(SYSTEMS, "noisy_queries")
    with pytest.raises(InputError, match=r"'noisy_queries' encoder.*--plugins with my_system\.py"):
        RetrievalEncoder.from_pretrained(files / "run" / "best_model")


def test_a_missing_file_and_a_taken_name_are_refused() -> None:
    with pytest.raises(InputError, match="nowhere"):
        parse_config(TrainConfig, "Train.", ["--plugins", "nowhere.py", "--train_data", "t"])
    with pytest.raises(ValueError, match="covariance"):
        register_loss("covariance", lambda z, config, step: z.sum())
    with pytest.raises(ValueError, match="kind"):
        register_loss("own", lambda z, config, step: z.sum(), "other")  # type: ignore[arg-type]

    class Nameless(ProjectionEncoder):
        def __init__(self, base: Base) -> None:
            super().__init__(base)

    with pytest.raises(ValueError, match="Nameless"):
        register_system(Nameless)
