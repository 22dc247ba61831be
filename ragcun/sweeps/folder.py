"""The folder of a sweep: the log of its trials, their runs, the report, and the best configuration."""

from __future__ import annotations

from pathlib import Path

from ragcun.io import claim_folder


class SweepFolder:
    """A sweep's output folder.

    Args:
        path: the folder; it is made where it is missing.
        resume: whether an earlier sweep there is to be gone on with.
        overwrite: whether an earlier sweep there is to be replaced.

    Raises:
        InputError: an earlier sweep is there and neither `resume` nor `overwrite` is set, or the path is a file.
    """

    def __init__(self, path: str | Path, resume: bool = False, overwrite: bool = False) -> None:
        self.path = Path(path)
        old = (self.runs, self.log, self.report_json, self.report, self.best_config)
        claim_folder(self.path, "sweep", self.log, old, resume, overwrite)

    @property
    def log(self) -> Path:
        """Optuna's journal of the finished trials."""
        return self.path / "study.log"

    @property
    def lock(self) -> Path:
        """Held by the process that runs the sweep."""
        return self.path / ".sweep.lock"

    @property
    def runs(self) -> Path:
        """The runs of the trials, while they last."""
        return self.path / "runs"

    def trial(self, number: int) -> Path:
        """Return the folder of a trial's runs."""
        return self.runs / f"trial-{number:04d}"

    @property
    def report(self) -> Path:
        """The report, as Markdown."""
        return self.path / "report.md"

    @property
    def report_json(self) -> Path:
        """The report's figures."""
        return self.path / "report.json"

    @property
    def best_config(self) -> Path:
        """The best settings, as ``train.py --config`` takes them."""
        return self.path / "best_config.yaml"

    @property
    def best_run(self) -> Path:
        """Where the best settings put their run."""
        return self.path / "best"
