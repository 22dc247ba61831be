"""The publication scripts: their commands as bash makes them, run on a tiny model, and wrong options."""

import contextlib
import functools
import io
import json
import os
import runpy
import string
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ragcun import isotropy
from tests.conftest import save_tiny_bert

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = ("baseline", "isotropy", "frozen")
RECORDER = '#!/usr/bin/env bash\n(IFS=$\'\\x1f\'; echo "$*") >>"$RECORDED"\n'
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the scripts are for bash")


def run(script: str, *options: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(ROOT / "scripts" / script), *map(str, options)]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny BERT with letters as its vocabulary, which tell documents of Python apart."""
    letters = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    words = [*letters, *(f"##{letter}" for letter in letters)]
    return save_tiny_bert(tmp_path_factory.mktemp("base") / "model", words=words)


@pytest.fixture(scope="module")
def chain(base: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """What the smoke chain leaves, and what its last command prints.

    Bash calls an interpreter that notes its arguments; what it notes is then run here, in one process, on a tiny base.
    """
    place = tmp_path_factory.mktemp("publication")
    python, recorded, root = place / "python", place / "recorded", place / "smoke"
    python.write_text(RECORDER)
    python.chmod(0o755)
    for script in ("train_publication_recommended.sh", "evaluate_all_beir.sh"):
        done = run(script, "--smoke", "--root", root, PYTHON=str(python), RECORDED=str(recorded))
        assert done.returncode == 0, done.stderr
    shown = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(isotropy, "MeasureSettings", functools.partial(isotropy.MeasureSettings, groups=5))  # not 50
        for line in recorded.read_text().splitlines():
            patch.setattr(sys, "argv", [base if word == "minilm" else word for word in line.split("\x1f")])
            with contextlib.redirect_stdout(io.StringIO()) as shown:
                runpy.run_path(sys.argv[0], run_name="__main__")
    return root, shown.getvalue()


@pytest.mark.slow
def test_the_chain_ends_with_tables_that_show_the_untouched_base(chain: tuple[Path, str], base: str) -> None:
    root, printed = chain
    for name in EXPERIMENTS:
        results = json.loads((root / "results" / "publication" / f"{name}.json").read_text())
        assert results["untouched_base"]["model"] == base
        assert list(results["baselines"]) == ["bm25"]
        assert results["manifest"]["collections"]["python_docs"]["documents"] == 100
        isotropy = json.loads((root / "checkpoints" / f"publication_{name}" / "isotropy" / "isotropy.json").read_text())
        assert [system["untouched"] for system in isotropy["systems"]] == [True, False]
        assert f"publication_{name}" in printed
    assert "(untouched)" in printed
    assert all((root / "paper" / f"results_table.{suffix}").stat().st_size for suffix in ("tex", "md", "csv"))
    assert (root / "results" / "publication" / "report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_the_three_differ_in_what_they_are_meant_to_differ_in(chain: tuple[Path, str]) -> None:
    folders = [chain[0] / "checkpoints" / f"publication_{name}" for name in EXPERIMENTS]
    configs = [yaml.safe_load((folder / "config.yaml").read_text()) for folder in folders]
    assert [config["lambda_isotropy"] for config in configs] == [0.0, 1.0, 1.0]
    assert [config["freeze_base"] for config in configs] == [False, False, True]
    differing = {name for name in configs[0] if len({str(config[name]) for config in configs}) > 1}
    assert differing <= {"lambda_isotropy", "freeze_base", "output_dir", "base_learning_rate"}


@pytest.mark.parametrize("script", ["train_publication_recommended.sh", "evaluate_all_beir.sh"])
def test_an_unknown_option_is_named(script: str) -> None:
    done = run(script, "--smok", PYTHON="false")
    assert done.returncode == 2
    assert "--smok" in done.stderr
    assert "--root" in done.stderr
