"""The scores of evaluations as one frame, where they agree, verdicts against the untouched base, and tables."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from markupsafe import Markup

from ragcun.errors import InputError
from ragcun.results import METRIC, PARTS, Part, Results, Scores, reason

ABSENT = "–"
NUMBER = re.compile(r"[<+\-−]?\d[\d.,]*(e[+-]?\d+)?%?( ± [\d.]+)?( \(.*\))?")
DIFFERENCE = "Δ vs base (p)"
BOLD, STRONG = "**{}**", Markup("<strong>{}</strong>")
METRICS = (METRIC, "MRR@10", "MAP@100", "Recall@100", "P@10")
LEVELS = (0.05, 0.01)  # a p value below the first earns one mark, below the second two
TITLES = {
    "": "all judged queries",
    "seen": "queries with a relevant document that was a training positive (seen)",
    "unseen": "queries with no relevant document that was a training positive (unseen)",
    "held_out": "among documents hidden from training (held out)",
}
PLACE = ["dataset", "part"]
NONE = Scores({}, 0)
SPACE, TRAINED = ("isotropy score", "mean norm", "norm deviation"), "trained parameters"
EMPTY = dict.fromkeys((*SPACE, TRAINED), np.nan)
SAME = 1e-6  # how far two values of one system may differ and still be the same
FACTS = ("split", "queries", "documents", "sha256")


class Table(NamedTuple):
    """A table: its caption, a title for each column, and rows, whose first cell names the row; most are of numbers."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    is_numeric: bool = True


def results_frame(results: Results, metric: str = METRIC) -> pd.DataFrame:
    """Return a row for each system on each dataset and on each part of it that has queries, in the order of `systems`.

    Beside the fields of `Results`: kind (base, baseline or model), size (bytes of a vector), part (empty for the whole;
    seen and unseen only where both have queries), member (of a set such as CQADupStack), `difference` (the model's
    `metric` minus the system's, in the model's rows minus the untouched base's), p (of NDCG@10), against (both as
    text), and verdict, at the first of `LEVELS`.
    """
    places: list[tuple[str, Part | None]] = []
    for dataset, whole in results.model.datasets.items():
        parts = [part for part in PARTS if whole.part(part)]
        both = {"seen", "unseen"} <= set(parts)
        places += [(dataset, None), *((dataset, part) for part in parts if both or part == "held_out")]
    rows = []
    for title, system in results.systems:
        kind = "model" if system is results.model else "base" if system is results.untouched_base else "baseline"
        about: dict[str, object] = {"system": title, "name": system.name, "kind": kind, "precision": system.precision}
        about |= {"truncate_dim": system.truncate_dim, "size": system.bytes_per_vector}
        about |= {TRAINED: system.trained_parameters}
        for dataset, part in places:
            facts, scores = results.collections[dataset], system.datasets.get(dataset, NONE)
            seen, scores = scores.part("seen") or NONE, scores.part(part) or NONE
            place = {"dataset": dataset, "part": part or "", "member": facts.part_of is not None, "all": facts.queries}
            counts = {"queries": scores.n_queries or None, "documents": scores.n_documents, "seen": seen.n_queries}
            space = dict(zip(SPACE, dataclasses.astuple(scores.space), strict=True)) if scores.space else {}
            found = {"p": scores.p_randomisation, metric: np.nan, **scores.metrics}
            rows.append({**EMPTY, **space, **about, **place, **counts, **found})
    counted = dict.fromkeys(("size", "queries", "documents", "seen", "all", "truncate_dim"), "Int64")
    frame = pd.DataFrame(rows).astype({**counted, **dict.fromkeys((*EMPTY, "p", metric), float)})
    frame["queries"] = frame.groupby(PLACE)["queries"].transform("last").fillna(frame.pop("all"))
    values, p = (frame[name].to_numpy(copy=True).reshape(-1, len(places)) for name in (metric, "p"))
    difference = values[-1] - values
    p[-1], difference[-1] = (p[0], difference[0]) if results.untouched_base else (np.nan, np.nan)
    frame["p"], frame["difference"] = p.ravel(), difference.ravel()
    frame["against"] = [_difference(*values) for values in zip(frame["difference"], frame["p"], strict=True)]
    same = (frame["p"] >= LEVELS[0]) | (frame["difference"] == 0)
    words = ["not tested", "not distinguishable", "better"]
    return frame.assign(verdict=np.select([frame["p"].isna(), same, frame["difference"] > 0], words, "worse"))


def _difference(difference: float, p: float) -> str:
    tested = "" if pd.isna(p) else " (<0.0001)" if p < 0.0001 else f" ({p:.4f})"
    return ABSENT if pd.isna(difference) else f"{difference:+.4f}{tested}"


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


def verdicts(results: Results) -> pd.DataFrame:
    """Return the rows of `results_frame` that judge the model against its untouched base, without members of sets."""
    frame = results_frame(results)
    return frame[(frame["kind"] == "model") & ~frame["member"] & frame["difference"].notna()]


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out a Markdown table; columns of numbers (bold or not, or absent) are aligned to the right.

    >>> print(markdown_table(["system", "NDCG@10"], [["base", "0.64"], ["model", "**0.66**"]]), end="")
    | system |  NDCG@10 |
    | :----- | -------: |
    | base   |     0.64 |
    | model  | **0.66** |
    """
    cells = [[" ".join(cell.replace("|", "\\|").split()) for cell in row] for row in (header, *rows)]
    columns = []
    for title, *values in zip(*cells, strict=True):
        shown = [cell.strip("*") for cell in values if cell.strip("*") not in ("", ABSENT)]
        right = bool(shown) and all(map(NUMBER.fullmatch, shown))
        width = max(3, *map(len, (title, *values)))
        rule = "-" * (width - 1) + ":" if right else ":" + "-" * (width - 1)
        columns.append([cell.rjust(width) if right else cell.ljust(width) for cell in (title, rule, *values)])
    return "".join(f"| {' | '.join(row)} |\n" for row in zip(*columns, strict=True))


def marked(values: Iterable[float], best: str = BOLD) -> list[str]:
    """Write values with four decimals, the highest as `best`, equals at four decimals alike."""
    texts = [ABSENT if pd.isna(value) else f"{value:.4f}" for value in values]
    highest = max((text for text in texts if text != ABSENT), key=float, default="")
    return [best.format(text) if text == highest else text for text in texts]


def _sizes(results: Results) -> dict[str, list[str]]:
    sizes = [system.bytes_per_vector for _, system in results.systems]
    differ = len({size for size in sizes if size is not None}) > 1
    return {"bytes per vector": [ABSENT if size is None else f"{size:,}" for size in sizes]} if differ else {}


def choices(results: Results) -> list[str]:
    """Say what an evaluation chose for each collection and system, and why."""
    return [
        f"{name}, {results.baselines[slug].name}: {what} {reason(record)}"
        for slug, chosen in results.manifest.get("chosen", {}).items()
        for name, records in chosen.items()
        for what, record in records.items()
    ]


def results_table(results: Results) -> str:
    """Lay out NDCG@10 of an evaluation as Markdown: the whole datasets, then their parts and the members of sets."""
    frame, titles = results_frame(results), [title for title, _ in results.systems]
    has_base, groups = results.untouched_base is not None, frame.groupby(PLACE, sort=False)
    wholes = {dataset: rows for (dataset, part), rows in groups if not part and not rows["member"].any()}
    columns = [("system", titles), *_sizes(results).items()]
    columns += [(name, marked(rows[METRIC])) for name, rows in wholes.items()]
    columns.append((f"mean {METRIC}", marked(system.average[METRIC] for _, system in results.systems)))
    if has_base:
        others = [ABSENT] * (len(titles) - 1)
        columns += [(f"{name} {DIFFERENCE}", [*others, rows["against"].iloc[-1]]) for name, rows in wholes.items()]
    header, cells = zip(*columns, strict=True)
    whole = markdown_table(header, zip(*cells, strict=True))
    parts = []
    for (dataset, part), rows in sorted(groups, key=lambda group: bool(group[1]["member"].any())):
        if part or rows["member"].any():
            documents = rows["documents"].iloc[-1]
            among = "" if pd.isna(documents) else f", {documents:,} documents"
            title = f"{dataset}, {part.replace('_', ' ')}{among}" if part else dataset
            difference = [rows["against"].iloc[-1]] if has_base else []
            parts.append([title, f"{rows['queries'].iloc[0]:,}", *marked(rows[METRIC]), *difference])
    header = ("part", "queries", *titles, *([DIFFERENCE] if has_base else []))
    notes = [f"- {name}: {note}\n" for name in results.collections for note in notes_of(results, name)]
    return "\n".join([whole, *([markdown_table(header, parts)] if parts else []), *(["".join(notes)] if notes else [])])


def notes_of(results: Results, dataset: str) -> list[str]:
    """Return what is to know of the figures on a dataset, and of single systems on it."""
    scores = [(title, system.datasets.get(dataset, NONE).note) for title, system in results.systems]
    return [*(results.collections[dataset].notes or ()), *(f"{title}: {note}" for title, note in scores if note)]


def metric_tables(results: Results) -> list[Table]:
    """Lay out each part of each dataset as HTML: a row for each system, a column for each metric, the best bold."""
    frame, tables = results_frame(results), []
    for (dataset, part), rows in frame[~frame["member"]].groupby(PLACE, sort=False):
        model = rows.iloc[-1]
        columns: dict[str, Sequence[str]] = {"system": list(rows["system"])}
        for metric in METRICS:
            if metric in model.dropna():
                columns[metric] = marked(rows[metric], STRONG)
            if metric == METRIC:
                columns["this model − it (p)"] = [*rows["against"].iloc[:-1], ABSENT]
        columns |= _sizes(results)
        among = "" if pd.isna(model["documents"]) else f"; {model['documents']:,} documents are ranked"
        notes = "".join(f"; {note}" for note in notes_of(results, str(dataset)))
        caption = f"{dataset}: {TITLES[part]}, n = {model['queries']:,}{among}{notes}"
        tables.append(Table(caption, list(columns), list(zip(*columns.values(), strict=True))))
    return tables


def score_tables(runs: Sequence[tuple[str, Results]]) -> list[Table]:
    """Lay out NDCG@10 of several runs, each named, as HTML: a table for each dataset, split and content of it."""
    groups: dict[tuple[str, str, str], list[tuple[list[float], list[str]]]] = {}
    for title, results in runs:
        frame, base = results_frame(results), results.untouched_base
        against = "no untouched base" if base is None else f"base: {base.name}"
        label = f"{title}{results.model.title.removeprefix(results.model.name)} ({against})"
        for name, rows in frame[frame["part"] == ""].groupby("dataset", sort=False):
            about, model = results.collections[str(name)], rows.iloc[-1]
            values = [np.nan if base is None else rows[METRIC].iloc[0], model[METRIC]]
            texts = [label, model["against"], f"{model['queries']:,}", ABSENT if base is None else model["verdict"]]
            groups.setdefault((str(name), about.split, str(about.sha256)), []).append((values, texts))
    names, tables = [name for name, _, _ in groups], []
    header = ["run", f"base {METRIC}", f"run {METRIC}", "run − base (p)", "queries", "verdict"]
    for (name, split, digest), group in groups.items():
        version = "" if names.count(name) == 1 else f" ({split}, {digest[:12]})"
        shown = iter(marked((value for values, _ in group for value in values), STRONG))
        rows = [[label, next(shown), next(shown), *tested] for _, (label, *tested) in group]
        tables.append(Table(f"{METRIC} on {name}{version}", header, rows))
    return tables
