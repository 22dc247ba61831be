"""From a configuration to data, objective and encoder."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ragcun import InputError, IsotropicGaussianEncoder, TextBase, TrainConfig, fit
from ragcun.data.pairs import PairDataset, write_pairs
from ragcun.models.encoder import SYSTEMS
from ragcun.training.setup import TrainingData, build_data, build_encoder, build_objective

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU here")


def test_data_of_a_collection_and_of_files(settings, collection_folder, tmp_path, texts):
    data = build_data(TrainConfig(**settings))
    assert (len(data.train), data.val, data.dev) == (30, None, None)
    judged = {"val_data": str(collection_folder), "dev_beir": str(collection_folder), "dev_split": "test"}
    data = build_data(TrainConfig(**settings, **judged))
    assert len(data.val) == 20
    assert set(data.dev.queries) == {f"q{i}" for i in range(50, 70)}
    held_out = build_data(TrainConfig(**settings, dev_fraction=0.2))
    assert (len(held_out.train), len(held_out.dev.queries), len(held_out.dev.documents)) == (24, 6, 120)
    assert not set(held_out.train.queries) & set(held_out.dev.queries.values())
    write_pairs(tmp_path / "t.jsonl", [(texts[i], texts[i + 10], texts[i + 20]) for i in range(5)])
    write_pairs(tmp_path / "v.jsonl", [(texts[i], texts[i + 10], None) for i in range(3)])
    config = TrainConfig(**settings | {"train_data": str(tmp_path / "t.jsonl"), "val_data": str(tmp_path / "v.jsonl")})
    data = build_data(config)
    assert (len(data.train), len(data.val)) == (5, 3)
    assert data.hashes() == {"train": data.train.sha256(), "val": data.val.sha256()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_data": "one.jsonl"}, "has 1 pair"),
        ({"val_data": "one.jsonl"}, "has 1 pair"),
        ({"train_data": "one.jsonl", "dev_fraction": 0.5}, "use --dev_beir"),
    ],
)
def test_missing_data(settings, tmp_path, monkeypatch, changes, message):
    monkeypatch.chdir(tmp_path)
    write_pairs("one.jsonl", [("a query", "its answer", None)])
    with pytest.raises(InputError, match=message) as caught:
        build_data(TrainConfig(**settings | changes))
    assert "\n" not in str(caught.value)


def test_encoder_has_the_shape_asked_for(settings):
    asked = {"system": "isotropic_gaussian", "output_dim": 10, "head": "mlp", "head_depth": 3, "head_expansion": 1.5}
    asked |= {"activation": "silu", "dropout": 0.25, "use_predictor": True, "predictor": "linear"}
    encoder = build_encoder(TrainConfig(**settings | asked, normalize_embeddings=False))
    assert isinstance(encoder, IsotropicGaussianEncoder)
    shape = {"depth": 3, "expansion": 1.5, "activation": "silu", "dropout": 0.25, "matrix_skip": False}
    head = {"kind": "mlp", "input_dim": 16, "output_dim": 10, "start": "random", **shape}
    assert encoder.head.config.to_dict() == head
    predictor = {"kind": "linear", "input_dim": 10, "output_dim": 10, "start": "preserving", **shape}
    assert encoder.predictor.config.to_dict() == predictor
    assert (encoder.base.normalize, encoder.base.frozen) == (False, True)


@pytest.mark.parametrize("system", SYSTEMS)
def test_embeddings_have_length_1_unless_there_is_a_predictor(settings, system):
    vectors = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    for asked in (None, False, True):
        for predictor in (None, True):
            config = TrainConfig(**settings, system=system, use_predictor=predictor, normalize_output=asked)
            predicts = predictor or system in ("jepa", "respred")
            if asked and predicts:
                with pytest.raises(InputError, match="normalize_output cannot be combined with a predictor"):
                    build_encoder(config)
                continue
            lengths = build_encoder(config).eval().embed_document(vectors).norm(dim=1)
            of_length_1 = bool((lengths - 1).abs().max() < 1e-5)
            assert of_length_1 == (not predicts and asked is not False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lambda_contrastive": 0.0, "lambda_isotropy": 0.0}, "objective: "),
        ({"contrastive": "margin", "mined_negatives": 4}, "--mined_negatives .*margin"),
        ({"nested_dims": (16,)}, "must be below 16"),
        ({"train_side": "document", "lora_rank": 2}, "--train_side document.*both sides"),
        ({"lora_rank": 2, "lora_layers": 4}, "has 3 transformer layers.*--lora_layers, not 4"),
    ],
)
def test_an_impossible_objective_or_encoder(settings, changes, message):
    with pytest.raises(InputError, match=message) as caught:
        build_objective(TrainConfig(**settings | changes), build_encoder(TrainConfig(**settings | changes)))
    assert "\n" not in str(caught.value)


@pytest.fixture
def checkpoint(tiny_bert: str, settings: dict[str, Any], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Save an encoder of 8 dimensions, and return settings that continue from it."""

    def save(**changes: Any) -> dict[str, Any]:
        base = TextBase.load(tiny_bert, device="cpu")
        IsotropicGaussianEncoder(base, output_dim=8, **changes).save_pretrained(tmp_path / "model")
        return settings | {"system": "isotropic_gaussian", "load_checkpoint": str(tmp_path / "model")}

    return save


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output_dim": 12}, "output_dim 12 .* 8"),
        ({"head": "mlp"}, "head mlp .* linear"),
        ({"base_model": "other"}, "base_model other"),
        ({"lambda_predictive": 1.0}, "add --use_predictor"),
    ],
    ids=str,
)
def test_a_checkpoint_of_another_shape_is_refused(checkpoint, changes, message):
    with pytest.raises(InputError, match=message):
        build_encoder(TrainConfig(**checkpoint() | changes))


def test_a_checkpoint_grows_a_predictor_unless_its_embeddings_have_length_1(checkpoint):
    wanted = {"use_predictor": True, "lambda_predictive": 1.0}
    assert build_encoder(TrainConfig(**checkpoint() | wanted)).to_config()["predictor"] is not None
    with pytest.raises(InputError, match="normalize_output cannot be combined with a predictor"):
        build_encoder(TrainConfig(**checkpoint(normalize_output=True) | wanted))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"device": "cuda"}, "--device cuda: there is no such device", marks=NO_GPU),
        pytest.param({"mixed_precision": "fp16"}, "fp16 needs a GPU", marks=NO_GPU),
    ],
)
def test_what_the_machine_cannot_do_leaves_no_folder(settings, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        fit(TrainConfig(**settings | changes, output_dir=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_documents_in_no_pair_enter_the_hashes():
    rows = [("a question", "its answer", None), ("another question", "another answer", "a wrong answer")]
    alone, with_more, with_other = (PairDataset.from_rows(rows, "made", extra) for extra in ((), ["x"], ["y"]))
    hashes = [TrainingData(pairs).hashes() for pairs in (alone, with_more, with_other)]
    assert "texts" not in hashes[0]
    assert len({each["train"] for each in hashes}) == 1
    others = [{"queries": ["when?"]}, {"teacher": {"q": {"d": 1.0}}}, {"teacher": {"q": {"d": 1.0}, "r": {}}}]
    hashes += [replace(TrainingData(with_more), **other).hashes() for other in others]
    assert len({json.dumps(each["texts"]) for each in hashes[1:]}) == 5
