"""Evaluations by the script, and folders as the hub has them."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ragcun.io import read_json
from tests.hub import write_split


@pytest.fixture
def evaluate(run_script: Callable[..., str], collection_folder: Path, tmp_path: Path) -> Callable[..., Any]:
    """Evaluate, on the toy collection where flags name no other; return the results, and what is printed."""

    def run(*flags: object, output: str | Path = "r.json") -> tuple[dict[str, Any], str]:
        place = ("--datasets", "toy", "--data_dir", collection_folder.parent, "--output_file", tmp_path / output)
        shown = run_script("evaluate_beir", "--device", "cpu", *place, *flags)
        return read_json(tmp_path / output), shown

    return run


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
