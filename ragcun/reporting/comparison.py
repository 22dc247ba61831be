"""Several evaluations, read by name, in one comparison: untouched bases, baselines and models on every dataset."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import pandas as pd

from ragcun.errors import InputError, as_input_error
from ragcun.io import read_json
from ragcun.reporting.tables import EMPTY, LEVELS, SAME, check_alike, once, results_frame
from ragcun.results import METRIC, Number, Results, is_results, typed
from ragcun.retrieval.runs import runs_folder

logger = logging.getLogger(__name__)

KINDS = ("base", "baseline", "model")
BM25, UNTOUCHED = "bm25", " (untouched)"
STORED = re.compile(r"--model[ =](?:(?! --).)*\.json(?: |$)")  # the model was the rankings of an earlier evaluation
TESTED = ["base", "difference", "p", "seen"]


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
        raise InputError(f"{spec}: a file is given twice and would count as two seeds; leave one out")
    return NamedResults(tuple(map(Results.read, paths)), " ".join(name.split()) or None)


def results_in(folder: str | Path) -> list[NamedResults]:
    """Read all results files of a folder and of those in it, by name; InputError: there are none, or one is wrong."""
    found = []
    for path in sorted((*Path(folder).glob("*.json"), *Path(folder).glob("*/*.json"))):
        if is_results(read_json(path)):
            found.append(NamedResults((Results.read(path),)))
        else:
            logger.info("%s is not a results file of ragcun evaluate; skipped", path)
    if not found:
        raise InputError(f"no results files in {folder}; name some, or write them with ragcun evaluate")
    return found


def read_all(specs: Sequence[str], places: Sequence[Path]) -> list[NamedResults]:
    """Read named results (none: all in ``results``); InputError: a table at `places` would replace one of them."""
    results = [read_named(spec) for spec in specs] if specs else results_in("results")
    files = [file.path.resolve() for named in results for file in named.files]
    written = {*files, *(path.with_suffix(".md") for path in files)}
    if taken := [place for place in places if place.resolve() in written]:
        raise InputError(f"{taken[0]} would replace what ragcun evaluate wrote; give --output another name")
    return results


@dataclass(frozen=True)
class Comparison:
    """Systems × datasets.

    A row of `cells` has system, kind, dataset, queries, value (mean over seeds), sd (sample standard deviation), seeds,
    p (against the untouched base; the largest of the seeds), marks (1 or 2 for better at p < .05 or .01, negative for
    worse), seen (queries with a training positive) and best (of its dataset, at four decimals). `embeddings` has each
    system's means over `averaged` (else its own datasets) of what is known of its documents' embeddings, and `TRAINED`.
    """

    metric: str
    cells: pd.DataFrame
    queries: dict[str, int]  # of each dataset
    averaged: list[str]  # datasets that all systems have
    bases: dict[str, str]  # the untouched base of each model
    columns: list[str]  # datasets and their average
    embeddings: pd.DataFrame


def compare(entries: Sequence[NamedResults], metric: str = METRIC) -> Comparison:
    """Put evaluations beside each other: each untouched base once, each baseline once, each model.

    Raises:
        InputError: no file, no untouched base, a missing metric, or collections or systems of one name that differ.
    """
    files = [file for entry in entries for file in entry.files]
    if not files:
        raise InputError("there are no results to compare; name results files of ragcun evaluate")
    names = [entry.name for entry in entries if entry.name is not None]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"the name {twice[0]!r} is given twice; join its files with commas, or give another name")
    check_alike(files, metric)
    values = _values(entries, metric)
    queries = {name: file.collections[name].queries for file in files for name in file.datasets}
    systems = values.groupby("dataset")["system"].nunique()
    averaged = [name for name in queries if systems.get(name) == values["system"].nunique()]
    shared, cells, columns = values[values["dataset"].isin(averaged or queries)], _cells(values), [*queries]
    if len(averaged) > 1:
        columns.append("average" if "average" not in queries else "average of datasets")
        averages = [_average(mine) | {"dataset": columns[-1]} for _, mine in shared.groupby("system", sort=False)]
        cells = pd.concat([cells, pd.DataFrame(averages)], ignore_index=True)
    orders = {"system": list(values["system"].unique()), "dataset": columns}
    cells = cells.sort_values(list(orders), key=lambda names: names.map(orders[names.name].index), ignore_index=True)
    shown = cells["value"].round(4)
    best = shown == shown.groupby(cells["dataset"]).transform("max")
    cells = cells.assign(best=best, queries=cells["dataset"].map(queries).astype("Int64"))
    bases = values.dropna(subset="base").set_index("system")["base"].to_dict()
    embeddings = shared.groupby("system")[[*EMPTY]].mean().dropna(axis=1, how="all")
    return Comparison(metric, cells, queries, averaged, bases, columns, embeddings)


def _values(entries: Sequence[NamedResults], metric: str) -> pd.DataFrame:
    """Return each system's values by dataset and seed; a baseline that is a base or model elsewhere is one with it."""
    values = pd.concat([_rows(file, entry, metric) for entry in entries for file in entry.files], ignore_index=True)
    values = values.sort_values("kind", key=lambda kinds: kinds.map(("base", "model", "baseline").index), kind="stable")
    merged = (values["title"] + UNTOUCHED).isin(values.loc[values["kind"] == "base", "key"])
    for value in values[merged & (values["kind"] != "baseline")].itertuples():
        raise InputError(f"{value.title} is trained in {value.path} and untouched in another file; compare them apart")
    values["key"] = values["key"].mask(merged, values["title"] + UNTOUCHED)
    firsts = {"kind": "first", "given": "last", "title": "first", "base": "nunique"}
    systems = values.groupby("key", sort=False).agg(firsts)
    titles = systems["given"].fillna(systems["title"])
    for key in systems.index[systems["base"] > 1]:
        mine = values[values["key"] == key].dropna(subset="base").drop_duplicates("base")
        two = f"{titles[key]} has two untouched bases, {' and '.join(mine['base'])}"
        raise InputError(f"{mine['path'].iloc[1]}: {two}; part them")
    for title in titles[titles.duplicated()]:
        raise InputError(f"two rows would have the name {title!r}; tell them apart with NAME=FILE")
    if "base" not in set(systems["kind"]):
        path = values["path"].iloc[0]
        raise InputError(f"{path} and the other files hold no untouched base; evaluate a model beside its base")
    values = values.assign(system=values["key"].map(titles), kind=values["key"].map(systems["kind"]))
    values["base"] = values["base"].map(titles)
    values[[*EMPTY]] = values.groupby(["system", "dataset"])[[*EMPTY]].transform("mean")
    values = values.sort_values("kind", key=lambda kinds: kinds.map(KINDS.index), kind="stable")
    remedy = "leave one out, or name two models apart with NAME=FILE"
    return once(values, ["system", "dataset", "seed"], "value", metric, remedy)


def _rows(results: Results, entry: NamedResults, metric: str) -> pd.DataFrame:
    several = len(entry.files) > 1
    rows = results_frame(results, metric)
    rows = rows[(rows["part"] == "") & ~rows["member"]].dropna(subset=metric)
    ours, kind = rows["kind"] == "model", _kind_of(results, several)
    if metric != METRIC:
        rows["p"] = [p_by_query(results, name, metric) for name in rows["dataset"]]
    rows["base"] = results.untouched_base and f"{results.untouched_base.name}{UNTOUCHED}"
    rows[TESTED] = rows[TESTED].where(ours & (kind == "model"))
    ending = UNTOUCHED if kind == "base" else ""
    title, given = f"{results.model.title}{ending}", entry.name and f"{entry.name}{ending}"
    key = f"={given}" if given and kind == "model" else title
    for column, old, new in (("title", "system", title), ("key", "system", key), ("kind", "kind", kind)):
        rows[column] = rows[old].mask(ours, new)
    rows["given"] = [given if each else None for each in ours]
    rows["seed"] = [str(results.path) if each and several else "" for each in ours]
    return rows.assign(value=rows[metric], path=str(results.path))


def _kind_of(results: Results, several: bool) -> str:
    # without an untouched base beside it, a model must be one itself, or BM25
    title = results.model.title
    if results.untouched_base is not None:
        return "model"
    if several:
        raise InputError(f"{results.path}: {title} was not trained and has no seeds to average; name it alone")
    if results.distance == BM25:
        return "baseline"
    if title != results.model.name or STORED.search(str(results.manifest.get("command", ""))):
        raise InputError(f"{results.path} has no untouched base beside {title}; evaluate again, so that it has one")
    return "base"


def _cells(values: pd.DataFrame) -> pd.DataFrame:
    cells = values.groupby(["system", "kind", "dataset"], sort=False, as_index=False).agg(
        value=("value", "mean"), sd=("value", "std"), seeds=("value", "size"), low=("difference", "min"),
        high=("difference", "max"), p=("p", lambda p: p.max(skipna=False)), seen=("seen", "max"),
    )  # fmt: skip
    level = sum((cells["p"] < limit).astype(int) for limit in LEVELS)
    marks = level * ((cells["low"] > 0).astype(int) - (cells["high"] < 0).astype(int))
    return cells.assign(marks=marks, seen=cells["seen"].fillna(0).astype(int))


def _average(values: pd.DataFrame) -> dict[str, object]:
    # each seed is averaged over datasets only where all datasets have the same seeds
    if values.groupby("dataset")["path"].agg(tuple).nunique() == 1:
        seeds = values.groupby("path")["value"].mean()
    else:
        seeds = pd.Series([values.groupby("dataset")["value"].mean().mean()])
    about = {"system": values["system"].iloc[0], "kind": values["kind"].iloc[0], "marks": 0, "seen": 0}
    return {**about, "value": seeds.mean(), "sd": seeds.std(), "seeds": len(seeds)}


def per_query(results: Results, dataset: str, slug: str, metric: str = METRIC) -> dict[str, float]:
    """Read a metric by query of ``model`` or ``untouched_base`` beside the results.

    Raises:
        InputError: the file is wrong or lacks the metric, or its mean is not that of the results.
    """
    path = runs_folder(results.path) / dataset / f"{slug}.per_query.json"
    values: dict[str, float] = typed(dict[str, dict[str, Number]], read_json(path), path).get(metric, {})
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
    with as_input_error(f"{folder}: {metric} of model and untouched base", "; evaluate again"):
        return paired_tests(ours, theirs, seed=int(results.manifest.get("seed", 0))).p_randomisation
