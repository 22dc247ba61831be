"""Results files and isotropy reports made by hand, as the benchmark writes them."""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from ragcun.isotropy import MeasureSettings
from ragcun.isotropy.report import IsotropyReport, SystemReport, measure_system

SIZES = {"scifact": (300, 5183), "nfcorpus": (323, 3633), "cranfield": (225, 1400)}
BASE = {"scifact": 0.645, "nfcorpus": 0.316, "cranfield": 0.395}


def system(name: str, values: Mapping[str, float], p: float | None = None, **record: Any) -> dict[str, Any]:
    """Return one system's part of a results file: its NDCG@10 by dataset, tested where `p` is given."""
    tests = {} if p is None else {"n_queries": 300, "mean_difference": 0.1, "p_randomisation": p, "p_t": p}
    datasets = {dataset: {"NDCG@10": value, **tests} for dataset, value in values.items()}
    average = sum(values.values()) / len(values) if values else 0.0
    return {"model": name, **record, "datasets": datasets, "average": {"NDCG@10": average}}


def about(name: str, digest: str = "a") -> dict[str, Any]:
    """Return what a results file says of a collection."""
    queries, documents = SIZES.get(name, (300, 5000))
    return {"split": "test", "queries": queries, "documents": documents, "sha256": f"{name}-{digest}"}


def results(
    model: str,
    values: Mapping[str, float],
    base: str | None = "minilm",
    p: float = 0.2,
    base_values: Mapping[str, float] = BASE,
    baselines: tuple[dict[str, Any], ...] = (),
    distance: str = "euclidean",
    **manifest: Any,
) -> dict[str, Any]:
    """Return the content of a results file; `base` None is a model without one beside it."""
    before = {name: base_values.get(name, 0.5) for name in values}
    return {
        **system(model, values),
        "distance": distance,
        "untouched_base": None if base is None else system(base, before, p),
        "baselines": {f"b{place}": baseline for place, baseline in enumerate(baselines)},
        "manifest": {"seed": 0, "tested": "NDCG@10", "collections": {name: about(name) for name in values}} | manifest,
    }


def everything() -> dict[str, Any]:
    """Return the content of a results file with all that one can hold."""
    found = results("run/best_model", {"scifact": 0.7, "cqadupstack": 0.4, "cqadupstack/android": 0.4}, data_dir="data")
    found |= {"precision": "int8", "truncate_dim": 128, "bytes_per_vector": 128}
    found["baselines"] = {"bm25": system("bm25", {"scifact": 0.6}, 0.5), "bm25-2": system("bm25", {}, 0.5)}
    found["manifest"]["collections"]["cqadupstack/android"]["part_of"] = "cqadupstack"
    for each, tests in ((found, {}), (found["untouched_base"], {"p_randomisation": 0.01, "mean_difference": 0.2})):
        each["datasets"]["scifact"]["unseen"] = {"n_queries": 104, "NDCG@10": 0.5, **tests}
        each["datasets"]["scifact"]["seen"] = {"n_queries": 0}
        each["datasets"]["scifact"]["held_out"] = {"n_documents": 9, "n_queries": 1, "NDCG@10": 0.5}
    return found


def measured(
    name: str, scales: Any, untouched: bool = False, unit: bool = False, judged: bool = True, n: int = 150
) -> SystemReport:
    """Measure random vectors of `scales` along their axes, of length 1 where `unit` is set."""
    rng = np.random.default_rng(len(name))
    documents = rng.normal(size=(n, len(scales))) * scales
    queries = documents[:30] + 0.5 * rng.normal(size=(30, len(scales))) * scales
    if unit:
        documents, queries = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (documents, queries))
    settings = MeasureSettings(groups=5, k=5)
    if not judged:
        return measure_system(name, documents, untouched=untouched, settings=settings)
    pairs = [(query, query) for query in range(30)]
    return measure_system(name, documents, queries, pairs, untouched=untouched, settings=settings)


def isotropy_report(*systems: SystemReport, data: str = "scifact") -> dict[str, Any]:
    """Return the content of an ``isotropy.json``."""
    n_queries = 0 if systems[0].pairs is None else 30
    return json.loads(json.dumps(IsotropyReport(data, 150, n_queries, list(systems)).to_dict()))


def cells_of(table: str) -> list[list[str]]:
    """Return the cells of a Markdown table, its rule included."""
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]


def legend_of(figure: Figure) -> list[str]:
    """Return the texts of a figure's legend."""
    return [text.get_text() for text in figure.legends[0].get_texts()]


def changed(content: dict[str, Any], path: Sequence[Any], value: Any) -> dict[str, Any]:
    """Return a copy with another value at a path of keys and indices, or without that key for ``...``."""
    *outer, key = path
    whole = inner = copy.deepcopy(content)
    for name in outer:
        inner = inner[name]
    if value is ...:
        del inner[key]
    else:
        inner[key] = value
    return whole


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Write content, or `results` of further arguments, under a name; return the path as text."""

    def to_file(name: str, content: Any, *arguments: Any, **options: Any) -> str:
        whole = results(content, *arguments, **options) if isinstance(content, str) else content
        (tmp_path / name).write_text(json.dumps(whole))
        return str(tmp_path / name)

    return to_file
