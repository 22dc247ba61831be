"""Results files by name, and the per-query values beside them; which of them can be in one table."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import pandas as pd

from ragcun.errors import InputError
from ragcun.io import read_json
from ragcun.results import METRIC, Results, is_results
from ragcun.retrieval.runs import runs_folder

logger = logging.getLogger(__name__)

SAME = 1e-6
"""How far two values of one system may differ and still be the same."""
FACTS = ("split", "queries", "documents", "sha256")


class NamedResults(NamedTuple):
    """The results of one row, several where seeds are averaged, and the row's name; None keeps the model's."""

    files: tuple[Results, ...]
    name: str | None = None


def read_named(spec: str) -> NamedResults:
    """Read ``FILE``, ``NAME=FILE`` or ``NAME=FILE,FILE,…``, the last for several seeds of one system.

    Raises:
        InputError: another form, a file given twice, or one that is missing or wrong.
    """
    if Path(spec).exists():
        return NamedResults((Results.read(spec),))
    name, is_named, listed = spec.partition("=") if "=" in spec else ("", "", spec)
    paths = [path.strip() for path in listed.split(",")]
    if len(paths) > 1 and not is_named:
        raise InputError(f"{spec}: several files of one system need a name; write NAME={spec}")
    if (is_named and not name.strip()) or not all(paths):
        raise InputError(f"{spec!r} is not of the form NAME=FILE or NAME=FILE,FILE; give a name and files")
    if len({Path(path).resolve() for path in paths}) < len(paths):
        raise InputError(f"{spec}: a file is given twice, and would count as two seeds; leave one out")
    return NamedResults(tuple(map(Results.read, paths)), " ".join(name.split()) or None)


def results_in(folder: str | Path) -> list[NamedResults]:
    """Read all results files of a folder and of those in it, by name; other JSON files are skipped with a line.

    Raises:
        InputError: there are none, or one is wrong.
    """
    found = []
    for path in sorted((*Path(folder).glob("*.json"), *Path(folder).glob("*/*.json"))):
        if is_results(read_json(path)):
            found.append(NamedResults((Results.read(path),)))
        else:
            logger.info("%s is not a results file of ragcun evaluate; skipped", path)
    if not found:
        raise InputError(f"no results files in {folder}; name some, or write them with ragcun evaluate")
    return found


def shared_metrics(files: Sequence[Results]) -> list[str]:
    """Return the metrics that every system of every file has on each of its datasets."""
    scores = [each for file in files for _, system in file.systems for each in system.datasets.values()]
    return [name for name in scores[0].metrics if all(name in each.metrics for each in scores)] if scores else []


def check_alike(files: Sequence[Results], metric: str = METRIC) -> None:
    """Raise InputError where collections of one name differ between files, or a file lacks a metric."""
    known: dict[tuple[str, str], tuple[object, Path]] = {}
    for file, fact in itertools.product(files, FACTS):
        for name, about in file.collections.items():
            if (value := getattr(about, fact)) is None:
                continue
            first, path = known.setdefault((name, fact), (value, file.path))
            if first != value:
                raise InputError(
                    f"{path} and {file.path} are of different versions of {name}: {fact} is {first} in the first and "
                    f"{value} in the second; evaluate both on the same data"
                )
    for file in files:
        if metric not in shared_metrics([file]):
            shared = ", ".join(shared_metrics(files)) or "none"
            raise InputError(f"{file.path} lacks {metric}; choose one that all files have: {shared}")


def once(values: pd.DataFrame, keys: list[str], column: str, what: str, remedy: str = "leave one out") -> pd.DataFrame:
    """Keep one value of each key, or raise InputError where two files disagree; each has a path, system and dataset."""
    first = values.groupby(keys, sort=False, dropna=False)[[column, "path"]].transform("first")
    apart = (values[column] - first[column]).abs() > SAME * first[column].abs().clip(lower=1)
    for place, other in values[apart].iterrows():
        raise InputError(
            f"{first.loc[place, 'path']} and {other['path']} disagree on {what} of {other['system']} on "
            f"{other['dataset']} ({first.loc[place, column]:.6g} and {other[column]:.6g}); {remedy}"
        )
    return values.drop_duplicates(keys)


def per_query(results: Results, dataset: str, slug: str, metric: str = METRIC) -> dict[str, float]:
    """Read a metric by query of ``model`` or ``untouched_base`` beside the results.

    Raises:
        InputError: the file lacks the metric, or its mean is not that of the results.
    """
    path = runs_folder(results.path) / dataset / f"{slug}.per_query.json"
    content = read_json(path)
    values = content.get(metric) if isinstance(content, dict) else None
    if not isinstance(values, dict) or not all(isinstance(value, (int, float)) for value in values.values()):
        raise InputError(f"{path} lacks {metric} by query; evaluate again")
    mean = getattr(results, slug).datasets[dataset].metrics.get(metric, math.nan)
    if not values or not math.isclose(fmean(values.values()), mean, rel_tol=0, abs_tol=SAME):
        raise InputError(f"{path} is not of {results.path}: its mean {metric} is another one; evaluate again")
    return values


def p_by_query(results: Results, dataset: str, metric: str) -> float:
    """Return the two-sided p value of the paired randomisation test of the model against its untouched base.

    NaN where nothing can be tested: one query, no base, or no per-query files.

    Raises:
        InputError: the per-query files are of other results, or of different queries.
    """
    base, slugs, folder = results.untouched_base, ("model", "untouched_base"), runs_folder(results.path) / dataset
    are_there = all((folder / f"{slug}.per_query.json").is_file() for slug in slugs)
    if base is None or base.datasets[dataset].n_queries == 1 or not are_there:
        return math.nan
    from ragcun.retrieval.metrics import paired_tests

    ours, theirs = (per_query(results, dataset, slug, metric) for slug in slugs)
    try:
        return paired_tests(ours, theirs, seed=int(results.manifest.get("seed", 0))).p_randomisation
    except ValueError as error:
        raise InputError(f"{folder}: {metric} of model and untouched base: {error}; evaluate again") from error
