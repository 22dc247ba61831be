"""The model card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ragcun.config import TrainConfig
from ragcun.embeddings.text_base import TextBase
from ragcun.errors import InputError
from ragcun.models.systems import IsotropicGaussianEncoder
from ragcun.options import from_mapping
from ragcun.training.loop import fit
from ragcun.training.saving import FitResult, model_card, write_scores


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
    assert header["library_name"] == "sentence-transformers"
    assert header["pipeline_tag"] == "sentence-similarity"
    assert "base_model" not in header
    assert "# mine/best_model" in body
    assert "16 dimensions" in body
    assert f"| untouched base | {result.base_score:.4f} |" in body
    assert f"| this model | {result.score:.4f} |" in body
    assert f"Epoch {result.best_epoch}, chosen by: dev NDCG@10." in body
    settings = yaml.safe_load(body.split("```yaml\n")[1].split("```")[0])
    assert settings == yaml.safe_load((folder / "config.yaml").read_text())
    assert from_mapping(TrainConfig, settings, "card").output_dir == str(folder)


def test_card_names_a_base_from_the_hub(tiny_bert: str, tmp_path: Path) -> None:
    encoder = IsotropicGaussianEncoder(TextBase.load(tiny_bert, device="cpu"))
    encoder.base.name = "owner/model"
    result = FitResult(tmp_path, 3, "last epoch", None, None, 10, 1.0)
    header, body = parts_of(model_card(tmp_path / "run" / "best_model", encoder, TrainConfig("t").to_dict(), result))
    assert header["base_model"] == "owner/model"
    assert "| this model | – |" in body


def test_objective_is_shown_as_it_is_measured(tiny_bert: str, tmp_path: Path) -> None:
    encoder = IsotropicGaussianEncoder(TextBase.load(tiny_bert, device="cpu"))
    result = FitResult(tmp_path, 3, "validation objective", -1.25, None, 10, 1.0)
    card = model_card(tmp_path / "run" / "best_model", encoder, TrainConfig("t").to_dict(), result)
    assert "| this model | 1.2500 |" in card


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
