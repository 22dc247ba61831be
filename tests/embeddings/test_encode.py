"""Encoding within a budget of tokens: the vectors of sentence-transformers, whatever the batches and the arithmetic."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Router, StaticEmbedding
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

import ragcun.embeddings.encode as encoding
from ragcun import EmbeddingCache, InputError, IsotropicGaussianEncoder, TextBase, top_k
from ragcun.embeddings.base import ROLES, Base
from ragcun.embeddings.encode import resolve_dtype
from ragcun.tensors import model_digest, tensors_digest
from ragcun.training.processes import make_accelerator

on_cpu = partial(SentenceTransformer, device="cpu")
with_prompts = partial(on_cpu, prompts={"query": "word1 word2 ", "document": "word3 "})
with_default_prompt = partial(on_cpu, prompts={"other": "word7 ", "query": "word1 "}, default_prompt_name="other")


def without_prompt_in_pooling(folder: str) -> SentenceTransformer:
    model = with_prompts(folder)
    model.set_pooling_include_prompt(False)
    return model


def cut_to_five_tokens(folder: str) -> SentenceTransformer:
    model = with_prompts(folder)
    model.max_seq_length = 5
    return model


def last_token(folder: str) -> SentenceTransformer:
    return on_cpu(modules=[on_cpu(folder)[0], Pooling(16, pooling_mode="lasttoken")])


def cut_to_six_dimensions(folder: str) -> SentenceTransformer:
    return on_cpu(modules=[on_cpu(folder)[0], Pooling(16)], truncate_dim=6)


def routed(folder: str) -> SentenceTransformer:
    """A BERT for documents, a table of word vectors for queries."""
    return on_cpu(modules=[Router.for_query_document([word_table()], [on_cpu(folder)[0], Pooling(16)])])


def table_alone(folder: str) -> SentenceTransformer:
    return on_cpu(modules=[word_table()])


def word_table() -> StaticEmbedding:
    tokenizer = Tokenizer(WordLevel({f"word{i}": i for i in range(200)} | {"[UNK]": 200}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    weights = np.random.default_rng(0).standard_normal((201, 16), dtype=np.float32)
    return StaticEmbedding(tokenizer, embedding_weights=weights)


MODELS = [with_prompts, without_prompt_in_pooling, cut_to_five_tokens, routed, table_alone]


@pytest.fixture(autouse=True)
def few_tokens(monkeypatch):
    """Small batches and blocks, so that a few texts make many of both."""
    monkeypatch.setattr(encoding, "CPU_TOKENS", 60)
    monkeypatch.setattr(encoding, "BLOCK_CHARACTERS", 2000)


def test_one_side_of_a_routed_base_is_a_model_of_its_own(tiny_bert, texts):
    encoder = IsotropicGaussianEncoder(TextBase(routed(tiny_bert), "routed"))
    for side in ROLES:
        found = encoder.to_sentence_transformer(side).encode(texts[:9])
        np.testing.assert_allclose(found, encoder.encode(texts[:9], side), atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_a_partition_within_budget_longest_first(seed):
    lengths = np.random.default_rng(seed).integers(0, 300, 400)
    groups = encoding.pack(lengths, 256, 7)
    assert sorted(np.concatenate(groups)) == list(range(400))
    ordered = lengths[np.concatenate(groups)]
    assert (ordered[:-1] >= ordered[1:]).all()
    for group in groups:
        assert len(group) <= 7
        assert lengths[group].max() * len(group) <= 256 or len(group) == 1
    for group in groups[:-1]:
        assert len(group) == 7 or lengths[group[0]] * (len(group) + 1) > 256, "one more would fit"
    assert encoding.pack([], 10, 10) == []
    assert [group.tolist() for group in encoding.pack([0, 0, 0], 2, 9)] == [[0, 1], [2]]


@pytest.mark.parametrize("make", [*MODELS, with_default_prompt, cut_to_six_dimensions, last_token])
def test_vectors_are_those_of_sentence_transformers(make, tiny_bert, texts):
    several = [*texts[:70], " ".join(texts[:20]), "word7", "nothing it knows", *texts[3:6]]
    model = make(tiny_bert)
    expected = model.encode_query(several), model.encode_document(several)
    base = TextBase(make(tiny_bert), "tiny")
    for role, vectors in zip(("query", "document"), expected, strict=True):
        ours = base.encode(several, role, batch_size=9)
        assert ours.dtype == np.float32
        assert ours.shape == vectors.shape
        np.testing.assert_allclose(base.untouched_array(ours), vectors, atol=2e-6)
    assert not np.allclose(*expected, atol=1e-3) or make in (cut_to_six_dimensions, last_token, table_alone)


def test_batches_keep_to_budget_and_rows_and_tokenise_each_text_once(base, texts):
    asked = []

    def preprocess(some: list[str]) -> dict[str, Any]:
        asked.extend(some)
        return base.features(some, "document")

    found = list(encoding.batches(texts, preprocess, 60, 8))
    assert sorted(asked) == sorted(texts)
    assert sorted(np.concatenate([rows for rows, _ in found])) == list(range(len(texts)))
    for _, features in found:
        ids = features["input_ids"]
        assert ids.numel() <= 60
        assert 1 <= len(ids) <= 8


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("make", MODELS)
def test_features_are_those_of_a_batch_tokenised_alone(make, side, tiny_bert, texts):
    base = TextBase(make(tiny_bert), "tiny")
    if make is not table_alone:
        base.model.tokenizer.padding_side = side
    several = [*texts[:60], "", " ".join(texts[:20])]
    for rows, features in encoding.batches(several, lambda some: base.features(some, "document"), 60, 8):
        alone = base.features([several[i] for i in rows], "document")
        assert features.keys() == alone.keys()
        for name, value in alone.items():
            assert torch.equal(features[name], value) if torch.is_tensor(value) else features[name] == value


def test_progress_counts_every_character_once(base, texts):
    with encoding.progress_bar(texts, "document") as bar:
        base.encode(texts[:100], "document", progress=bar)
        assert bar.n == sum(map(len, texts[:100]))
        base.encode(texts[100:], "document", progress=bar)
        assert bar.n == bar.total


def test_bfloat16_is_near_float32_and_leaves_the_weights_alone(base, texts):
    before, exact = tensors_digest(base.state_dict()), base.encode(texts, "document")
    base.compute_in("bfloat16")
    near = base.encode(texts, "document")
    assert near.dtype == np.float32
    assert not np.array_equal(near, exact)
    # bfloat16 rounds by 2^-9 of a number at most; some 30 such roundings in a row, added like independent errors,
    # turn a vector by about sqrt(30)·2^-9 = 0.011, and its cosine by half the square of that.
    cosines = (near * exact).sum(1) / np.linalg.norm(near, axis=1) / np.linalg.norm(exact, axis=1)
    assert cosines.min() > 1 - (3 * 0.011) ** 2 / 2
    assert tensors_digest(base.state_dict()) == before
    base.compute_in("float32")
    np.testing.assert_array_equal(base.encode(texts, "document"), exact)


def test_vectors_do_not_depend_on_autocast_around_them(base, texts):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = base.encode(texts[:30], "query")
    np.testing.assert_array_equal(inside, base.encode(texts[:30], "query"))


def test_the_cache_keeps_arithmetics_apart(base, texts, tmp_path):
    exact = EmbeddingCache(base, tmp_path)
    assert exact.folder.name == model_digest(base.model)[:32], "a folder of float32 vectors keeps its name"
    vectors = exact.encode(texts[:20], "document")
    base.compute_in("bfloat16")
    near = EmbeddingCache(base, tmp_path)
    assert near.folder != exact.folder
    np.testing.assert_array_equal(near.encode(texts[:20], "document"), base.encode(texts[:20], "document"))
    base.compute_in("float32")
    np.testing.assert_array_equal(EmbeddingCache(base, tmp_path).encode(texts[:20], "document"), vectors)


@pytest.mark.parametrize(
    ("features", "native"),
    [
        ({"avx512_bf16": True, "avx512_f": True}, "bfloat16"),
        ({"amx_bf16": True}, "bfloat16"),
        ({"avx512_bf16": False, "amx_bf16": False, "avx512_f": True, "bf16": True}, "float32"),
    ],
)
def test_auto_is_what_the_processor_says(features, native, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features, raising=False)
    assert resolve_dtype("auto", torch.device("cpu")) == native
    assert resolve_dtype("bfloat16", torch.device("cpu")) == "bfloat16"
    assert resolve_dtype("auto", torch.device("meta")) == "float32"


@pytest.mark.parametrize("native", [True, False])
def test_auto_on_a_gpu_is_native_too(native, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    assert resolve_dtype("auto", torch.device("cuda")) == ("bfloat16" if native else "float16")
    assert resolve_dtype("float16", torch.device("cuda")) == "float16"


def test_what_cannot_be_computed_is_refused(base):
    for dtype, message in (("float16", "float16 needs a GPU"), ("int4", "got 'int4'")):
        with pytest.raises(InputError, match=message):
            base.compute_in(dtype)
    assert base.dtype == "float32"
    Base(4).compute_in("float32")
    with pytest.raises(InputError, match="--base_dtype bfloat16 needs a text model"):
        Base(4).compute_in("bfloat16")


@pytest.mark.parametrize("device", ["cuda:99", "cuda:x", "tpu", "gpu", "CUDA", "", "meta", 99])
def test_a_device_that_is_not_there_is_one_sentence_at_every_door(base, tiny_bert, device):
    encoder, rows = IsotropicGaussianEncoder(base, head="linear"), np.ones((2, 4), dtype=np.float32)
    for door in (
        lambda: TextBase.load(tiny_bert, device=device),
        lambda: encoder.encode(["word1"], device=device),
        lambda: top_k(rows, rows, 1, device=device),
        lambda: make_accelerator(device),
    ):
        with pytest.raises(InputError, match=f"--device {device}: there is no such device here"):
            door()
