"""The form of a results file: what stands where, so that tables can rely on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from ragcun.data.beir_sets import PART_OF
from ragcun.errors import InputError

SIDES = ("seen", "unseen", "held_out")
COUNTS = ("n_queries", "n_documents")
LARGEST = 1e300
"""Whole numbers in JSON may be larger than a float can be, and beyond it the limits of an axis overflow."""


def check_form(content: Mapping[str, Any], path: str | Path) -> None:
    """Check the parts of a results file that tables read; the figures themselves are checked where they are used.

    Raises:
        InputError: a part has another form than ``evaluate_beir.py`` gives it.
    """
    base, baselines, manifest = content["untouched_base"], content["baselines"], content.get("manifest")
    _require(isinstance(baselines, dict), path, "baselines", baselines)
    _require(isinstance(manifest, dict), path, "manifest", manifest)
    for slug, system in {
        "the model": content,
        **({} if base is None else {"untouched_base": base}),
        **baselines,
    }.items():
        _require(isinstance(system, dict), path, slug, system)
        _check_system(system, slug, path)
    collections = content["manifest"].get("collections", {})
    _require(isinstance(collections, dict), path, "collections", collections)
    for name, about in collections.items():
        _require(isinstance(about, dict), path, f"collection {name!r:.60}", about)
        whole = about.get(PART_OF)
        _require(whole is None or (isinstance(whole, str) and whole in content["datasets"]), path, PART_OF, whole)
        _require(isinstance(about.get("split", ""), str), path, "split", about.get("split"))


def _check_system(system: Mapping[str, Any], slug: str, path: str | Path) -> None:
    for key in ("model", "datasets"):
        if key not in system:
            raise InputError(f"{path}: {slug} lacks {key!r}; evaluate again")
    _require(isinstance(system["model"], str), path, f"model of {slug}", system["model"])
    figures, average = system["datasets"], system.get("average", {})
    _require(isinstance(figures, dict), path, f"datasets of {slug}", figures)
    for name, each in {**figures, "average": average}.items():
        _require(isinstance(each, dict), path, f"{name!r:.60} of {slug}", each)
        for block in (each, *(each[side] for side in SIDES if side in each)):
            _require(isinstance(block, dict), path, f"a part of {name!r:.60} of {slug}", block)
            for count in COUNTS:
                _require(is_count(block.get(count, 0)), path, f"{count} of {name!r:.60} of {slug}", block.get(count))
    precision, cut = system.get("precision", ""), system.get("truncate_dim")
    _require(isinstance(precision, str), path, f"precision of {slug}", precision)
    _require(cut is None or is_count(cut), path, f"truncate_dim of {slug}", cut)
    _require(is_count(system.get("bytes_per_vector", 0)), path, "bytes_per_vector", system.get("bytes_per_vector"))


def is_count(value: Any) -> bool:
    """Tell whether a value of a JSON file is a count that arithmetic can hold."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def is_number(value: Any) -> TypeGuard[float]:
    """Tell whether a value of a JSON file is a number that a float, and a plot's axis, can hold."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and not abs(value) > LARGEST


def _require(fits: bool, path: str | Path, what: str, value: Any) -> None:
    if not fits:
        raise InputError(f"{path}: {what} is {value!r:.60}, which evaluate_beir.py does not write; evaluate again")
