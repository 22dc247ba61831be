"""Reading isotropy.json: the measures and distributions of systems' embeddings."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ragcun.errors import InputError
from ragcun.io import read_json

FORMAT = 1
AGAIN = "write it again with compute_isotropy.py"
Number = (int, float)
Maybe = (int, float, type(None))
Form = Any
"""A type or types, a list with the form of its items, or a mapping of the keys that have to be there to their forms."""

DISTRIBUTION: Form = {"mean": Number, "min": Number, "max": Number, "edges": [Number], "counts": [Number]}
SPACE: Form = {
    "n": int, "dim": int, "measures": dict, "spectrum": [Number], "norms": DISTRIBUTION,
    "distances": {"random": DISTRIBUTION, "nearest": DISTRIBUTION},
    "k_occurrence": {"k": int, "n": int, "counts": dict},
}  # fmt: skip
MEASURE: Form = {"value": Maybe, "low": Maybe, "high": Maybe}
PAIRS: Form = {
    "measures": dict,
    "distances": {"relevant": DISTRIBUTION, "random": DISTRIBUTION},
    "pca": {"queries": [[Number]], "documents": [[Number]], "links": [[int]], "explained": [Number]},
}
SYSTEM: Form = {"model": str, "untouched": bool, "spaces": {"documents": SPACE}}
REPORT: Form = {"format": int, "data": {"name": str}, "systems": [SYSTEM]}


def read_isotropy(path: str | Path) -> dict[str, Any]:
    """Read an ``isotropy.json`` and check that what figures are drawn from is there.

    Raises:
        InputError: the file is missing, is no such report (with the key), or holds no system.
    """
    report = read_json(path)
    if not isinstance(report, dict) or report.get("format") != FORMAT:
        raise InputError(f"{path} is not an isotropy report of format {FORMAT} ('format'); {AGAIN}")
    _check(report, REPORT, str(path), "")
    if not report["systems"]:
        raise InputError(f"{path}: 'systems' is empty; {AGAIN}")
    for number, system in enumerate(report["systems"]):
        place = f"systems[{number}]"
        for name, space in system["spaces"].items():
            _check_measured(space, SPACE, str(path), f"{place}.spaces.{name}")
        if "pairs" in system:
            _check_measured(system["pairs"], PAIRS, str(path), f"{place}.pairs")
    return report


def _check_measured(value: Any, form: Form, path: str, place: str) -> None:
    _check(value, form, path, place)
    for name, measure in value["measures"].items():
        _check(measure, MEASURE, path, f"{place}.measures.{name}")


def _check(value: Any, form: Form, path: str, place: str) -> None:
    """Compare a value with its form, all the way down."""
    if isinstance(form, dict):
        _check_type(value, dict, path, place)
        for key, below in form.items():
            if key not in value:
                raise InputError(f"{path}: {place or 'the report'} lacks {key!r}; {AGAIN}")
            _check(value[key], below, path, f"{place}.{key}".lstrip("."))
    elif isinstance(form, list):
        _check_type(value, list, path, place)
        for number, item in enumerate(value):
            _check(item, form[0], path, f"{place}[{number}]")
    else:
        _check_type(value, form, path, place)
    if form is DISTRIBUTION and len(value["edges"]) != len(value["counts"]) + 1:
        sizes = f"{len(value['edges'])} edges for {len(value['counts'])} counts"
        raise InputError(f"{path}: {place} has {sizes}, where one more is expected; {AGAIN}")


def _check_type(value: Any, form: type | tuple[type, ...], path: str, place: str) -> None:
    if not isinstance(value, form) or (isinstance(value, bool) and form is not bool):
        kinds = " or ".join(kind.__name__ for kind in (form if isinstance(form, tuple) else (form,)))
        raise InputError(f"{path}: {place} is {type(value).__name__} where {kinds} is expected; {AGAIN}")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{path}: {place} is {value} where a finite number is expected; {AGAIN}")
