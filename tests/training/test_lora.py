"""LoRA: what its adapters compute, what is saved of them, and how far a trained base goes from its start."""

import copy
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import BoW, Dense, Pooling, Router
from torch import Tensor
from transformers import AutoTokenizer, ModernBertConfig, ModernBertModel

from ragcun import InputError, Objective, PairDataset, RetrievalEncoder, TextBase, TrainConfig, load_collection
from ragcun.training.batches import PairSource
from ragcun.training.selection import select_final_model, with_weights
from ragcun.training.setup import build_encoder
from tests.training.runs import PLAIN, assert_equal, tensors_of

pytest.importorskip("peft")
LORA: dict[str, Any] = PLAIN | {"lora_rank": 2, "base_learning_rate": 1e-2}
TRAINED = {
    "lora": LORA,
    "full": PLAIN | {"freeze_base": False, "base_learning_rate": 1e-3},
    "last layer": PLAIN | {"freeze_early_layers": 2, "base_learning_rate": 1e-3},
}


def build(base_model: str, **changes: Any) -> RetrievalEncoder:
    return build_encoder(TrainConfig("x", base_model=base_model, device="cpu", **PLAIN | changes)).eval()


def moved(encoder: RetrievalEncoder) -> RetrievalEncoder:
    """Give an encoder's adapters, or what else of its base is trained, weights far from those at the start."""
    generator = torch.Generator().manual_seed(1)
    for value in (each for each in encoder.base.parameters() if each.requires_grad):
        value.data.add_(torch.randn(value.shape, generator=generator), alpha=0.3)
    return encoder


def plain_weights(folder: str | Path) -> dict[str, Tensor]:
    return SentenceTransformer(str(folder), device="cpu").state_dict()


def test_one_step_of_full_rank_is_that_of_full_training(tiny_bert, texts):
    """With A the identity, and α the rank, the gradient of B is that of W."""
    pairs = PairDataset.from_rows([(texts[i], texts[50 + i], None) for i in range(8)], "made")
    after = []
    for changes in ({"lora_rank": 32, "lora_alpha": 32}, {"freeze_base": False}):
        encoder = build(tiny_bert, **changes)
        for name, weight in encoder.named_parameters():
            if "lora_A" in name:
                torch.nn.init.eye_(weight)
        optimizer = torch.optim.SGD(encoder.parameter_groups({"base": 100.0, "head": 0.0}))
        batch = PairSource(pairs, encoder.base, torch.device("cpu")).batch(np.arange(8))
        Objective(lambda_isotropy=1.0)(encoder(batch), 1).total.backward()
        optimizer.step()
        encoder.save_pretrained(folder := Path(tiny_bert).with_name(f"step{len(after)}"))
        after.append(plain_weights(folder))
    before = plain_weights(tiny_bert)
    inside = [name for name in before if "layer." in name and before[name].ndim == 2]
    assert len(inside) == 3 * 6
    for name, value in before.items():
        theirs = after[1][name] if name in inside else value
        torch.testing.assert_close(after[0][name] - value, theirs - value, rtol=1e-3, atol=1e-5, msg=name)
        assert name not in inside or float((theirs - value).abs().max()) > 1e-3


@pytest.mark.parametrize("kind", ["attention_dropout", "mlp_dropout"])
def test_without_dropout_training_computes_what_evaluation_does(tiny_bert, texts, tmp_path, kind):
    """With it, the default, it does not: attention hands a probability to a function, the mlp has a module."""
    read = ["input_ids", "attention_mask"]  # older versions hand every input on
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert, model_input_names=read)
    sizes = ("hidden_size", "intermediate_size")
    shape = dict.fromkeys(sizes, 32) | {"num_hidden_layers": 2, "num_attention_heads": 2, kind: 0.5}
    ModernBertModel(ModernBertConfig(vocab_size=len(tokenizer), pad_token_id=0, **shape)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    pairs = PairDataset.from_rows([(texts[0], texts[1], None)], "made")
    for dropout in (False, True):
        encoder = build(str(tmp_path), freeze_base=False, base_dropout=dropout)
        batch = PairSource(pairs, encoder.base, torch.device("cpu")).batch(np.arange(1))
        expected = encoder(batch).query
        assert torch.equal(encoder.train()(batch).query, expected) is not dropout


@pytest.mark.parametrize(
    ("system", "layers", "stored"),
    [("asymmetric", None, "bfloat16"), ("jepa", 1, "float32"), ("respred", 2, "float16")],
)
def test_what_is_saved_is_plain_and_embeds_as_the_adapters_do(tiny_bert, texts, tmp_path, system, layers, stored):
    """To 1e-5; in the encoder every weight is afterwards as it was, and in the folder all but the layers' matrices."""
    model = SentenceTransformer(tiny_bert, device="cpu", model_kwargs={"dtype": stored})
    model.save_pretrained(str(tmp_path / "base"), create_model_card=False)
    encoder = moved(build(str(tmp_path / "base"), system=system, lora_rank=3, lora_layers=layers))
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    live = encoder.encode_document(texts[:20])
    encoder.save_pretrained(tmp_path / "saved")
    assert_equal(encoder.state_dict(), before)
    np.testing.assert_array_equal(encoder.encode_document(texts[:20]), live)
    again = RetrievalEncoder.from_pretrained(tmp_path / "saved", "cpu")
    for each in (again, SentenceTransformer(str(tmp_path / "saved"), device="cpu")):
        np.testing.assert_allclose(each.encode_document(texts[:20]), live, atol=1e-5)
    start, saved = plain_weights(tmp_path / "base"), plain_weights(tmp_path / "saved")
    assert {str(value.dtype) for value in tensors_of(tmp_path / "base").values()} == {f"torch.{stored}"}
    changed = {name for name in start if not torch.equal(start[name].float(), saved[name])}
    chosen = tuple(f"0.model.encoder.layer.{i}." for i in range(3 - (layers or 3), 3))
    assert changed == {name for name in start if name.startswith(chosen) and start[name].ndim == 2}


def test_a_base_without_linear_maps_in_layers_takes_no_adapters():
    base = TextBase(SentenceTransformer(modules=[BoW(["word1", "word2"]), Dense(2, 4)], device="cpu"), "words")
    with pytest.raises(InputError, match=r"words.*--lora_rank.*--freeze_base False"):
        base.add_lora(2, None, None)


def test_each_transformer_of_a_routed_base_is_trained_alike(tiny_bert):
    sides = [[SentenceTransformer(tiny_bert, device="cpu")[0], Pooling(32)] for _ in range(2)]
    routed = SentenceTransformer(modules=[Router.for_query_document(*sides)], device="cpu")
    for early, parts in ((0, 6 * 2), (2, 6)):
        base = TextBase(copy.deepcopy(routed), "routed")
        if early == 0:
            base.add_lora(2, None, 1)
        base.freeze(False, early)
        trained = [name for name, each in base.named_parameters() if each.requires_grad and ".layer." in name]
        matrices = [name for name in trained if base.get_parameter(name).ndim == 2]
        assert all(".layer.2." in name for name in trained)
        found = [sum(f"sub_modules.{side}." in name for name in matrices) for side in ("query", "document")]
        assert found == [parts] * 2


def test_adapters_on_a_trained_jepa_leave_its_target_where_it_was(train):
    jepa = {"system": "jepa", "lambda_predictive": 1.0, "ema_decay": 1.0, "epochs": 1}
    first = train("first", **TRAINED["full"] | jepa).checkpoint
    again = train("again", load_checkpoint=str(first), **LORA | jepa).checkpoint
    before, after = (RetrievalEncoder.from_pretrained(each, "cpu") for each in (first, again))
    assert_equal(before.target_base.state_dict(), after.target_base.state_dict())
    one, other = (each.base.state_dict() for each in (before, after))
    assert [name for name in one if not torch.equal(one[name], other[name])]


@pytest.mark.parametrize(("changes", "decay"), [("lora", 0.0), ("lora", 0.9), ("full", 0.9), ("last layer", 0.0)])
def test_the_share_interpolates_all_trained_weights(train, tmp_path, tiny_bert, changes, decay):
    """``W₀ + share·(W₁ − W₀)`` of base and heads, averaged or not; 0 is the base bit for bit."""
    for share in (0.0, 0.3, 1.0):
        train(f"{share}", **TRAINED[changes] | {"trained_share": share, "average_decay": decay, "epochs": 1})
    none, some, all_ = (tensors_of(tmp_path / f"{share}" / "best_model") for share in (0.0, 0.3, 1.0))
    start = plain_weights(tmp_path / "0.0" / "best_model")
    assert_equal({name: start[name] for name in plain_weights(tiny_bert)}, plain_weights(tiny_bert))
    for name, value in none.items():
        torch.testing.assert_close(some[name], torch.lerp(value, all_[name], 0.3), atol=1e-6, rtol=0, msg=name)
    distinct = [name for name in none if not torch.allclose(none[name], all_[name], atol=1e-4)]
    assert {"parts" in name for name in distinct} == {True, False}


@pytest.mark.parametrize("changes", ["lora", "full"])
def test_a_destroyed_base_gives_way_to_its_start(tiny_bert, texts, collection_folder, changes):
    encoder = build(tiny_bert, **TRAINED[changes])
    initial = {name: value.clone() for name, value in encoder.trained_state().items()}
    before = encoder.encode_query(texts[:9])
    start = with_weights(moved(encoder), initial)
    kept, found = select_final_model(encoder, start, load_collection(collection_folder, "dev"), None, 0)
    assert kept is start
    assert found.scores["trained"] < found.scores["start"] == pytest.approx(found.scores["base"])
    np.testing.assert_array_equal(start.encode_query(texts[:9]), before)
    assert np.abs(encoder.encode_query(texts[:9]) - before).max() > 0.1


def test_never_worse_compares_with_the_base_as_it_was(train, collection_folder):
    result = train(dev_beir=str(collection_folder), never_worse=True, **LORA | {"trained_share": 0.5})
    found = json.loads((result.checkpoint.parent / "manifest.json").read_text())
    scores = found["never_worse"]["scores"]
    assert (scores["base"], scores["trained"]) == pytest.approx((result.base_score, result.score))
    assert result.best_epoch > 0
    assert found["base_fingerprint"] == TextBase.load(found["trained"]["base"].partition(" ")[0]).fingerprint()


@pytest.mark.parametrize(
    ("changes", "warned"),
    [
        (LORA, True),
        (TRAINED["last layer"], True),
        (LORA | {"dev_fraction": 0.5}, False),
        (LORA | {"never_worse": True, "dev_fraction": 0.5}, False),
        (PLAIN, False),
    ],
)
def test_a_trained_base_is_not_below_its_start_unnoticed(train, caplog, changes, warned):
    with caplog.at_level(logging.INFO):
        train(**changes | {"epochs": 1})
    told = [each.message for each in caplog.records if each.levelno == logging.WARNING]
    assert any("--never_worse" in message for message in told) is warned
    compared = any(message.startswith("untouched base: dev NDCG@10") for message in caplog.messages)
    assert compared is ("dev_fraction" in changes)
