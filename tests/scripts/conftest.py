"""Running scripts as a user does, in this process."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from ragcun import IsotropicGaussianEncoder, TextBase

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


class Finished(NamedTuple):
    """How a script ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def run_script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Finished]:
    """Run ``scripts/<name>.py`` with arguments; return exit code, stdout and stderr."""

    def run(name: str, *arguments: object) -> Finished:
        monkeypatch.setattr(sys, "argv", [f"{Path(name).name}.py", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            runpy.run_path(str(SCRIPTS / f"{name}.py"), run_name="__main__")
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Finished(code, *capsys.readouterr())

    return run


@pytest.fixture
def fails_clearly(run_script: Callable[..., Finished]) -> Callable[..., str]:
    """Run a script that has to fail: exit code 2, one sentence as the last line of stderr; return that sentence."""

    def run(name: str, *arguments: object) -> str:
        done = run_script(name, *arguments)
        last = done.err.strip().splitlines()[-1]
        assert done.code == 2, done
        assert "Traceback" not in done.err
        assert last.startswith(f"{Path(name).name}.py: error: "), done.err
        return last

    return run


@pytest.fixture(scope="session")
def save_checkpoint(tiny_bert: str) -> Callable[[Path, int], Path]:
    """Save an encoder whose head has moved away from the identity, at random."""

    def save(folder: Path, seed: int) -> Path:
        encoder = IsotropicGaussianEncoder(TextBase.load(tiny_bert, device="cpu"), head="mlp", use_predictor=True)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in encoder.head.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        encoder.save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def checkpoint(save_checkpoint: Callable[[Path, int], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a checkpoint; to be read only."""
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint") / "best_model", 1)
