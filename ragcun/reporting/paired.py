"""The p-value of a model's difference from its untouched base, from results or the per-query values beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import fmean

from ragcun.errors import InputError
from ragcun.io import read_json
from ragcun.reporting.results_files import ResultsFile
from ragcun.reporting.tables import METRIC, part_of
from ragcun.retrieval.runs import runs_folder

SAME = 1e-6
"""How far two figures of one system may differ and still be the same."""


def p_against_base(file: ResultsFile, dataset: str, metric: str) -> float | None:
    """Return the two-sided p-value of the paired randomisation test of the model against its untouched base.

    The results file has it for one metric (``manifest.tested``, NDCG@10). For others it is computed here by the same
    test and seed from ``<name>.runs/<dataset>/{model,untouched_base}.per_query.json``.

    Returns:
        None where nothing can be tested: no untouched base, one query, or no per-query files.

    Raises:
        InputError: the p-value is missing or impossible, or per-query files do not belong to the results.
    """
    base = file.content["untouched_base"]
    if base is None or dataset not in base["datasets"] or base["datasets"][dataset].get("n_queries") == 1:
        return None
    manifest = file.content["manifest"]
    if metric == manifest.get("tested", METRIC):
        figures = base["datasets"][dataset]
        p = part_of(figures, "p_randomisation", f"{file.path}: the figures of untouched_base on {dataset}")
        if isinstance(p, bool) or not isinstance(p, (int, float)) or not 0 <= p <= 1:
            raise InputError(
                f"{file.path}: p_randomisation of untouched_base on {dataset} is {p!r:.60}; evaluate again"
            )
        return float(p)
    folder = runs_folder(file.path) / dataset
    if not all((folder / f"{slug}.per_query.json").is_file() for slug in ("model", "untouched_base")):
        return None
    from ragcun.retrieval.significance import paired_tests

    ours, theirs = (_per_query(file, dataset, slug, metric) for slug in ("model", "untouched_base"))
    try:
        return paired_tests(ours, theirs, seed=manifest.get("seed", 0)).p_randomisation
    except ValueError as error:
        raise InputError(f"{folder}: {metric} of model and untouched base: {error}; evaluate again") from error


def _per_query(file: ResultsFile, dataset: str, slug: str, metric: str) -> Mapping[str, float]:
    """Read the values of a metric by query; their mean must be the figure in the results file."""
    path = runs_folder(file.path) / dataset / f"{slug}.per_query.json"
    content = read_json(path)
    values = content.get(metric) if isinstance(content, dict) else None
    if not isinstance(values, dict) or not all(isinstance(value, (int, float)) for value in values.values()):
        raise InputError(f"{path} lacks {metric} by query; evaluate again")
    system = file.content if slug == "model" else file.content["untouched_base"]
    shown = file.value(system["datasets"][dataset], metric, f"{slug} on {dataset}")
    if not values or not math.isclose(fmean(values.values()), shown, rel_tol=0, abs_tol=SAME):
        raise InputError(f"{path} is not of {file.path}: its mean {metric} is another one; evaluate again")
    return values
