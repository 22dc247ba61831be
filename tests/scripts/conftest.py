"""Running scripts as a user does, in this process."""

import random
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ragcun import IsotropicGaussianEncoder, TextBase
from ragcun.io import read_json
from tests.hub import write_split
from tests.models.helpers import moved

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def run_any(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run ``scripts/<name>.py`` with arguments; return exit code, stdout and stderr."""

    def run(name: str, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [f"{Path(name).name}.py", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            runpy.run_path(str(SCRIPTS / f"{name}.py"), run_name="__main__")
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def run_script(run_any: Callable[..., tuple[int, str, str]]) -> Callable[..., str]:
    """Run a script that has to succeed; return what it prints."""

    def run(name: str, *arguments: object) -> str:
        code, out, err = run_any(name, *arguments)
        assert code == 0, err
        return out

    return run


@pytest.fixture
def fails_clearly(run_any: Callable[..., tuple[int, str, str]]) -> Callable[..., str]:
    """Run a script that has to fail: exit code 2, one sentence as the last line of stderr; return that sentence."""

    def run(name: str, *arguments: object) -> str:
        code, out, err = run_any(name, *arguments)
        last = err.strip().splitlines()[-1]
        assert code == 2, out + err
        assert "Traceback" not in err
        assert last.startswith(f"{Path(name).name}.py: error: "), err
        return last

    return run


@pytest.fixture
def evaluate(run_script: Callable[..., str], collection_folder: Path, tmp_path: Path) -> Callable[..., Any]:
    """Evaluate, on the toy collection where flags name no other; return the results, and what is printed."""

    def run(*flags: object, output: str | Path = "r.json") -> tuple[dict[str, Any], str]:
        place = ("--datasets", "toy", "--data_dir", collection_folder.parent, "--output_file", tmp_path / output)
        shown = run_script("evaluate_beir", "--device", "cpu", *place, *flags)
        return read_json(tmp_path / output), shown

    return run


@pytest.fixture(scope="session")
def save_checkpoint(tiny_bert: str) -> Callable[[Path, int], Path]:
    """Save an encoder whose head has moved away from the identity, at random."""

    def save(folder: Path, seed: int) -> Path:
        encoder = IsotropicGaussianEncoder(TextBase.load(tiny_bert, device="cpu"), head="mlp", use_predictor=True)
        moved(encoder, seed=seed).save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def checkpoint(save_checkpoint: Callable[[Path, int], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a checkpoint; to be read only."""
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint") / "best_model", 1)


def sentence(draw):
    # most are in the vocabulary of the tiny BERT
    words = ("word1", "word2", "Größe", "word3", "word4", "word5", "東京")
    return " ".join(draw.choice(words) for _ in range(8)).capitalize()


@pytest.fixture(scope="session")
def data_sets(tmp_path_factory):
    """Two folders as the hub has them, each with a card and a subset: ``marco`` and ``wiki``."""
    root, draw = tmp_path_factory.mktemp("hub"), random.Random(0)
    marco = []
    for number in range(120):
        texts = [f"{sentence(draw)} {number} {i}." for i in range(4)]
        fields = {"is_selected": [0, int(number % 6 > 0), 0, 0], "passage_text": texts, "url": ["u"] * 4}
        query = " ".join(texts[1].split()[:3]) + f" {number}"
        marco.append({"query": query, "query_id": number, "answers": ["a"], "passages": fields})
    wiki = []
    for number in range(120):
        text = "\n\n".join(f"{sentence(draw)} {number}." for _ in range(4))
        wiki.append({"id": str(number), "url": "u", "title": f"Über {number}", "text": text})
    for name, subset, rows in (("marco", "v1.1", marco), ("wiki", "20231101.en", wiki)):
        write_split(root / name / subset, rows, 3)
        files = f"  data_files:\n  - split: train\n    path: {subset}/train-*\n"
        card = f"---\nconfigs:\n- config_name: {subset}\n{files}---\n# Card\n"
        (root / name / "README.md").write_text(card)
    return root
