"""The package as a whole: cheap to import, complete, and quiet."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import ragcun

SOURCES = sorted(Path(ragcun.__file__).parent.rglob("*.py"))
HEAVY = ("torch", "numpy", "scipy", "transformers", "sentence_transformers", "faiss", "bm25s", "accelerate", "yaml")


def test_importing_is_cheap() -> None:
    code = (
        "import sys, json, ragcun, ragcun.cli.parser, ragcun.errors, ragcun.io; print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(HEAVY) & set(json.loads(done.stdout))


def test_every_public_name_is_there() -> None:
    for name in ragcun.__all__:
        value = getattr(ragcun, name)
        assert name == "__version__" or callable(value)
    assert set(ragcun._HOME) | {"__version__"} == set(ragcun.__all__)
    assert set(dir(ragcun)) == set(ragcun.__all__)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ragcun.nothing
    assert not hasattr(ragcun, "torch")


def test_no_file_is_over_300_lines() -> None:
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {name: length for name, length in lengths.items() if length > 300} == {}


def test_imports_run_in_no_circle() -> None:
    root = Path(ragcun.__file__).parent.parent
    modules = {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in SOURCES
    }
    imports: dict[str, set[str]] = {}
    for module, path in modules.items():
        nodes = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.ImportFrom)]
        names = [(f"{node.module}.{each.name}", str(node.module)) for node in nodes for each in node.names]
        imports[module] = {whole if whole in modules else home for whole, home in names} & modules.keys() - {module}
    assert list(TopologicalSorter(imports).static_order())
