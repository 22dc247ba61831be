"""From a configuration to data, objective and encoder."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ragcun.config import TrainConfig
from ragcun.data.pairs import PairDataset, write_pairs
from ragcun.embeddings.text_base import TextBase
from ragcun.errors import InputError
from ragcun.models.encoder import SYSTEMS
from ragcun.models.systems import AsymmetricProjectionModel, IsotropicGaussianEncoder
from ragcun.training.loop import fit
from ragcun.training.setup import TrainingData, build_data, build_encoder, build_objective


def test_data_of_a_collection(settings: dict[str, Any], collection_folder: Path) -> None:
    data = build_data(TrainConfig(**settings))
    assert len(data.train) == 30
    assert data.val is None
    assert data.dev is None
    data = build_data(TrainConfig(**settings, val_data=str(collection_folder), dev_beir=str(collection_folder)))
    assert len(data.val) == 20
    assert len(data.dev.queries) == 20
    data = build_data(TrainConfig(**settings, dev_beir=str(collection_folder), dev_split="test"))
    assert set(data.dev.queries) == {f"q{i}" for i in range(50, 70)}


def test_held_out_queries_are_not_trained_on(settings: dict[str, Any]) -> None:
    data = build_data(TrainConfig(**settings, dev_fraction=0.2))
    assert len(data.train) == 24
    assert len(data.dev.queries) == 6
    assert not set(data.train.queries) & set(data.dev.queries.values())
    assert len(data.dev.documents) == 120


def test_data_of_files(settings: dict[str, Any], tmp_path: Path, texts: list[str]) -> None:
    write_pairs(tmp_path / "t.jsonl", [(texts[i], texts[i + 10], texts[i + 20]) for i in range(5)])
    write_pairs(tmp_path / "v.jsonl", [(texts[i], texts[i + 10], None) for i in range(3)])
    config = TrainConfig(**settings | {"train_data": str(tmp_path / "t.jsonl"), "val_data": str(tmp_path / "v.jsonl")})
    data = build_data(config)
    assert (len(data.train), len(data.val)) == (5, 3)
    assert data.hashes() == {"train": data.train.sha256(), "val": data.val.sha256()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_data": "/no/such/file.jsonl"}, "no such file"),
        ({"val_data": "/no/such/file.jsonl"}, "no such file"),
        ({"dev_beir": "/no/such/folder"}, "no such folder"),
        ({"dev_split": "nothing"}, "no judgments for the split 'nothing'"),
        ({"dev_fraction": 0.001}, "cannot hold out"),
        ({"train_data": "one.jsonl"}, "has 1 pair"),
        ({"val_data": "one.jsonl"}, "has 1 pair"),
        ({"train_data": "one.jsonl", "dev_fraction": 0.5}, "use --dev_beir"),
    ],
)
def test_missing_data(
    settings: dict[str, Any],
    collection_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_pairs(Path("one.jsonl"), [("a query", "its answer", None)])
    if "dev_split" in changes:
        settings["dev_beir"] = str(collection_folder)
    with pytest.raises(InputError, match=message) as caught:
        build_data(TrainConfig(**settings | changes))
    assert "\n" not in str(caught.value)


def test_encoder_has_the_shape_asked_for(settings: dict[str, Any]) -> None:
    asked = {"system": "isotropic_gaussian", "output_dim": 10, "head": "mlp", "head_depth": 3, "head_expansion": 1.5}
    asked |= {"activation": "silu", "dropout": 0.25, "use_predictor": True, "predictor": "linear"}
    encoder = build_encoder(TrainConfig(**settings | asked, normalize_embeddings=False))
    assert isinstance(encoder, IsotropicGaussianEncoder)
    shape = {"depth": 3, "expansion": 1.5, "activation": "silu", "dropout": 0.25}
    shape |= {"matrix_skip": False}
    head = {"kind": "mlp", "input_dim": 16, "output_dim": 10, "start": "random", **shape}
    assert encoder.head.config.to_dict() == head
    predictor = {"kind": "linear", "input_dim": 10, "output_dim": 10, "start": "preserving", **shape}
    assert encoder.predictor.config.to_dict() == predictor
    assert not encoder.base.normalize
    assert encoder.base.frozen


def test_encoder_of_a_run_without_settings(settings: dict[str, Any]) -> None:
    encoder = build_encoder(TrainConfig(**settings))
    assert isinstance(encoder, AsymmetricProjectionModel)
    assert [head.config.kind for head in (encoder.head, encoder.document_head)] == ["linear", "linear"]
    assert encoder.predictor is None
    assert encoder.base.normalize
    assert encoder.base.frozen


@pytest.mark.parametrize("system", SYSTEMS)
def test_embeddings_have_length_1_unless_there_is_a_predictor(settings: dict[str, Any], system: str) -> None:
    vectors = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    for asked in (None, False, True):
        for predictor in (None, True):
            config = TrainConfig(**settings, system=system, use_predictor=predictor, normalize_output=asked)
            predicts = predictor or system in ("jepa", "respred")
            if asked and predicts:
                with pytest.raises(InputError, match="normalize_output does not go with a predictor"):
                    build_encoder(config)
                continue
            lengths = build_encoder(config).eval().embed_document(vectors).norm(dim=1)
            of_length_1 = bool((lengths - 1).abs().max() < 1e-5)
            assert of_length_1 == (not predicts and asked is not False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lambda_contrastive": 0.0, "lambda_isotropy": 0.0}, "objective: "),
        ({"lambda_reg": -1.0}, "lambda_reg"),
        ({"temperature": 0.0}, "temperature"),
        ({"margin": -1.0}, "margin"),
        ({"isotropy": "nothing"}, "isotropy"),
        ({"distance": "nothing"}, "distance"),
        ({"system": "nothing"}, "--system must be one of .*, got 'nothing'"),
        ({"output_dim": 0}, "at least 1, got 0"),
        ({"head_depth": 5}, "head_depth must be at most 4, got 5"),
        ({"head_expansion": 9.0}, "head_expansion must be at most 4, got 9"),
        ({"dropout": 1.5}, r"below 1, got 1\.5"),
        ({"head": "nothing"}, "got 'nothing'"),
        ({"predictor": "nothing", "use_predictor": True}, "got 'nothing'"),
        ({"base_model": "/no/such/model"}, "no such model folder"),
        ({"freeze_early_layers": 9}, "3 transformer layers"),
    ],
)
def test_an_impossible_objective_or_encoder(settings: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    def build() -> None:
        config = TrainConfig(**settings | changes)
        build_objective(config)
        build_encoder(config)

    with pytest.raises(InputError, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def checkpoint(tiny_bert: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Save an encoder of 8 dimensions and return its folder."""

    def save(**changes: Any) -> str:
        folder = tmp_path_factory.mktemp("checkpoint") / "model"
        IsotropicGaussianEncoder(TextBase.load(tiny_bert, device="cpu"), output_dim=8, **changes).save_pretrained(
            folder
        )
        return str(folder)

    return save


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output_dim": 12}, "output_dim 12 .* 8"),
        ({"head": "mlp"}, "head mlp .* linear"),
        ({"base_model": "other"}, "base_model other"),
        ({"lambda_predictive": 1.0}, "add --use_predictor"),
        ({"load_checkpoint": "/no/such/folder"}, "checkpoint"),
        ({"load_checkpoint": "base"}, "checkpoint"),
    ],
    ids=str,
)
def test_a_checkpoint_of_another_shape_is_refused(
    settings: dict[str, Any], checkpoint: Callable[..., str], changes: dict[str, Any], message: str
) -> None:
    settings |= {"system": "isotropic_gaussian", "load_checkpoint": checkpoint()} | changes
    if settings["load_checkpoint"] == "base":
        settings["load_checkpoint"] = settings["base_model"]
    with pytest.raises(InputError, match=message):
        build_encoder(TrainConfig(**settings))


def test_a_checkpoint_grows_a_predictor_unless_its_embeddings_have_length_1(
    settings: dict[str, Any], checkpoint: Callable[..., str]
) -> None:
    settings |= {"system": "isotropic_gaussian", "use_predictor": True, "lambda_predictive": 1.0}
    assert build_encoder(TrainConfig(**settings, load_checkpoint=checkpoint())).to_config()["predictor"] is not None
    with pytest.raises(InputError, match="normalize_output does not go with a predictor"):
        build_encoder(TrainConfig(**settings, load_checkpoint=checkpoint(normalize_output=True)))


@pytest.mark.parametrize(
    ("changes", "trained"),
    [({}, set()), ({"freeze_base": False}, {0, 1, 2}), ({"freeze_early_layers": 2}, {2})],
    ids=str,
)
def test_freezing(settings: dict[str, Any], changes: dict[str, Any], trained: set[int]) -> None:
    encoder = build_encoder(TrainConfig(**settings | changes))
    layers = {
        int(name.split("layer.")[1].split(".")[0])
        for name, parameter in encoder.base.named_parameters()
        if "layer." in name and parameter.requires_grad
    }
    assert layers == trained
    assert all(parameter.requires_grad for parameter in encoder.head.parameters())


def test_gradient_checkpointing_of_a_frozen_base_is_said_to_be_idle(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        build_encoder(TrainConfig(**settings, gradient_checkpointing=True))
    assert "no effect" in caplog.text


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU here")
def test_a_gpu_that_is_not_there(settings: dict[str, Any], device: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no CUDA GPU"):
        fit(TrainConfig(**settings | {"device": device, "output_dir": str(tmp_path / "run")}))
    with pytest.raises(InputError, match="fp16 needs a GPU"):
        fit(TrainConfig(**settings, mixed_precision="fp16", output_dir=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_a_seed_too_large_for_a_generator_is_one_sentence(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="seed"):
        fit(TrainConfig(**settings, seed=2**32, output_dir=str(tmp_path / "run")))


def test_documents_in_no_pair_enter_the_hashes():
    rows = [("a question", "its answer", None), ("another question", "another answer", "a wrong answer")]
    alone, with_more, with_other = (PairDataset.from_rows(rows, "made", extra) for extra in ((), ["x"], ["y"]))
    hashes = [TrainingData(pairs).hashes() for pairs in (alone, with_more, with_other)]
    assert "texts" not in hashes[0]
    assert hashes[1]["texts"] != hashes[2]["texts"]
    assert len({tuple(sorted(each["train"])) for each in hashes}) == 1
    assert replace(TrainingData(alone), queries=["when?"]).hashes()["texts"] not in (h.get("texts") for h in hashes)


def test_mined_negatives_that_nothing_would_see_are_refused():
    settings = {"train_data": "x.jsonl", "contrastive": "margin"}
    assert build_objective(TrainConfig(**settings)).config.contrastive == "margin"
    with pytest.raises(InputError, match="serve InfoNCE alone"):
        build_objective(TrainConfig(**settings, mined_negatives=4))
