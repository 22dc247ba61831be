"""A set that is made of parts (CQADupStack's forums): each part counts the same, whatever its number of queries."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from ragcun.retrieval.comparison import MODEL, Figures, Measured, figures_of_tests


def whole(parts: Mapping[str, Measured], seed: int) -> Measured:
    """Return what came of a set, from what came of each of its parts, by name.

    A metric is the mean over parts of the means over their queries. Its difference between two systems is
    ``Σ_parts Σ_queries d_q / (P · n_part)``, a sum of queries' differences with weights, so its randomisation test
    flips the sign of each query's difference. A t-test, which knows no weights, is not given. Figures on a part of the
    queries or documents (``seen``, ``held_out``) are the parts' alone.

    Raises:
        ValueError: there are no parts.
    """
    if not parts:
        raise ValueError("a set must have at least 1 part, got 0")
    each = list(parts.values())
    figures = {slug: _means([part.figures[slug] for part in each]) for slug in each[0].figures}
    total = sum(len(part.tested[MODEL]) for part in each)
    weighted = {slug: _weighted({name: part.tested[slug] for name, part in parts.items()}) for slug in figures}
    for slug, values in figures.items():
        values["n_queries"] = total
        if slug != MODEL:
            values |= figures_of_tests(weighted[MODEL], weighted[slug], seed)
            values.pop("p_t", None)
    sums = {count: sum(part.about[count] for part in each) for count in ("queries", "documents")}
    digest = hashlib.sha256("".join(part.about["sha256"] for part in each).encode()).hexdigest()
    about: dict[str, Any] = {"split": each[0].about["split"], **sums, "sha256": digest}
    return Measured(about, figures, weighted)


def set_of(name: str) -> str:
    """Return the set that a collection belongs to, itself or another one.

    >>> set_of("scifact"), set_of("cqadupstack/android")
    ('scifact', 'cqadupstack')
    """
    return name.partition("/")[0]


def _means(figures: Sequence[Figures]) -> Figures:
    return {metric: fmean(each[metric] for each in figures) for metric in figures[0] if "@" in metric}


def _weighted(parts: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return all queries' values, weighted so that their plain mean is the mean over parts of the parts' means."""
    total = sum(len(values) for values in parts.values())
    return {
        f"{name} {query}": value * total / (len(parts) * len(values))
        for name, values in parts.items()
        for query, value in values.items()
    }
