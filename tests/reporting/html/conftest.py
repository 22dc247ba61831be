"""Run folders made by hand, measured by the library itself: results and run files are those of `run_benchmark`."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml

from ragcun.data.beir import Document, load_collection, write_collection
from ragcun.data.overlap import SEEN, text_hashes
from ragcun.io import write_json, write_json_lines, write_text
from ragcun.reporting.html import write_report
from ragcun.retrieval.benchmark import run_benchmark
from ragcun.retrieval.systems import System
from tests.reporting.conftest import isotropy_report, measured
from tests.retrieval.conftest import Ranking

N_QUERIES, N_DOCUMENTS = 40, 60
HOSTILE = (
    '<script>alert("x")</script><img src=x onerror=alert(1)> </pre></style>{{ 7919 * 7907 }} & \u202eabc\u2066 \x07'
)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> Path:
    """Folder of two collections; texts of the first are hostile."""
    folder = tmp_path_factory.mktemp("data")
    for name, text in (("hostile", HOSTILE), ("plain", "a text")):
        documents = {
            f"d{i}": Document(f"title {i} {text}", f"{text} number {i} " + "word " * 200) for i in range(N_DOCUMENTS)
        }
        queries = {f"q{i}": f"what is number {i}? {text}" for i in range(N_QUERIES)}
        write_collection(folder / name, documents, queries, {"test": {f"q{i}": {f"d{i}": 2} for i in range(N_QUERIES)}})
    return folder


def write_run_folder(folder: Path, **settings: Any) -> Path:
    """Write what ``train.py`` leaves, without weights."""
    config = {"train_data": "data/a", "system": "asymmetric", "base_model": "minilm", "freeze_base": True, "seed": 3}
    config |= {"head": "linear", "head_init": None, "output_dir": str(folder)} | settings
    write_text(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    result = {"best_epoch": 2, "criterion": "dev NDCG@10", "score": 0.7, "base_score": 0.6, "steps": 6, "seconds": 1.5}
    manifest = {
        "command": "scripts/train.py --seed 3", "git_commit": "a" * 40, "git_dirty": True, "python": "3.11.1",
        "platform": "Linux", "device": "cpu", "packages": {"torch": "2.13.0"}, "started": "2026-01-01T00:00:00+00:00",
        "seed": 3, "data_sha256": {"train": "b" * 64}, "base_fingerprint": "c" * 64, "status": "finished",
        "result": result | {"comparison": None}, "never_worse": None,
    }  # fmt: skip
    write_json(folder / "manifest.json", manifest)
    probe = {"rank_query": 9.0, "rank_document": 8.0, "rank_bound": 16.0}
    rows: list[dict[str, Any]] = [{"kind": "base", "dev": {"NDCG@10": 0.6}}]
    rows += [{"kind": "probe", "epoch": 0, "step": step, "figures": probe, "model": {}} for step in (0, 3, 6)]
    rows += [{"kind": "step", "step": i, "total": 1 / i, "terms": {"contrastive": 1 / i}} for i in range(1, 7)]
    rows += [{"kind": "epoch", "epoch": i, "step": 3 * i, "dev": {"NDCG@10": 0.6 + i / 20}} for i in range(3)]
    write_json_lines(folder / "metrics.jsonl", rows)
    return folder


def evaluate(run, data_dir, names=("hostile", "plain"), ranks=((3, 1, 0), (0, 1, 4)), seen=0, output=None):
    """Evaluate rankings as the run's base and its checkpoint, of which `seen` documents were training positives."""
    model, output = run / "best_model", output or run / "results.json"
    collections = [load_collection(data_dir / name) for name in names]
    if seen:
        documents = list(collections[0].documents.values())[:seen]
        write_json(model / SEEN, sorted(text_hashes(document.content for document in documents)))
    base, found = Ranking("minilm", ranks[0]), Ranking(str(model), ranks[1])
    bm25 = System(Ranking("bm25", [5]), "bm25")
    run_benchmark(System(found, "euclidean", base), [bm25], collections, output, {"data_dir": str(data_dir)})
    return json.loads(output.read_text())


def write_isotropy(path: Path, *models: str, judged: bool = True) -> Path:
    """Write an ``isotropy.json`` of an untouched base and of `models`, with a measure that no table knows."""
    systems = [measured("minilm", np.linspace(1, 3, 8), untouched=True, judged=judged, n=50)]
    systems += [measured(model, np.linspace(1, 3, 8), judged=judged, n=50) for model in models]
    report = isotropy_report(*systems, data="plain")
    for number, system in enumerate(report["systems"]):
        measures = system["spaces"]["documents"]["measures"]
        measures["a_new_measure"] = {"value": number + 0.5, "low": None, "high": None, "n": 40, "isotropic": None}
        measures["effective_rank"] = {"value": 6.25, "low": 5.5, "high": 6.75, "n": 50, "isotropic": 7.875}
        measures["condition_number"] = {"value": None, "low": None, "high": None, "n": 50, "isotropic": None}
    write_json(path, report)
    return path


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory, data_dir) -> Path:
    """A run with everything: results on two collections, seen queries, isotropy. Tests do not write to it."""
    run = write_run_folder(tmp_path_factory.mktemp("runs") / "whole")
    evaluate(run, data_dir, seen=25)
    write_isotropy(run / "isotropy" / "isotropy.json", str(run / "best_model"))
    return run


@pytest.fixture(scope="session")
def whole_page(whole_run, tmp_path_factory) -> Path:
    """The page about `whole_run`."""
    return write_report([whole_run], tmp_path_factory.mktemp("pages") / "page.html")


@pytest.fixture
def make_run(tmp_path) -> Callable[..., Path]:
    """Write a run folder without results."""
    return lambda name="run", **settings: write_run_folder(tmp_path / name, **settings)


class Page:
    """The elements of a page, which has to be well-formed XML as well, and the text that a reader sees."""

    def __init__(self, path: Path) -> None:
        self.root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
        self.elements = [(element.tag, element.attrib) for element in self.root.iter()]
        self.text = " ".join(" ".join(self.root.find("body").itertext()).split())

    def all(self, tag: str) -> list[dict[str, str]]:
        """Return the attributes of each element of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def browser():
    """A Chromium of this machine, closed with the module, as it holds an event loop; skips where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no browser here: install chromium or google-chrome")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()
