"""The files of the page on extending ragcun, whose commands test_docs.py runs: an own loss and an own system."""

import importlib.metadata
import re
from pathlib import Path
from unittest import mock

import pytest
import torch

from ragcun import InputError, ObjectiveConfig, RetrievalEncoder, TrainConfig, register_loss, register_system
from ragcun.cli.parser import parse_config
from ragcun.embeddings.base import Base
from ragcun.losses import ISOTROPY
from ragcun.models.encoder import SYSTEMS
from ragcun.models.projection import ProjectionEncoder
from ragcun.options import load_plugins

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


def load(file: Path, *flags: str) -> None:
    parse_config(TrainConfig, "Train.", ["--train_data", "t", "--plugins", str(file), *flags])


def test_an_own_loss_is_0_for_equal_variances_alone(files):
    load(files / "my_loss.py", "--isotropy", "log_determinant")
    z = torch.randn(4000, 4, generator=torch.Generator().manual_seed(0))
    assert abs(float(ISOTROPY["log_determinant"](z, ObjectiveConfig(), 0))) < 0.02
    assert float(ISOTROPY["log_determinant"](z * torch.tensor([1.0, 1.0, 1.0, 9.0]), ObjectiveConfig(), 0)) > 0.1


def test_an_own_system_is_loaded_from_an_installed_package(files, base, monkeypatch):
    """Where nothing else has loaded that; without it, the message names the file."""
    load(files / "my_system.py", "--system", "noisy_queries")
    SYSTEMS["noisy_queries"](base).save_pretrained(files / "model")
    del SYSTEMS["noisy_queries"]
    load_plugins.cache_clear()
    monkeypatch.syspath_prepend(files)
    entry = importlib.metadata.EntryPoint("mine", "my_system", "ragcun.plugins")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [entry])
    encoder = RetrievalEncoder.from_pretrained(files / "model")
    assert (encoder.system, encoder.to_config()["noise"]) == ("noisy_queries", 0.1)
    monkeypatch.delitem(SYSTEMS, "noisy_queries")
    with pytest.raises(InputError, match=r"'noisy_queries' encoder.*--plugins with my_system\.py"):
        RetrievalEncoder.from_pretrained(files / "model")


def test_a_missing_file_and_a_taken_name_are_refused():
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
