"""scripts/evaluate_beir.py on sets of BEIR by name: downloaded, resumed, and CQADupStack's forums."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from ragcun.data.beir_sets import SETS
from ragcun.io import read_json


@pytest.fixture
def mirror(collection_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Make archives of sets from the toy collection, a set for each name, and return their folder's address."""

    def make(*names: str) -> str:
        for name in names:
            folder = tmp_path / "made" / name
            for part in SETS[name].parts or (".",):
                shutil.copytree(collection_folder, folder / part, dirs_exist_ok=True)
            packed = Path(shutil.make_archive(str(tmp_path / "mirror" / name), "zip", tmp_path / "made", name))
            digest = hashlib.md5(packed.read_bytes()).hexdigest()
            monkeypatch.setitem(SETS, name, replace(SETS[name], md5=digest, queries=20))
        return f"file://{tmp_path}/mirror"

    return make


@pytest.fixture
def place(tmp_path: Path) -> tuple[object, ...]:
    """Flags of all sets in the test's folder."""
    return ("--datasets", "all", "--data_dir", tmp_path / "data", "--output_file", tmp_path / "r.json")


def test_sets_are_downloaded_once_and_evaluated(evaluate, fails_clearly, mirror, place, tmp_path):
    """Of MS MARCO by dev, as BEIR does; of CQADupStack each forum, and their mean."""
    names = ("quora", "msmarco", "cqadupstack")
    url, bm25 = mirror(*names), (*place, "--model", "bm25")
    found, _ = evaluate(*bm25, "--datasets", *names, "--mirror", url)
    scores = {name: each["NDCG@10"] for name, each in found["datasets"].items()}
    forums = [f"cqadupstack/{forum}" for forum in SETS["cqadupstack"].parts]
    assert list(scores) == ["quora", "msmarco", *forums, "cqadupstack"]
    assert scores["cqadupstack"] == pytest.approx(fmean(scores[forum] for forum in forums), abs=1e-12)
    assert found["average"]["NDCG@10"] == pytest.approx(fmean(scores[name] for name in names), abs=1e-12)
    assert found["manifest"]["collections"]["msmarco"]["split"] == "dev"
    shutil.rmtree(tmp_path / "mirror")
    fails_clearly("evaluate_beir", *bm25, "--mirror", url)
    found, _ = evaluate(*bm25, "--datasets", "msmarco", "--split", "test")
    assert found["manifest"]["collections"]["msmarco"]["split"] == "test"


@pytest.fixture
def three(collection_folder: Path, tmp_path: Path) -> Path:
    """A folder of the collections a, b and c."""
    for name in "abc":
        shutil.copytree(collection_folder, tmp_path / "data" / name)
    return tmp_path / "data"


def test_other_weights_are_another_evaluation(
    evaluate, fails_clearly, save_checkpoint, place, three, tiny_bert, tmp_path
):
    """Under the same name, and so are other vectors; a card with more in it is not."""
    checkpoint = save_checkpoint(tmp_path / "checkpoint", 1)
    same = (*place, "--device", "cpu", "--resume", "--model_path", checkpoint)
    evaluate(*same, "--datasets", "a")
    with (checkpoint / "README.md").open("a") as card:
        card.write("scores\n")
    evaluate(*same, "--datasets", "b")
    assert "distance is" in fails_clearly("evaluate_beir", *same, "--distance", "cosine")
    assert "truncate_dim" in fails_clearly("evaluate_beir", *same, "--truncate_dim", 8)
    assert "model is" in fails_clearly("evaluate_beir", *same[:-2], "--model", tiny_bert)
    shutil.rmtree(checkpoint)
    save_checkpoint(checkpoint, 2)
    assert "system model is" in fails_clearly("evaluate_beir", *same)
    assert list(read_json(tmp_path / "r.json")["datasets"]) == ["a", "b"]


def test_wrong_input_is_one_sentence(fails_clearly, place, three, mirror, tmp_path):
    bm25 = (*place, "--model", "bm25", "--datasets")
    assert "--download" in fails_clearly("evaluate_beir", *bm25, "quora")
    assert "ask for it at http" in fails_clearly("evaluate_beir", *bm25, "bioasq", "--download")
    assert "nfcorpus.zip" in fails_clearly("evaluate_beir", *bm25, "nfcorpus", "--mirror", mirror("quora"))
    assert not (tmp_path / "r.json").exists()
    assert not (three / "quora").exists()
