"""The package as a whole: cheap to import, complete, and quiet."""

import ast
import json
import os
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import ragcun
from ragcun.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(Path(ragcun.__file__).parent.rglob("*.py"))
HEAVY = ("torch", "numpy", "scipy", "transformers", "sentence_transformers", "faiss", "bm25s", "accelerate", "yaml")


START = """
import json, sys
import ragcun
from ragcun.cli.main import main
for words in (["--help"], ["download", "--help"], *([*name, "--help"] for name in json.loads(sys.argv[1]))):
    try:
        main(words)
    except SystemExit:
        pass
sys.stderr.write(json.dumps(sorted(sys.modules)))
"""


LIGHT = [name for name in COMMANDS if name not in ("train", "prepare", "download msmarco")]


@pytest.mark.parametrize(("names", "left_out"), [(LIGHT, HEAVY), (["prepare", "download msmarco"], ["torch"])])
def test_importing_and_help_are_cheap(names: list[str], left_out: list[str]) -> None:
    """Only the choices of train, and of mining negatives, are read beside what they name."""
    command = [sys.executable, "-c", START, json.dumps([name.split() for name in names])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"usage: ragcun {names[0]}" in done.stdout
    assert not set(left_out) & set(json.loads(done.stderr))


@pytest.mark.parametrize(
    ("given", "count"), [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)]
)
def test_threads_spin_for_less_unless_the_user_says_how_they_wait(given: dict[str, str], count: str | None) -> None:
    kept = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    command = [sys.executable, "-c", "import ragcun, os; print(os.environ.get('GOMP_SPINCOUNT'))"]
    done = subprocess.run(command, env=kept | given, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(count)


def test_the_lower_ends_of_ranges_are_the_versions_of_the_tests_with_the_oldest() -> None:
    """Of all that is required, and of the extras that those tests use."""
    text = (ROOT / "pyproject.toml").read_text()
    lower = dict(re.findall(r'"([\w-]+)>=([\d.]+),<', text.partition("dev = [")[0]))
    oldest = dict(re.findall(r"^([\w-]+)==([\d.]+)$", (ROOT / "requirements-min.txt").read_text(), re.MULTILINE))
    required = re.findall(r'"([\w-]+)>=', text.partition("\ndependencies = [")[2].partition("\n]")[0])
    assert {name: lower[name] for name in oldest} == oldest
    assert oldest.keys() >= set(required)


def test_every_public_name_is_there() -> None:
    for name in ragcun.__all__:
        value = getattr(ragcun, name)
        assert name == "__version__" or callable(value)
    assert set(ragcun._HOME) | {"__version__"} == set(ragcun.__all__)
    assert set(dir(ragcun)) == set(ragcun.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ragcun.nothing
    assert not hasattr(ragcun, "torch")


def test_no_file_is_over_300_lines() -> None:
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {name: length for name, length in lengths.items() if length > 300} == {}


def test_imports_run_in_no_circle() -> None:
    """Neither at the top of modules nor inside functions nor for types alone."""
    root = Path(ragcun.__file__).parent.parent
    parts = {path: path.relative_to(root).with_suffix("").parts for path in SOURCES}
    modules = {".".join(names).removesuffix(".__init__"): path for path, names in parts.items()}
    imports: dict[str, set[str]] = {}
    for module, path in modules.items():
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        names = [(f"{node.module}.{each.name}", str(node.module)) for node in nodes for each in node.names]
        found = {whole if whole in modules else home for whole, home in names}
        imports[module] = (found & modules.keys()) - {module, "ragcun"}
    assert list(TopologicalSorter(imports).static_order())
