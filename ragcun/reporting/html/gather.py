"""What a page is about: run folders, and the results and isotropy files that belong to their checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ragcun.errors import InputError
from ragcun.io import read_json, read_json_lines, read_text
from ragcun.options import read_yaml
from ragcun.reporting.isotropy_file import read_isotropy
from ragcun.reporting.results_files import ResultsFile, is_results, read_results
from ragcun.reporting.tables import all_systems, results_table

ISOTROPY = "isotropy.json"
OUR_FILES = frozenset(("manifest.json", ISOTROPY))
Document = dict[str, Any]


@dataclass(frozen=True)
class IsotropyFile:
    """One isotropy.json: its path, and what it holds."""

    path: Path
    content: Document


@dataclass(frozen=True)
class Run:
    """A training run on disk.

    Attributes:
        folder: its folder, as it was given.
        name: what the page calls it.
        config: its settings.
        config_text: the file that holds them, as it is.
        manifest: what it was made of; empty where the file is missing.
        rows: the rows of its metrics, by kind.
        evaluations: results of its checkpoint.
        isotropy: measures of its embeddings' geometry.
    """

    folder: Path
    name: str
    config: Document
    config_text: str
    manifest: Document
    rows: Mapping[str, Sequence[Document]]
    evaluations: list[ResultsFile] = field(default_factory=list)
    isotropy: list[IsotropyFile] = field(default_factory=list)

    @property
    def checkpoint(self) -> Path:
        """The folder of its kept model."""
        return self.folder / "best_model"

    @property
    def metrics(self) -> Path:
        """Its metrics, one JSON object a line."""
        return self.folder / "metrics.jsonl"

    def holds(self, model: object) -> bool:
        """Whether `model`, as results name it, is this run's checkpoint; both paths are resolved."""
        return isinstance(model, str) and "\0" not in model and Path(model).resolve() == self.checkpoint.resolve()


def gather(folders: Sequence[Path], results: Sequence[Path] = (), isotropy: Sequence[Path] = ()) -> list[Run]:
    """Read run folders, and give each the files about its checkpoint.

    In a run's folder all ``*.json`` that are results files are taken, and ``isotropy/isotropy.json``,
    ``isotropy/*/isotropy.json`` and ``isotropy.json``.

    Args:
        folders: what ``train.py`` wrote.
        results: further results files of ``evaluate_beir.py``.
        isotropy: further files of ``compute_isotropy.py``.

    Raises:
        InputError: a folder is no run folder or is given twice, a file is missing or wrong, or it belongs to no run.
    """
    resolved = [folder.resolve() for folder in folders]
    for number, folder in enumerate(resolved):
        if folder in resolved[:number]:
            raise InputError(f"the run {folders[number]} is given twice; name each run once")
    names = [path.name for path in resolved]
    runs = [
        read_run_folder(folder, path.name if names.count(path.name) == 1 else str(folder))
        for folder, path in zip(folders, resolved, strict=True)
    ]
    for path in _once([path for run in runs for path in _results_in(run.folder)], results):
        file = _read_results(path)
        for run in _owners(path, [file.content["model"]], runs):
            run.evaluations.append(file)
    for path in _once([path for run in runs for path in _isotropy_in(run.folder)], isotropy):
        measured = IsotropyFile(path, read_isotropy(path))
        for run in _owners(path, [system["model"] for system in measured.content["systems"]], runs):
            run.isotropy.append(measured)
    return runs


def read_run_folder(folder: Path, name: str) -> Run:
    """Read a run folder, without what was measured of its checkpoint.

    Raises:
        InputError: it is no run folder, or a file in it is wrong.
    """
    config = folder / "config.yaml"
    if not config.is_file():
        raise InputError(f"{folder} is no run folder: it has no config.yaml; name a folder that train.py wrote")
    manifest, rows = folder / "manifest.json", dict[str, list[Document]]()
    content = read_json(manifest) if manifest.exists() else {}
    if not isinstance(content, dict):
        raise InputError(f"{manifest}: expected a JSON object, got {type(content).__name__}; train again")
    metrics = folder / "metrics.jsonl"
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


def _read_results(path: Path) -> ResultsFile:
    """Read a results file; what stands in the page as a number has to be one, and a dataset a folder's name."""
    file = read_results(path)
    for _, system in all_systems(file.content):
        for figures in system["datasets"].values():
            _check_numbers(figures, path)
    for name in file.datasets:
        if not name or Path(name).name != name:
            raise InputError(f"{path}: the dataset {name!r} is no folder's name; evaluate again")
    try:
        results_table(file.content)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return file


def _check_numbers(figures: Document, path: Path) -> None:
    """Demand numbers, and those of the parts of a dataset likewise."""
    for name, value in figures.items():
        if isinstance(value, dict):
            _check_numbers(value, path)
        elif isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InputError(f"{path}: {name!r:.60} is {value!r:.40} where a number is expected; evaluate again")


def _once(found: Iterable[Path], given: Iterable[Path]) -> list[Path]:
    """Return each file once, those in run folders first."""
    paths: dict[Path, Path] = {}
    for path in (*found, *given):
        paths.setdefault(path.resolve(), path)
    return list(paths.values())


def _owners(path: Path, models: Sequence[object], runs: Sequence[Run]) -> list[Run]:
    """Return the runs that a file is about."""
    owners = [run for run in runs if any(run.holds(model) for model in models)]
    if not owners:
        about = " and ".join(str(model) for model in models) or "nothing"
        checkpoints = " or ".join(str(run.checkpoint) for run in runs)
        raise InputError(
            f"{path} is about {about}, not {checkpoints} (relative paths start at {Path.cwd()}); "
            "leave it out (move it elsewhere), or evaluate that checkpoint"
        )
    return owners
