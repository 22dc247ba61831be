"""scripts/evaluate_beir.py on sets of BEIR by name: downloaded, resumed, and CQADupStack's forums."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from ragcun.data.beir_sets import SETS


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
def evaluate(run_script: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """Evaluate, with data and results in the test's folder."""

    def run(*flags: object, model: tuple[object, ...] = ("--model", "bm25")) -> Any:
        place = ("--data_dir", tmp_path / "data", "--output_file", tmp_path / "r.json")
        return run_script("evaluate_beir", *model, *place, "--device", "cpu", *flags)

    return run


def results(tmp_path: Path) -> dict[str, Any]:
    return json.loads((tmp_path / "r.json").read_text())


def test_sets_are_downloaded_once_and_evaluated(
    evaluate: Callable[..., Any], mirror: Callable[..., str], tmp_path: Path
):
    """Of MS MARCO by dev, as BEIR does; of CQADupStack each forum, and their mean."""
    names = ("quora", "msmarco", "cqadupstack")
    url = mirror(*names)
    done = evaluate("--datasets", *names, "--mirror", url)
    assert done.code == 0, done.err
    found = results(tmp_path)
    scores = {name: each["NDCG@10"] for name, each in found["datasets"].items()}
    forums = [f"cqadupstack/{forum}" for forum in SETS["cqadupstack"].parts]
    assert list(scores) == ["quora", "msmarco", *forums, "cqadupstack"]
    assert scores["cqadupstack"] == pytest.approx(fmean(scores[forum] for forum in forums), abs=1e-12)
    assert found["average"]["NDCG@10"] == pytest.approx(fmean(scores[name] for name in names), abs=1e-12)
    assert found["manifest"]["collections"]["msmarco"]["split"] == "dev"
    shutil.rmtree(tmp_path / "mirror")
    assert evaluate("--datasets", "all", "--mirror", url).code == 2
    assert evaluate("--datasets", "msmarco", "--split", "test").code == 0
    assert results(tmp_path)["manifest"]["collections"]["msmarco"]["split"] == "test"


@pytest.fixture
def three(collection_folder: Path, tmp_path: Path) -> Path:
    """A folder of the collections a, b and c."""
    for name in "abc":
        shutil.copytree(collection_folder, tmp_path / "data" / name)
    return tmp_path / "data"


def without_environment(found: dict[str, Any]) -> dict[str, Any]:
    return {**found, "manifest": {key: found["manifest"][key] for key in ("collections", "settings")}}


def test_a_stopped_evaluation_resumes_and_ends_as_one_that_did_not_stop(
    evaluate: Callable[..., Any], checkpoint: Path, three: Path, tmp_path: Path
):
    model = ("--model_path", checkpoint, "--baseline", "bm25")
    assert evaluate(model=model).code == 0
    expected, table = results(tmp_path), (tmp_path / "r.md").read_text()
    queries = three / "b" / "queries.jsonl"
    content = queries.read_text()
    queries.write_text(content.replace('"_id"', '"id"', 1))
    done = evaluate(model=model)
    assert done.code == 2
    last = done.err.strip().splitlines()[-1]
    assert all(fact in last for fact in ("b/queries.jsonl, line 1:", "r.json: a;", "--resume")), last
    assert list(results(tmp_path)["datasets"]) == ["a"]
    assert (tmp_path / "r.md").read_text().splitlines()[0].count("|") < table.splitlines()[0].count("|")
    queries.write_text(content)
    for _ in range(2):
        assert evaluate("--resume", model=model).code == 0
        assert without_environment(results(tmp_path)) == without_environment(expected)
        assert (tmp_path / "r.md").read_text() == table


def test_a_checkpoint_with_other_weights_is_another_evaluation(
    evaluate: Callable[..., Any], fails_clearly: Callable[..., str], save_checkpoint: Callable[[Path, int], Path],
    three: Path, tiny_bert: str, tmp_path: Path,
):  # fmt: skip
    """Under the same name, and so are other vectors; a card with more in it is not."""
    checkpoint = save_checkpoint(tmp_path / "checkpoint", 1)
    same = ("--model_path", checkpoint)
    assert evaluate("--datasets", "a", model=same).code == 0
    with (checkpoint / "README.md").open("a") as card:
        card.write("scores\n")
    assert evaluate("--datasets", "b", "--resume", model=same).code == 0
    place = ("--data_dir", three, "--output_file", tmp_path / "r.json", "--device", "cpu", "--resume")
    assert "distance is" in fails_clearly("evaluate_beir", *same, *place, "--distance", "cosine")
    assert "truncate_dim" in fails_clearly("evaluate_beir", *same, *place, "--truncate_dim", 8)
    assert "model is" in fails_clearly("evaluate_beir", "--model", tiny_bert, *place)
    shutil.rmtree(checkpoint)
    save_checkpoint(checkpoint, 2)
    assert "system model is" in fails_clearly("evaluate_beir", *same, *place)
    assert list(results(tmp_path)["datasets"]) == ["a", "b"]


def test_wrong_input_is_one_sentence(
    fails_clearly: Callable[..., str], three: Path, mirror: Callable[..., str], tmp_path: Path
):
    place = ("--model", "bm25", "--data_dir", three, "--output_file", tmp_path / "r.json", "--datasets")
    assert "--download" in fails_clearly("evaluate_beir", *place, "quora")
    assert "ask for it at http" in fails_clearly("evaluate_beir", *place, "bioasq", "--download")
    assert "nfcorpus.zip" in fails_clearly("evaluate_beir", *place, "nfcorpus", "--mirror", mirror("quora"))
    assert not (tmp_path / "r.json").exists()
    assert not (three / "quora").exists()
