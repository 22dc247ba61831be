"""Results files of evaluate_beir.py as comparisons read them: named, whole, and of the same collections."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ragcun.errors import InputError
from ragcun.io import read_json
from ragcun.reporting.results_form import check_form, is_count, is_number
from ragcun.reporting.tables import all_systems, set_of_parts

logger = logging.getLogger(__name__)

FACTS = ("split", "queries", "documents", "sha256")


@dataclass(frozen=True)
class ResultsFile:
    """One results file: its path, and what it holds."""

    path: Path
    content: Mapping[str, Any]

    @property
    def datasets(self) -> list[str]:
        """The sets that its model was evaluated on; the parts of a set are not counted apart."""
        parts = set_of_parts(self.content)
        return [name for name in self.content["datasets"] if name not in parts]

    def figures_of(self, system: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
        """Return the figures of one of its systems on each set; the parts of a set are not counted apart."""
        parts = set_of_parts(self.content)
        return {name: figures for name, figures in system["datasets"].items() if name not in parts}

    def parts_of(self, dataset: str) -> list[str]:
        """Return the collections that a set is made of: mostly itself."""
        return [name for name, whole in set_of_parts(self.content).items() if whole == dataset] or [dataset]

    @property
    def collections(self) -> Mapping[str, Mapping[str, Any]]:
        """What the manifest says of each collection: split, queries, documents, and sha256 where it was recorded."""
        return self.content["manifest"]["collections"]

    @property
    def metrics(self) -> list[str]:
        """The metrics that every system has on each of its collections."""
        figures = [figures for _, system in all_systems(self.content) for figures in system["datasets"].values()]
        return [name for name in figures[0] if "@" in name and all(name in each for each in figures)]

    def value(self, figures: Mapping[str, Any], metric: str, where: str) -> float:
        """Return a metric from a system's figures; `where` says whose.

        Raises:
            InputError: it is missing or no finite number.
        """
        value = figures.get(metric)
        if not is_number(value) or not math.isfinite(value):
            raise InputError(f"{self.path}: {metric} of {where} is {value!r:.60}, not a number; evaluate again")
        return float(value)


@dataclass(frozen=True)
class NamedResults:
    """The results files of one row, several where seeds are averaged, and the row's name; None keeps the model's."""

    files: tuple[ResultsFile, ...]
    name: str | None = None


def read_named(spec: str) -> NamedResults:
    """Read ``FILE``, ``NAME=FILE`` or ``NAME=FILE,FILE,…``, the last for several seeds of one system.

    Raises:
        InputError: a file is missing or no results file, a name is missing, or a file stands twice.
    """
    if Path(spec).exists():
        return NamedResults((read_results(spec),))
    name, is_named, listed = spec.partition("=") if "=" in spec else ("", "", spec)
    paths = [path.strip() for path in listed.split(",")] if is_named or "," in spec else [spec]
    if len(paths) > 1 and not is_named:
        raise InputError(f"{spec}: several files of one system need a name; write NAME={spec}")
    if (is_named and not name.strip()) or not all(paths):
        raise InputError(f"{spec!r} is not of the form NAME=FILE or NAME=FILE,FILE; give a name and files")
    if len({Path(path).resolve() for path in paths}) < len(paths):
        raise InputError(f"{spec}: a file stands twice, and would count as two seeds; leave one out")
    return NamedResults(tuple(read_results(path) for path in paths), " ".join(name.split()) or None)


def read_results(path: str | Path) -> ResultsFile:
    """Read a results file of evaluate_beir.py and check its form.

    Raises:
        InputError: the file is missing, no results file, or a part of it is missing.
    """
    content = read_json(path)
    if not is_results(content):
        raise InputError(f"{path} is not a results file of evaluate_beir.py; give files that it wrote")
    check_form(content, path)
    if not content["datasets"]:
        raise InputError(f"{path} holds figures on no dataset; evaluate again")
    described = content["manifest"].get("collections", {})
    for name in {*content["datasets"], *described}:
        if not is_place(name):
            raise InputError(f"{path}: {name!r:.60} is no name of a dataset; evaluate again")
    for name in content["datasets"]:
        if not all(is_count(described.get(name, {}).get(key)) for key in ("queries", "documents")):
            raise InputError(f"{path} does not say how many queries and documents {name} has; evaluate again")
    return ResultsFile(Path(path), content)


def is_place(name: str) -> bool:
    """Tell whether a dataset's name, ``set`` or ``set/part``, stays within a folder that it is looked for in.

    >>> [is_place(name) for name in ("scifact", "cqadupstack/android", "../x", "/x", "")]
    [True, True, False, False, False]
    """
    return bool(name) and not any(part in ("", ".", "..") or set(part) & set("\\\0") for part in name.split("/"))


def is_results(content: Any) -> bool:
    """Tell whether the content of a JSON file has the parts of a results file."""
    return isinstance(content, dict) and {"model", "datasets", "untouched_base", "baselines"} <= content.keys()


def results_in(folder: str | Path) -> list[NamedResults]:
    """Read all results files of a folder, by name; other JSON files are passed over with a line in the log.

    Raises:
        InputError: there are none, or one is damaged.
    """
    found = []
    for path in sorted(Path(folder).glob("*.json")):
        if is_results(read_json(path)):
            found.append(NamedResults((read_results(path),)))
        else:
            logger.info("%s is not a results file of evaluate_beir.py; left out", path)
    if not found:
        raise InputError(f"no results files in {folder}; name some, or write them with evaluate_beir.py")
    return found


def check_alike(files: Sequence[ResultsFile], metric: str) -> None:
    """Refuse files that cannot stand in one table.

    A collection of one name must be the same one: equal split, counts of queries and documents, and SHA-256, each
    where both files have it. Every file must have the metric.

    Raises:
        InputError: both files, and what differs.
    """
    for one, other in _pairs(files):
        for name in one.collections.keys() & other.collections.keys():
            for fact in FACTS:
                ours, theirs = one.collections[name].get(fact), other.collections[name].get(fact)
                if None not in (ours, theirs) and ours != theirs:
                    raise InputError(
                        f"{one.path} and {other.path} are of different versions of {name}: {fact} is {ours} in the "
                        f"first and {theirs} in the second; evaluate both on the same data"
                    )
    having = [file for file in files if metric in file.metrics]
    shared = ", ".join(shared_metrics(files)) or "none"
    for file in files:
        if metric not in file.metrics:
            contrast = f", which {having[0].path} has" if having else ""
            raise InputError(f"{file.path} lacks {metric}{contrast}; choose one that all files have: {shared}")


def shared_metrics(files: Sequence[ResultsFile]) -> list[str]:
    """Return the metrics that every file has."""
    return [name for name in files[0].metrics if all(name in file.metrics for file in files)] if files else []


def _pairs(files: Sequence[ResultsFile]) -> Iterator[tuple[ResultsFile, ResultsFile]]:
    return ((one, other) for place, other in enumerate(files) for one in files[:place])
