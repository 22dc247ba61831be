"""The package as a whole: cheap to import, complete, and quiet."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
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


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_sources_keep_the_house_rules(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {"print", "eval", "exec", "input"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in names, node.lineno
        if isinstance(node, ast.ExceptHandler):
            caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            broad = {each.id for each in caught if isinstance(each, ast.Name)} & {"Exception", "BaseException"}
            assert node.type is not None, node.lineno
            assert not broad, node.lineno
        if isinstance(node, ast.Import):
            assert not {alias.name for alias in node.names} & {"pickle", "dill", "joblib"}, node.lineno
    assert ast.get_docstring(tree)
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300
