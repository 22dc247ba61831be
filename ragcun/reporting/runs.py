"""What a report is about: run folders, and the results and isotropy files that belong to their checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ragcun.errors import InputError
from ragcun.io import read_json, read_json_lines, read_text
from ragcun.isotropy.report import IsotropyReport
from ragcun.options import read_yaml
from ragcun.reporting.files import ResultsFile, read_results_file
from ragcun.reporting.isotropy import read_isotropy
from ragcun.results import is_results

ISOTROPY = "isotropy.json"
OUR_FILES = frozenset(("manifest.json", ISOTROPY))


@dataclass(frozen=True)
class Run:
    """A training run on disk.

    Attributes:
        folder: its folder, as it was given.
        name: what the page calls it.
        config: its settings.
        config_text: the file that holds them.
        manifest: how it was made; empty where the file is missing.
        rows: the rows of its metrics, by kind.
        evaluations: results of its checkpoint.
        isotropy: measures of its embeddings' geometry, with their file.
    """

    folder: Path
    name: str
    config: dict[str, Any]
    config_text: str
    manifest: dict[str, Any]
    rows: dict[str, list[dict[str, Any]]]
    evaluations: list[ResultsFile] = field(default_factory=list)
    isotropy: list[tuple[Path, IsotropyReport]] = field(default_factory=list)

    @property
    def checkpoint(self) -> Path:
        """The folder of its kept model."""
        return self.folder / "best_model"

    @property
    def result(self) -> dict[str, Any]:
        """What training came to; empty for an unfinished run."""
        return self.manifest.get("result") or {}

    def holds(self, model: str) -> bool:
        """Whether `model`, as results name it, is this run's checkpoint; both paths are resolved."""
        return "\0" not in model and Path(model).resolve() == self.checkpoint.resolve()


def gather(folders: Sequence[Path], results: Sequence[Path] = (), isotropy: Sequence[Path] = ()) -> list[Run]:
    """Read run folders, and give each the files about its checkpoint.

    In a run's folder all ``*.json`` that are results files are taken, and ``isotropy/isotropy.json``,
    ``isotropy/*/isotropy.json`` and ``isotropy.json``.

    Args:
        folders: run folders of ``train.py``.
        results: further results files of ``evaluate_beir.py``.
        isotropy: further files of ``compute_isotropy.py``.

    Raises:
        InputError: a folder is no run folder or is given twice, a file is missing or wrong, or it belongs to no run.
    """
    resolved = [folder.resolve() for folder in folders]
    if twice := [folder for folder in resolved if resolved.count(folder) > 1]:
        raise InputError(f"the run {twice[0]} is given twice; name each run once")
    names = [path.name for path in resolved]
    runs = [
        read_run_folder(folder, path.name if names.count(path.name) == 1 else str(folder))
        for folder, path in zip(folders, resolved, strict=True)
    ]
    for path in _once([path for run in runs for path in _results_in(run.folder)], results):
        file = read_results_file(path)
        for run in _owners(path, [file.results.model.name], runs):
            run.evaluations.append(file)
    for path in _once([path for run in runs for path in _isotropy_in(run.folder)], isotropy):
        report = read_isotropy(path)
        for run in _owners(path, [system.model for system in report.systems], runs):
            run.isotropy.append((path, report))
    return runs


def read_run_folder(folder: Path, name: str) -> Run:
    """Read a run folder, without what was measured of its checkpoint.

    Raises:
        InputError: it is no run folder, or a file in it is wrong.
    """
    config, manifest, metrics = (folder / file for file in ("config.yaml", "manifest.json", "metrics.jsonl"))
    if not config.is_file():
        raise InputError(f"{folder} is no run folder: it has no config.yaml; name a folder that train.py wrote")
    content = read_json(manifest) if manifest.exists() else {}
    if not isinstance(content, dict) or not isinstance(content.get("result") or {}, dict):
        raise InputError(f"{manifest} is not the manifest of a run; train again")
    rows: dict[str, list[dict[str, Any]]] = {}
    for _, row in read_json_lines(metrics) if metrics.exists() else ():
        rows.setdefault(str(row.get("kind")), []).append(row)
    return Run(folder, name, read_yaml(config), read_text(config), content, rows)


def _results_in(folder: Path) -> list[Path]:
    candidates = (path for path in sorted(folder.glob("*.json")) if path.name not in OUR_FILES)
    return [path for path in candidates if is_results(read_json(path))]


def _isotropy_in(folder: Path) -> list[Path]:
    inner = folder / "isotropy"
    places = (inner / ISOTROPY, *sorted(inner.glob(f"*/{ISOTROPY}")), folder / ISOTROPY)
    return [path for path in places if path.is_file()]


def _once(found: Iterable[Path], given: Iterable[Path]) -> list[Path]:
    """Return each file once, those in run folders first."""
    return list({path.resolve(): path for path in reversed([*found, *given])}.values())[::-1]


def _owners(path: Path, models: Sequence[str], runs: Sequence[Run]) -> list[Run]:
    """Return the runs that a file is about."""
    owners = [run for run in runs if any(run.holds(model) for model in models)]
    if not owners:
        checkpoints = " or ".join(str(run.checkpoint) for run in runs)
        raise InputError(
            f"{path} is about {' and '.join(models)}, not {checkpoints} (relative paths start at {Path.cwd()}); "
            "leave it out (move it elsewhere), or evaluate that checkpoint"
        )
    return owners
