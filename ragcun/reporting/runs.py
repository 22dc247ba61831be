"""What a report is about: run folders, and the results and isotropy files that belong to their checkpoints."""

from __future__ import annotations

import shlex
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
from ragcun.reporting.tables import ABSENT
from ragcun.results import is_results

Facts = list[tuple[str, str]]
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


def shown(value: object) -> str:
    """Write a value of a configuration or manifest for a reader.

    >>> [shown(value) for value in (None, True, 0.123456, [1, 2], "a", 12000)]
    ['–', 'yes', '0.1235', '1, 2', 'a', '12000']
    """
    if value is None:
        return ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(shown, value)) or ABSENT
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def facts_of(run: Run) -> Facts:
    """Return what a run is and what came of it."""
    config, result = run.config, run.result
    data = next((config[name] for name in ("train_data", "documents", "corpus") if config.get(name)), None)
    start = f", initialised by {config['head_init']}" if config.get("head_init") else ""
    frozen = "frozen" if config.get("freeze_base") else "trained in part or whole"
    facts = {
        "base model": f"{shown(config.get('base_model'))}, {frozen}",
        "system": shown(config.get("system")),
        "head": f"{shown(config.get('head'))}{start}",
        "training data": shown(data),
        "seed": shown(config.get("seed")),
    }
    if result:
        facts["kept"] = f"epoch {shown(result.get('best_epoch'))}, chosen by {shown(result.get('criterion'))}"
        facts["score of the kept epoch"] = score_text(result.get("score"))
        facts["score of the untouched base"] = score_text(result.get("base_score"))
        facts["training"] = f"{shown(result.get('steps'))} steps in {shown(result.get('seconds'))} s"
    return list(facts.items())


def score_text(value: object) -> str:
    """Write a score of the selection, which is a loss with its sign turned where there is no dev set."""
    return f"{abs(value):.4f}" if isinstance(value, (int, float)) else shown(value)


def state_of(run: Run) -> list[str]:
    """Return what a reader has to know first."""
    said, status = [], run.manifest.get("status")
    if not run.manifest:
        said.append("The run has no manifest.json: it is not known how it was made.")
    elif status != "finished":
        said.append(f"The run is not finished (status: {shown(status)}); it has no kept model yet.")
    if run.result.get("best_epoch") == 0:
        said.append("No epoch was better than the start: the checkpoint is the model before training.")
    if run.result.get("comparison"):
        said.append(f"{shown(run.result['comparison']).rstrip('.')}.")
    return said


def environment_of(run: Run) -> Facts:
    """Return versions, commit, platform and digests of the data; empty without a manifest."""
    manifest = run.manifest
    names = {"git_commit": "git commit", "git_dirty": "uncommitted changes", "base_fingerprint": "base fingerprint"}
    names |= {name: name for name in ("seed", "device", "platform", "started", "python")}
    facts = [(title, shown(manifest.get(name))) for name, title in names.items()]
    for key, title in (("packages", "package"), ("data_sha256", "SHA-256 of the data,")):
        found = manifest.get(key)
        facts += [
            (f"{title} {name}", shown(value)) for name, value in (found if isinstance(found, dict) else {}).items()
        ]
    return facts if manifest else []


def commands_of(run: Run) -> Facts:
    """Return how to repeat or finish a run, each command with what it does."""
    config = run.folder / "config.yaml"
    again = _command("train", "--config", config, "--output_dir", f"{run.folder}-again")
    commands = [("again, from the whole configuration", again)]
    if (started := run.manifest.get("command")) is not None:
        commands.insert(0, ("as it was started", f"python {started}"))
    if run.manifest.get("status") not in (None, "finished"):
        commands.insert(0, ("that finishes the run", _command("train", "--config", config, "--resume")))
    return commands


def missing(run: Run, data_dir: Path | None) -> dict[str, str]:
    """Return the commands that make what a finished run lacks."""
    if run.manifest.get("status") not in (None, "finished"):
        return {}
    places = [file.results.manifest.get("data_dir") for file in run.evaluations]
    data = next((place for place in (data_dir, *places) if place), "data")
    commands, model = {}, ("--model_path", run.checkpoint, "--data_dir", data)
    if not run.evaluations:
        output = ("--baseline", "bm25", "--output_file", run.folder / "results.json")
        commands["evaluation"] = _command("evaluate_beir", *model, *output)
    if not run.isotropy:
        names = [name for file in run.evaluations for name in file.results.datasets][:1] or ["NAME"]
        place = ("--output_dir", run.folder / "isotropy")
        commands["isotropy"] = _command("compute_isotropy", *model, "--datasets", *names, *place)
    return commands


def _command(script: str, *arguments: object) -> str:
    """Return a command line that a shell takes as it is."""
    return shlex.join(["python", f"scripts/{script}.py", *map(str, arguments)])
