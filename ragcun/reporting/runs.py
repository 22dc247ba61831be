"""What a report is about: run folders, what was measured of their checkpoints, and the queries that changed most."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ragcun.data.beir import Collection, load_collection
from ragcun.errors import InputError
from ragcun.io import read_json, read_json_lines, read_text
from ragcun.isotropy.report import IsotropyReport, SystemReport
from ragcun.options import read_yaml
from ragcun.reporting.comparison import per_query
from ragcun.results import Results, is_results
from ragcun.retrieval.runs import read_run, runs_folder

logger = logging.getLogger(__name__)

ISOTROPY = "isotropy.json"
QUERIES, DOCUMENTS, LETTERS = 5, 3, 300
BLANKS = 64  # of a text, this many times the limit is looked at: enough where it has no more white space than that
KEPT = frozenset("\n\t\u200c\u200d\u00ad")  # line feed, tab, joiners that scripts and emoji need, soft hyphen
HIDDEN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))  # controls, formats (bidirectional too), lone surrogates, separators
SYSTEMS = ("untouched_base", "model")


@dataclass(frozen=True)
class Run:
    """A training run on disk: its settings, manifest (empty where missing), metrics by kind, and evaluations."""

    folder: Path
    name: str
    config: dict[str, Any]
    config_text: str
    manifest: dict[str, Any]
    rows: dict[str, list[dict[str, Any]]]
    evaluations: list[Results] = field(default_factory=list)
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

    def systems_of(self, report: IsotropyReport) -> list[SystemReport]:
        """Return the systems of a report that are untouched or this run's."""
        return [system for system in report.systems if system.untouched or self.holds(system.model)]


def gather(folders: Sequence[Path], results: Sequence[Path] = (), isotropy: Sequence[Path] = ()) -> list[Run]:
    """Read run folders of ``ragcun train``, and give each the files about its checkpoint.

    Results are all such ``*.json`` in a run's folder, and reports ``isotropy.json`` there, in ``isotropy`` and in
    folders in it; `results` and `isotropy` are further files.

    Raises:
        InputError: a run is given twice or is none, or a file is wrong or belongs to no run.
    """
    resolved = [folder.resolve() for folder in folders]
    if twice := [folder for folder in resolved if resolved.count(folder) > 1]:
        raise InputError(f"the run {twice[0]} is given twice; name each run once")
    names = [path.name for path in resolved]
    runs = [
        _read_run(folder, path.name if names.count(path.name) == 1 else str(folder))
        for folder, path in zip(folders, resolved, strict=True)
    ]
    found = [path for run in runs for path in sorted(run.folder.glob("*.json")) if is_results(read_json(path))]
    for path in _each_once([*found, *results]):
        results_file = Results.read(path)
        for run in _owners(path, [results_file.model.name], runs):
            run.evaluations.append(results_file)
    places = (f"isotropy/{ISOTROPY}", f"isotropy/*/{ISOTROPY}", ISOTROPY)
    found = [path for run in runs for place in places for path in sorted(run.folder.glob(place)) if path.is_file()]
    for path in _each_once([*found, *isotropy]):
        report = IsotropyReport.read(path)
        for run in _owners(path, [system.model for system in report.systems], runs):
            run.isotropy.append((path, report))
    return runs


def _read_run(folder: Path, name: str) -> Run:
    config, manifest, metrics = (folder / file for file in ("config.yaml", "manifest.json", "metrics.jsonl"))
    if not config.is_file():
        raise InputError(f"{folder} is not a run folder: it has no config.yaml; name a folder that ragcun train wrote")
    content = read_json(manifest) if manifest.exists() else {}
    if not isinstance(content, dict) or not isinstance(content.get("result") or {}, dict):
        raise InputError(f"{manifest} is not the manifest of a run; train again")
    rows: dict[str, list[dict[str, Any]]] = {}
    for _, row in read_json_lines(metrics) if metrics.exists() else ():
        rows.setdefault(str(row.get("kind")), []).append(row)
    return Run(folder, name, read_yaml(config), read_text(config), content, rows)


def _each_once(paths: Sequence[Path]) -> list[Path]:
    return list({path.resolve(): path for path in reversed(paths)}.values())[::-1]


def _owners(path: Path, models: Sequence[str], runs: Sequence[Run]) -> list[Run]:
    owners = [run for run in runs if any(run.holds(model) for model in models)]
    if not owners:
        checkpoints = " or ".join(str(run.checkpoint) for run in runs)
        raise InputError(
            f"{path} is about {' and '.join(models)}, not {checkpoints} (relative paths start at {Path.cwd()}); "
            "leave it out (move it elsewhere), or evaluate that checkpoint"
        )
    return owners


class Example(NamedTuple):
    """A query, its NDCG@10 under the untouched base and the model, and the first documents that either finds."""

    query: str
    values: tuple[float, float]
    documents: list[list[str]]


class Examples(NamedTuple):
    """The examples of one dataset: largest gains and losses, by title."""

    dataset: str
    missing: str | None = None  # why there are none
    without_texts: str | None = None  # why there is no `collection` for their texts and judgments
    counts: tuple[int, int, int] = (0, 0, 0)  # of queries that are better, worse and the same
    chosen: Mapping[str, list[Example]] = {}
    collection: Collection | None = None


def visible(text: str) -> str:
    """Return `text` with every character that has no shape, or that turns the order of others, as its code point."""
    return "".join(
        f"⟨U+{ord(letter):04X}⟩" if letter not in KEPT and unicodedata.category(letter) in HIDDEN else letter
        for letter in text
    )


def excerpt(text: str, limit: int = LETTERS) -> str:
    """Return the visible start of a text, white space collapsed, cut after `limit` characters with an ellipsis."""
    whole = " ".join(text[: BLANKS * limit].split())
    is_cut = len(whole) > limit or len(text) > BLANKS * limit
    return visible(whole[:limit].rstrip() + ("…" if is_cut else ""))


def examples(results: Results, data_dir: Path | None = None) -> list[Examples]:
    """Choose the examples of each dataset from the run files beside results; None takes the data_dir they name.

    Raises:
        InputError: a run file is wrong, or of other results.
    """
    return [_of(results, part, data_dir) for name in results.datasets for part in results.parts_of(name)]


def extremes(
    base: Mapping[str, float], model: Mapping[str, float]
) -> tuple[list[str], list[str], tuple[int, int, int]]:
    """Return the queries of the 5 largest gains and losses, and how many are better, worse and the same.

    >>> extremes({"a": 0.5, "b": 0.5, "c": 1.0}, {"a": 1.0, "b": 0.5, "c": 0.0})
    (['a'], ['c'], (1, 1, 1))
    """
    gains = pd.Series({query: model[query] - base[query] for query in model}, dtype=float)
    gained, lost = gains[gains > 0], gains[gains < 0]
    counts = (len(gained), len(lost), len(gains) - len(gained) - len(lost))
    return list(gained.nlargest(QUERIES).index), list(lost.nsmallest(QUERIES).index), counts


def _of(results: Results, name: str, data_dir: Path | None) -> Examples:
    if results.untouched_base is None:
        return Examples(name, "the results have no untouched base to compare with")
    folder = runs_folder(results.path) / name
    files = [folder / f"{system}{suffix}" for system in SYSTEMS for suffix in (".per_query.json", ".trec")]
    if absent := [path for path in files if not path.is_file()]:
        return Examples(name, f"there is no {absent[0]}; evaluate again, or copy the folder of runs too")
    base, model = (per_query(results, name, system) for system in SYSTEMS)
    if base.keys() != model.keys():
        raise InputError(f"{folder}: model and untouched_base have different queries; evaluate again")
    gains, losses, counts = extremes(base, model)
    runs = [read_run(folder / f"{system}.trec") for system in SYSTEMS]

    def shown(queries: Sequence[str]) -> list[Example]:
        found = {query: [list(run.get(query, {}))[:DOCUMENTS] for run in runs] for query in queries}
        return [Example(query, (base[query], model[query]), documents) for query, documents in found.items()]

    chosen = {"Largest gains": shown(gains), "Largest losses": shown(losses)}
    collection, reason = _collection(results, name, data_dir)
    return Examples(name, None, reason, counts, chosen, collection)


def _collection(results: Results, name: str, data_dir: Path | None) -> tuple[Collection | None, str | None]:
    about, place = results.collections[name], data_dir or results.manifest.get("data_dir")
    if place is None:
        return None, "the results do not say where the collection is; name its folder with --data_dir"
    try:
        collection = load_collection(Path(place) / name, about.split)
    except InputError as error:
        logger.warning("%s: texts are not shown: %s", name, error)
        return None, f"{error}; name the folder of collections with --data_dir"
    if about.sha256 not in (collection.sha256(), replace(collection, drop_own_ids=True).sha256()):
        logger.warning("%s: texts are not shown: %s has changed since the evaluation", name, Path(place) / name)
        return None, f"the collection in {Path(place) / name} is not the one that was evaluated"
    return collection, None
