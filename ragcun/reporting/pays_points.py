"""Systems of which both are known: how isotropic their embeddings are, and how well they retrieve."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ragcun.errors import InputError
from ragcun.reporting.isotropy_file import read_isotropy
from ragcun.reporting.results_files import check_alike, read_results
from ragcun.reporting.tables import METRIC, all_systems
from ragcun.retrieval.quantization import titled

logger = logging.getLogger(__name__)

PAIRS = "pairs"
SAME = 1e-6
Place = tuple[str, str]
"""A model and a dataset. A folder has its full path here, so that it is the same one however it was written."""


@dataclass(frozen=True)
class Measured:
    """A measure of one system's embeddings of one dataset.

    Attributes:
        model: its name in the isotropy report.
        value: of the measure.
        low: lower end of its 95 % interval, None where it has none.
        high: upper end.
        untouched: whether this is the model as published.
    """

    model: str
    value: float
    low: float | None
    high: float | None
    untouched: bool


@dataclass(frozen=True)
class Point:
    """One system on one dataset: its measure and its NDCG@10."""

    dataset: str
    measured: Measured
    ndcg: float
    untouched: bool


def read_points(results: Sequence[str | Path], isotropy: Sequence[str | Path], measure: str, space: str) -> list[Point]:
    """Join results files and isotropy reports by the names of model and dataset.

    Vectors made small are left out, as reports measure full ones.

    Args:
        results: results files of ``evaluate_beir.py``.
        isotropy: files ``isotropy.json``.
        measure: name of the measure in the reports.
        space: ``documents``, ``queries`` or ``together``, or ``pairs`` for a measure of queries and their documents.

    Raises:
        InputError: a file is missing or of another kind, two disagree, the measure is unknown, or no system stands on
            both sides.
    """
    scores, bases = _read_scores(results)
    measured = _read_measured(isotropy, measure, space)
    both = [place for place in measured if place in scores]
    if not both:
        raise InputError(
            f"no system has both {METRIC} and {measure} of {space}: the results are of {_listed(scores)}, the isotropy "
            f"reports of {_listed(measured)}; give files of the same models and datasets"
        )
    if left := [place for place in {**scores, **measured} if place not in both]:
        logger.info("not drawn, as only one side has it: %s", _listed(left))
    return [
        Point(place[1], measured[place], scores[place], measured[place].untouched or place[0] in bases)
        for place in both
    ]


def _read_scores(paths: Sequence[str | Path]) -> tuple[dict[Place, float], set[str]]:
    """Return NDCG@10 of every system with vectors of full size, and which models are untouched bases."""
    files = [read_results(path) for path in paths]
    check_alike(files, METRIC)
    found: list[tuple[Place, float, str]] = []
    bases = set()
    for file in files:
        for title, system in all_systems(file.content):
            model = _identity(system["model"])
            if system is file.content["untouched_base"]:
                bases.add(model)
            for dataset, figures in system["datasets"].items() if titled("", system) == "" else ():
                found.append(((model, dataset), file.value(figures, METRIC, title), str(file.path)))
    return _once(found, METRIC), bases


def _read_measured(paths: Sequence[str | Path], measure: str, space: str) -> dict[Place, Measured]:
    """Return the measure of every system that has it."""
    found: list[tuple[Place, float, str]] = []
    measured: dict[Place, Measured] = {}
    names: set[str] = set()
    for path in paths:
        report = read_isotropy(path)
        for system in report["systems"]:
            measures = _measures(system, space)
            names |= measures.keys()
            entry = measures.get(measure)
            if entry is None or entry["value"] is None:
                continue
            place = _identity(system["model"]), report["data"]["name"]
            value = Measured(system["model"], entry["value"], entry["low"], entry["high"], system["untouched"])
            found.append((place, value.value, str(path)))
            measured.setdefault(place, value)
    if not names:
        raise InputError(f"no system in {', '.join(map(str, paths))} has measures of {space}; measure with queries")
    if measure not in names:
        near = difflib.get_close_matches(measure, sorted(names), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"possible are {', '.join(sorted(names))}"
        raise InputError(f"unknown measure {measure!r} of {space}; {hint}")
    _once(found, f"{measure} of {space}")
    return measured


def _measures(system: Mapping[str, Any], space: str) -> Mapping[str, Any]:
    block = system if space == PAIRS else system["spaces"]
    return block.get(space, {}).get("measures", {})


def _once(found: Iterable[tuple[Place, float, str]], what: str) -> dict[Place, float]:
    """Return one value for each place; where two files differ on one, say so."""
    first: dict[Place, tuple[float, str]] = {}
    for place, value, source in found:
        known, origin = first.setdefault(place, (value, source))
        if abs(known - value) > SAME * max(1.0, abs(known)):
            raise InputError(
                f"{origin} and {source} disagree on {what} of {place[0]} on {place[1]} "
                f"({known:.6g} and {value:.6g}); leave one out"
            )
    return {place: value for place, (value, _) in first.items()}


def _identity(model: str) -> str:
    return str(Path(model).resolve()) if Path(model).exists() else model


def _listed(places: Iterable[Place]) -> str:
    return ", ".join(f"{model} on {dataset}" for model, dataset in places) or "nothing"
