"""The folder of a run: its files, what they say of the run, and the model card."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from ragcun.config import TrainConfig
from ragcun.embeddings.text_base import TextBase
from ragcun.errors import InputError
from ragcun.models.systems import IsotropicGaussianEncoder
from ragcun.options import from_mapping, read_yaml
from ragcun.training.loop import fit
from ragcun.training.model_card import FitResult, model_card, write_scores
from ragcun.training.run_dir import PACKAGES, RunFolder, RunRecord, environment


def record_of(run: RunFolder, settings: dict[str, Any]) -> RunRecord:
    return RunRecord(run, settings, {"seed": 1}, None, None)


def filled(path: Path) -> None:
    run = RunFolder.create(path)
    record_of(run, {"epochs": 3}).start()
    run.log({"a": 1})
    run.loss_curve.write_bytes(b"x")
    for folder in (run.state, run.best_model, run.epoch_model(2), run.epoch_model(10)):
        folder.mkdir()
        (folder / "weights").write_text("w")
    (path / "epoch-notes.txt").write_text("mine")


def test_an_earlier_run_is_kept(tmp_path: Path) -> None:
    filled(tmp_path / "run")
    before = sorted((tmp_path / "run").rglob("*"))
    with pytest.raises(InputError, match="--resume, or --overwrite"):
        RunFolder.create(tmp_path / "run")
    RunFolder.create(tmp_path / "run", resume=True)
    assert sorted((tmp_path / "run").rglob("*")) == before


def test_overwriting_removes_the_run_and_nothing_else(tmp_path: Path) -> None:
    filled(tmp_path / "run")
    run = RunFolder.create(tmp_path / "run", overwrite=True)
    assert [path.name for path in run.path.iterdir()] == ["epoch-notes.txt"]


def test_a_file_is_no_folder_and_a_folder_with_other_things_is_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        RunFolder.create(tmp_path / "file")
    (tmp_path / "run" / "deep").mkdir(parents=True)
    assert RunFolder.create(tmp_path / "run").path.is_dir()


def test_metrics_are_lines_that_can_be_cut_also_where_the_last_is_torn(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "a" / "run")
    assert run.count_rows() == 0
    run.keep_rows(0)
    for i in range(5):
        run.log({"step": i})
    assert run.count_rows() == 5
    with run.metrics.open("a") as file:
        file.write('{"ste')
    run.keep_rows(3)
    run.log({"step": 9})
    assert [json.loads(line)["step"] for line in run.metrics.read_text().splitlines()] == [0, 1, 2, 9]


def test_configuration_is_taken_again(tmp_path: Path) -> None:
    config = TrainConfig("daten/ü.jsonl", freeze_early_layers=2, learning_rate=1e-5, mixed_precision="no")
    run = RunFolder.create(tmp_path / "run")
    record_of(run, config.to_dict()).start()
    assert from_mapping(TrainConfig, read_yaml(run.config), "saved") == config
    assert "ü" in run.config.read_text(encoding="utf-8")


def test_environment_says_what_decides_a_result() -> None:
    found = environment("cpu")
    assert found["device"] == "cpu"
    assert set(found["packages"]) == set(PACKAGES)
    assert found["packages"]["torch"].startswith("2.")
    assert json.loads(json.dumps(found)) == found
    here = Path(__file__).resolve().parent
    git = subprocess.run(["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if git.returncode == 0:
        assert found["git_commit"] == git.stdout.strip()
        assert isinstance(found["git_dirty"], bool)


# The model card


@pytest.fixture(scope="module")
def run(collection_folder: Path, tiny_bert: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FitResult]:
    out = tmp_path_factory.mktemp("runs") / "mine"
    settings: dict[str, Any] = {"train_data": str(collection_folder), "base_model": tiny_bert, "device": "cpu"}
    config = TrainConfig(**settings, output_dir=str(out), epochs=1, batch_size=10, dev_beir=str(collection_folder))
    return out, fit(config)


def parts_of(card: str) -> tuple[dict[str, Any], str]:
    empty, header, body = card.split("---\n", 2)
    assert empty == ""
    return yaml.safe_load(header), body


def test_card_of_a_run(run: tuple[Path, FitResult]) -> None:
    folder, result = run
    header, body = parts_of((folder / "best_model" / "README.md").read_text(encoding="utf-8"))
    assert (header["library_name"], header["pipeline_tag"]) == ("sentence-transformers", "sentence-similarity")
    assert "base_model" not in header
    chosen = f"Epoch {result.best_epoch}, chosen by: dev NDCG@10."
    scores = f"| untouched base | {result.base_score:.4f} |", f"| this model | {result.score:.4f} |"
    for part in ("# mine/best_model", "16 dimensions", chosen, *scores):
        assert part in body
    settings = yaml.safe_load(body.split("```yaml\n")[1].split("```")[0])
    assert settings == yaml.safe_load((folder / "config.yaml").read_text())
    assert from_mapping(TrainConfig, settings, "card").output_dir == str(folder)


@pytest.mark.parametrize(
    ("criterion", "score", "shown"), [("last epoch", None, "–"), ("validation objective", -1.25, "1.2500")]
)
def test_card_names_a_base_from_the_hub_and_shows_scores_as_they_are_measured(
    tiny_bert: str, tmp_path: Path, criterion: str, score: float | None, shown: str
) -> None:
    encoder = IsotropicGaussianEncoder(TextBase.load(tiny_bert, device="cpu"))
    encoder.base.name = "owner/model"
    result = FitResult(tmp_path, 3, criterion, score, None, 10, 1.0)
    header, body = parts_of(model_card(tmp_path / "run" / "best_model", encoder, TrainConfig("t").to_dict(), result))
    assert header["base_model"] == "owner/model"
    assert f"| this model | {shown} |" in body


def test_scores_take_their_place(run: tuple[Path, FitResult], tmp_path: Path) -> None:
    card = (run[0] / "best_model" / "README.md").read_text(encoding="utf-8")
    (tmp_path / "README.md").write_text(card, encoding="utf-8")
    write_scores(tmp_path, "| scifact | 0.65 |\n")
    write_scores(tmp_path, "| scifact | 0.66 |\n")
    after = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "0.66" in after
    assert "0.65" not in after
    assert "chosen by" not in after
    assert parts_of(after)[0] == parts_of(card)[0]
    assert after.split("## Configuration")[1] == card.split("## Configuration")[1]


def test_a_card_without_a_place_for_scores(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        write_scores(tmp_path, "x")
    (tmp_path / "README.md").write_text("# mine\n")
    with pytest.raises(InputError, match="no scores section"):
        write_scores(tmp_path, "x")
    assert (tmp_path / "README.md").read_text() == "# mine\n"
