"""The folder of a run: its files, what they say of the run, and the model card."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from ragcun import InputError, IsotropicGaussianEncoder, TextBase, TrainConfig, fit
from ragcun.environment import PACKAGES, environment
from ragcun.io import read_json_lines
from ragcun.options import from_mapping
from ragcun.training.run_dir import RunFolder, RunRecord, named, require_tracker
from ragcun.training.setup import build_data
from ragcun.training.summary import FitResult, card, write_scores
from tests.training.runs import Train, interrupted


def test_an_earlier_run_is_kept_until_it_is_overwritten_and_then_nothing_else_goes(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.claim()
    RunRecord(run, {"epochs": 3}, {"seed": 1}, None, None).start()
    run.log({"a": 1})
    run.loss_curve.write_bytes(b"x")
    for folder in (run.state, run.best_model, run.path / "epoch-2", run.path / "epoch-10"):
        folder.mkdir()
        (folder / "weights").write_text("w")
    (run.path / "epoch-notes.txt").write_text("mine")
    before = sorted(run.path.rglob("*"))
    with pytest.raises(InputError, match="--resume, or --overwrite"):
        run.claim()
    run.claim(resume=True)
    assert sorted(run.path.rglob("*")) == before
    run.claim(overwrite=True)
    assert [path.name for path in run.path.iterdir()] == ["epoch-notes.txt"]
    run.claim()
    with pytest.raises(InputError, match="is a file"):
        RunFolder(run.path / "epoch-notes.txt").claim()


def test_metrics_are_lines_that_can_be_cut_also_where_the_last_is_torn(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "a" / "run")
    run.claim()
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


def test_environment_says_what_decides_a_result() -> None:
    found = environment("cpu")
    assert found["device"] == "cpu"
    assert set(found["packages"]) == set(PACKAGES)
    assert found["packages"]["torch"].startswith("2.")
    head = ["git", "-C", str(Path(__file__).resolve().parent), "rev-parse", "HEAD"]
    git = subprocess.run(head, capture_output=True, text=True, check=False)
    assert git.returncode != 0 or found["git_commit"] == git.stdout.strip()


# The model card


@pytest.fixture(scope="module")
def config(collection_folder: Path, tiny_bert: str, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    settings = {"train_data": str(collection_folder), "base_model": tiny_bert, "dev_beir": str(collection_folder)}
    shape: dict[str, Any] = {"device": "cpu", "seed": 11, "epochs": 2, "batch_size": 10}
    return TrainConfig(lexical_dim=0, **settings, **shape, output_dir=str(tmp_path_factory.mktemp("runs") / "mine"))


@pytest.fixture(scope="module")
def result(config: TrainConfig) -> FitResult:
    return fit(config)


def parts_of(card: str) -> tuple[dict[str, Any], str]:
    empty, header, body = card.split("---\n", 2)
    assert empty == ""
    return yaml.safe_load(header), body


def test_manifest_of_a_run(config: TrainConfig, result: FitResult) -> None:
    manifest = json.loads((Path(config.output_dir) / "manifest.json").read_text())
    assert {"git_commit", "packages", "base_fingerprint", "command"} <= manifest.keys()
    assert [manifest[name] for name in ("seed", "device", "status")] == [11, "cpu", "finished"]
    assert manifest["data_sha256"]["train"] == build_data(config).train.sha256()
    assert (manifest["result"]["best_epoch"], manifest["result"]["steps"]) == (result.best_epoch, 6)
    assert 0 < manifest["result"]["seconds"] == result.seconds


def test_card_of_a_run(config: TrainConfig, result: FitResult) -> None:
    header, body = parts_of((result.checkpoint / "README.md").read_text(encoding="utf-8"))
    assert (header["library_name"], header["pipeline_tag"]) == ("sentence-transformers", "sentence-similarity")
    assert "base_model" not in header
    chosen = f"Epoch {result.best_epoch}, chosen by: dev NDCG@10."
    scores = f"| untouched base | {result.base_score:.4f} |", f"| this model | {result.score:.4f} |"
    for part in ("# mine/best_model", "16 dimensions", chosen, *scores):
        assert part in body
    settings = yaml.safe_load(body.split("```yaml\n")[1].split("```")[0])
    assert settings == yaml.safe_load((Path(config.output_dir) / "config.yaml").read_text())
    assert from_mapping(TrainConfig, settings, "card") == config


@pytest.mark.parametrize(
    ("criterion", "score", "shown"), [("last epoch", None, "–"), ("validation objective", -1.25, "1.2500")]
)
def test_card_names_a_base_from_the_hub_and_shows_scores_as_they_are_measured(
    tiny_bert: str, tmp_path: Path, criterion: str, score: float | None, shown: str
) -> None:
    encoder = IsotropicGaussianEncoder(TextBase.load(tiny_bert, device="cpu"))
    encoder.base.name = "owner/model"
    result = FitResult(tmp_path, 3, criterion, score, None, 10, 1.0)
    header, body = parts_of(card("run/best_model", encoder, TrainConfig("t").to_dict(), result, "a head"))
    assert header["base_model"] == "owner/model"
    assert f"| this model | {shown} |" in body


def test_scores_take_their_place_and_a_card_without_one_is_refused(result: FitResult, tmp_path: Path) -> None:
    card = (result.checkpoint / "README.md").read_text(encoding="utf-8")
    (tmp_path / "README.md").write_text(card, encoding="utf-8")
    write_scores(tmp_path, "| scifact | 0.65 |\n")
    write_scores(tmp_path, "| scifact | 0.66 |\n")
    after = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert [part for part in ("0.66", "0.65", "chosen by") if part in after] == ["0.66"]
    assert parts_of(after)[0] == parts_of(card)[0]
    assert after.split("## Configuration")[1] == card.split("## Configuration")[1]
    with pytest.raises(InputError, match="no such file"):
        write_scores(tmp_path / "other", "x")
    (tmp_path / "README.md").write_text("# mine\n")
    with pytest.raises(InputError, match="no scores section"):
        write_scores(tmp_path, "x")
    assert (tmp_path / "README.md").read_text() == "# mine\n"


# Trackers show what metrics.jsonl holds, under the same names


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def assert_tracked(run: Path) -> None:
    """The scalars are the numbers in metrics.jsonl, by name."""
    shown, there = scalars(run / "tensorboard"), dict[str, list[tuple[int, Any]]]()
    for _, row in read_json_lines(run / "metrics.jsonl"):
        for name, value in named(row).items():
            if not isinstance(value, str):
                there.setdefault(name, []).append((row.get("step", 0), pytest.approx(value, rel=1e-6)))
    assert shown == there


@pytest.fixture
def settings(settings: dict[str, Any], collection_folder: Path) -> dict[str, Any]:
    shown = {"dev_beir": str(collection_folder), "lambda_isotropy": 0.5, "log_interval": 2, "state_interval": 2}
    return settings | shown


def test_tensorboard_holds_every_number_of_the_metrics_once_also_of_a_resumed_run(train: Train, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    with interrupted(7):
        train(tracker="tensorboard")
    train(tracker="tensorboard", resume=True)
    assert_tracked(tmp_path / "run")
    names = scalars(tmp_path / "run" / "tensorboard").keys()
    assert {"step/total", "step/terms/contrastive", "base/dev/NDCG@10", "epoch/dev/NDCG@10"} <= names
    assert {"probe/figures/rank_query", "step/learning_rate/head"} <= names
    train(tracker="tensorboard", overwrite=True, epochs=1)
    assert_tracked(tmp_path / "run")
    train(overwrite=True, epochs=1)
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_a_tracker_that_is_not_installed_is_named() -> None:
    with pytest.raises(InputError, match="pip install no_such_tracker"):
        require_tracker("no_such_tracker")
