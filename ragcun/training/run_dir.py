"""The folder of a run: configuration, manifest, and a metrics file that grows by one JSON object a line."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml

from ragcun.io import claim_folder, write_json, write_text

PACKAGES = ("ragcun", "torch", "sentence-transformers", "transformers", "accelerate", "numpy", "faiss-cpu", "bm25s")


class RunFolder:
    """A run's output folder.

    Args:
        path: the folder; it is made where it is missing.
        resume: whether an earlier run there is to be gone on with.
        overwrite: whether an earlier run there is to be replaced.

    Raises:
        InputError: an earlier run is there and neither `resume` nor `overwrite` is set, or the path is a file.

    Attributes:
        follower: what is also given every row of the metrics; None where nothing is.
    """

    def __init__(self, path: str | Path, resume: bool = False, overwrite: bool = False) -> None:
        self.path = Path(path)
        folders = (self.state, self.best_model, *self.path.glob("epoch-[0-9]*"))
        files = (self.metrics, self.manifest, self.config, self.loss_curve, self.non_finite, self.path / "report.html")
        old = (*folders, self.tracking, self.path / "isotropy", *files)
        claim_folder(self.path, "run", self.config, old, resume, overwrite)
        self.follower: Callable[[dict[str, Any]], None] | None = None

    @property
    def recorded(self) -> bool:
        """Whether anything is written to disk."""
        return True

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def manifest(self) -> Path:
        """What the run was made of: versions, data, device, times."""
        return self.path / "manifest.json"

    @property
    def metrics(self) -> Path:
        """One JSON object a line: every loss part, rates, validation."""
        return self.path / "metrics.jsonl"

    @property
    def loss_curve(self) -> Path:
        """The picture of `metrics`."""
        return self.path / "loss_curve.png"

    @property
    def state(self) -> Path:
        """The resume points."""
        return self.path / "state"

    @property
    def non_finite(self) -> Path:
        """The batch whose loss or gradient was not finite and ended the run."""
        return self.path / "non_finite.json"

    @property
    def tracking(self) -> Path:
        """What TensorBoard reads."""
        return self.path / "tensorboard"

    @property
    def best_model(self) -> Path:
        """The checkpoint."""
        return self.path / "best_model"

    def epoch_model(self, epoch: int) -> Path:
        """Return the folder of the kept checkpoint of an epoch."""
        return self.path / f"epoch-{epoch}"

    def write_config(self, values: dict[str, Any]) -> None:
        """Write the configuration as YAML that ``--config`` takes."""
        write_text(self.config, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))

    def write_manifest(self, values: dict[str, Any]) -> None:
        """Write the manifest."""
        write_json(self.manifest, values)

    def log(self, row: dict[str, Any]) -> None:
        """Append a row to the metrics."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if self.follower is not None:
            self.follower(row)

    def count_rows(self) -> int:
        """Count the rows of the metrics, which are on the disk then."""
        if not self.metrics.exists():
            return 0
        with self.metrics.open("rb") as file:
            os.fsync(file.fileno())
            return sum(1 for _ in file)

    def keep_rows(self, count: int) -> None:
        """Drop all rows of the metrics after the first `count`."""
        lines = self.metrics.read_text(encoding="utf-8").splitlines(keepends=True) if self.metrics.exists() else []
        write_text(self.metrics, "".join(lines[:count]))


class Unrecorded(RunFolder):
    """A run that leaves nothing on disk; its rows and its manifest are kept in memory.

    Attributes:
        rows: what would be the metrics.
        values: what would be the manifest.
    """

    def __init__(self) -> None:
        self.path = Path(os.devnull)
        self.follower = None
        self.rows: list[dict[str, Any]] = []
        self.values: dict[str, Any] = {}

    @property
    def recorded(self) -> bool:
        """Whether anything is written to disk: no."""
        return False

    def write_config(self, values: dict[str, Any]) -> None:
        """Write nothing."""

    def write_manifest(self, values: dict[str, Any]) -> None:
        """Keep the manifest."""
        self.values = values

    def log(self, row: dict[str, Any]) -> None:
        """Keep a row."""
        self.rows.append(row)

    def count_rows(self) -> int:
        """Count the rows."""
        return len(self.rows)

    def keep_rows(self, count: int) -> None:
        """Drop all rows after the first `count`."""
        del self.rows[count:]


def environment(device: str) -> dict[str, Any]:
    """Return what else decides a result: versions, commit, device, command and time."""
    return {
        "command": " ".join(sys.argv),
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device,
        "packages": {name: _version(name) for name in PACKAGES},
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _git(*arguments: str) -> str | None:
    """Return what git says of the library's own checkout, None where it is not one."""
    if shutil.which("git") is None:
        return None
    here = Path(__file__).resolve().parent
    done = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
