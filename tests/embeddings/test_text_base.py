"""The text base: what is frozen, which vectors it hands on, and its fingerprint."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling

from ragcun.embeddings.hub import resolve_model
from ragcun.embeddings.text_base import TextBase
from ragcun.errors import InputError


def test_minilm_is_what_its_authors_published():
    minilm = TextBase.load("minilm")
    texts = ["How do I open a file?", "Return the sum of a list.", "word " * 600, "é ü ß", ""]
    published = SentenceTransformer(resolve_model("minilm"), device="cpu")
    assert minilm.dimension == 384
    assert minilm.model.max_seq_length == 256
    assert minilm.distance == "cosine"
    assert minilm.ends_normalized
    ours = minilm.untouched_array(minilm.encode(texts, "document"))
    np.testing.assert_allclose(ours, published.encode(texts), atol=1e-6)


def test_freezing_the_whole_base(base):
    base.freeze(True)
    assert base.frozen
    assert not any(module.training for module in base.train().model.modules())


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_freezing_early_layers(base, count):
    base.freeze(True)
    base.freeze(False, count)
    frozen = {name for name, parameter in base.named_parameters() if not parameter.requires_grad}
    early = ("embeddings.", *(f"layer.{i}." for i in range(count))) if count else ()
    assert frozen == {name for name, _ in base.named_parameters() if any(part in name for part in early)}
    assert any("word_embeddings" in name for name in frozen) == (count > 0)
    assert not base.frozen
    assert base.train().model.training
    with pytest.raises(InputError, match=r"3 transformer layers.* 4"):
        base.freeze(False, 4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        *((name, "no such model folder") for name in ("/no/such/folder", "./missing", "a/b/c", "~/missing/model")),
        *((name, "minilm") for name in ("no-such-model-anywhere", "nobody/no-such-model", "not a name!")),
        (str(Path(__file__).parent), r"neither modules\.json nor config\.json"),
    ],
)
def test_what_is_no_model_without_the_hub(name, message, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=message) as caught:
        TextBase.load(name)
    assert "\n" not in str(caught.value)


def test_truncated_weights(tiny_bert, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_bert, folder)
    weights = next(folder.rglob("model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match="cannot load model"):
        TextBase.load(str(folder))


def test_fingerprint_is_stable(tiny_bert, texts, tmp_path):
    base = TextBase.load(tiny_bert, device="cpu")
    shutil.copytree(tiny_bert, tmp_path / "elsewhere")
    again = TextBase.load(str(tmp_path / "elsewhere"), normalize=False, device="cpu")
    assert base.fingerprint() == again.fingerprint()
    base.freeze(True)
    base.encode(texts[:3], "query")
    base(base.features(texts[:5], "document"))
    assert base.train().fingerprint() == again.fingerprint()


def next_number(base):
    weight = base.model.state_dict()["0.model.encoder.layer.1.attention.self.query.weight"]
    weight[3, 4] = torch.nextafter(weight[3, 4], torch.tensor(9.0))


@pytest.mark.parametrize(
    "change",
    [
        next_number,
        lambda base: setattr(base.model, "max_seq_length", 31),
        lambda base: base.model._modules.update({"1": Pooling(16, pooling_mode="cls")}),
        lambda base: base.model._modules.update({"2": LayerNorm(16)}),
        lambda base: base.model.tokenizer.add_tokens(["word1 word2"]),
    ],
)
def test_fingerprint_sees_what_changes_vectors(base, change):
    before = base.fingerprint()
    change(base)
    assert base.fingerprint() != before


def test_raw_and_normalised(tiny_bert, texts):
    normal, raw = (TextBase.load(tiny_bert, normalize=normalize, device="cpu") for normalize in (True, False))
    pooled = torch.from_numpy(normal.encode(texts[:20], "document"))
    assert torch.equal(pooled, torch.from_numpy(raw.encode(texts[:20], "document")))
    assert torch.equal(raw(pooled), pooled)
    assert not torch.allclose(pooled.norm(dim=1), torch.ones(20), atol=1e-2)
    torch.testing.assert_close(normal(pooled), raw(pooled) / raw(pooled).norm(dim=1, keepdim=True))
    assert np.array_equal(raw.untouched_array(pooled.numpy()), normal.untouched_array(pooled.numpy()))


@pytest.mark.parametrize("role", ["query", "document"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(
    "prompts", [{}, {"query": "word1 ", "document": "word2 "}, {"passage": "word3 "}], ids=["none", "both", "passage"]
)
def test_tokens_and_cached_vectors_agree(tiny_bert, texts, prompts, normalize, role):
    base = TextBase(SentenceTransformer(tiny_bert, device="cpu", prompts=prompts), "tiny", normalize).eval()
    several = [*texts[:10], " ".join(texts[:10])]
    with torch.no_grad():
        live = base(base.features(several, role))
    cached = base(torch.from_numpy(base.encode(several, role)))
    torch.testing.assert_close(live, cached, atol=1e-5, rtol=0)


def test_distance_is_the_published_one(tiny_bert):
    model = SentenceTransformer(tiny_bert, device="cpu", similarity_fn_name="dot")
    assert TextBase(model, "tiny").distance == "dot"
    model.similarity_fn_name = "manhattan"
    assert TextBase(model, "tiny").distance == "cosine"
