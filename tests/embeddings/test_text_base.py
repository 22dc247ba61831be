"""The text base: what is frozen, which vectors it hands on, and its fingerprint."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import LayerNorm
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from ragcun import InputError, IsotropicGaussianEncoder, TextBase
from ragcun.embeddings.hub import resolve_model
from tests.conftest import save_tiny_bert
from tests.training.runs import cut


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


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_freezing_early_layers_and_the_whole_base(base, count):
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
    base.freeze(True)
    assert base.frozen
    assert not any(module.training for module in base.train().model.modules())


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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("train", [False, True])
def test_a_base_stored_in_half_precision_computes_in_float32(tiny_bert, texts, tmp_path, dtype, train):
    SentenceTransformer(tiny_bert, device="cpu").to(dtype).save_pretrained(str(tmp_path / "half"))
    base = TextBase.load(str(tmp_path / "half"), device="cpu")
    library = SentenceTransformer(str(tmp_path / "half"), device="cpu", model_kwargs={"dtype": "float32"})
    encoder = IsotropicGaussianEncoder(base, head="mlp")
    np.testing.assert_allclose(
        base.untouched_array(base.encode(texts[:9], "query")), library.encode(texts[:9]), atol=1e-6
    )
    encoder.freeze_base(not train)
    with torch.autocast("cpu", torch.bfloat16, enabled=train):
        vectors = base(base.features(texts[:9], "query"))
    assert (vectors.dtype, vectors.requires_grad) == (torch.float32, train)
    assert {weight.dtype for weight in encoder.parameters()} == {torch.float32}
    encoder.save_pretrained(tmp_path / "checkpoint")
    exported = SentenceTransformer(str(tmp_path / "checkpoint"), device="cpu").encode(texts[:9])
    np.testing.assert_allclose(encoder.encode(texts[:9]), exported, atol=1e-5)
    np.testing.assert_allclose(encoder.to(dtype).encode(texts[:9]), exported, atol=0.03)


def edit(name, **settings):
    """Return what changes settings in a JSON file of a model folder."""

    def change(folder):
        path = folder / name
        found = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**found, **settings}))

    return change


def without(*names):
    return lambda folder: [(folder / name).unlink(missing_ok=True) for name in names]


def vocabulary(words):
    def change(folder):
        for path in folder.glob("*token*"):
            path.unlink()
        (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
        edit("tokenizer_config.json", tokenizer_class="BertTokenizer")(folder)

    return change


def modules(*types):
    return lambda folder: (folder / "modules.json").write_text(
        json.dumps(
            [{"idx": i, "name": str(i), "path": "", "type": f"sentence_transformers.{t}"} for i, t in enumerate(types)]
        )
    )


def plain(architecture):
    def change(folder):
        (folder / "modules.json").unlink()
        edit("config.json", architectures=[architecture])(folder)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("tokenizer.json", "vocab.txt"), r"lacks the tokenizer .*tokenizer\.json, vocab\.txt"),
        (without("tokenizer.json", "vocab.txt", "tokenizer_config.json"), "lacks the tokenizer"),
        (
            lambda folder: (folder / "tokenizer.json").write_text('{"model": {'),
            r"tokenizer\.json, line 1: not valid JSON",
        ),
        (lambda folder: (folder / "tokenizer.json").write_text('{"version": "1"}'), r"tokenizer\.json .*no model"),
        (vocabulary(["word1", "word2"]), "7 tokens.*205 rows"),
        (vocabulary([f"word{i}" for i in range(300)]), "305 tokens.*205 rows"),
        (edit("adapter_config.json", base_model_name_or_path="owner/big"), "an adapter of owner/big: merge it first"),
        (modules("models.Transformer", "sparse_encoder.models.SpladePooling"), "a sparse encoder"),
        (modules("models.CLIPModel"), "an image model"),
        (lambda folder: cut(next(folder.rglob("model.safetensors"))), "cannot load model"),
        (edit("config_sentence_transformers.json", model_type="SparseEncoder"), "a sparse encoder"),
        (edit("config_sentence_transformers.json", model_type="CrossEncoder"), "a classifier or cross-encoder"),
        (plain("BertForSequenceClassification"), "a classifier or cross-encoder"),
        (plain("RobertaForQuestionAnswering"), "a classifier or cross-encoder"),
        (edit("config_sentence_transformers.json", similarity_fn_name="manhattan"), "manhattan.*cosine"),
    ],
)
def test_what_is_no_embedding_model_of_texts_is_named(tiny_bert, tmp_path, change, message):
    folder = shutil.copytree(tiny_bert, tmp_path / "model")
    change(folder)
    with pytest.raises(InputError, match=message):
        TextBase.load(str(folder), device="cpu")


def test_a_vector_that_is_not_finite_names_its_text(base):
    base.model[0].model.embeddings.word_embeddings.weight.data[5 + 2] = torch.nan
    with pytest.raises(InputError, match=r"query text 1 \(from 0\) of 3, 'word2 word9'"):
        base.encode(["word1 word3 word4", "word2 word9", "word2"], "query")


def test_texts_whose_words_are_nearly_all_unknown_are_refused(tiny_bert, texts, tmp_path):
    folder = shutil.copytree(tiny_bert, tmp_path / "model")
    vocabulary([f"other{i}" for i in range(200)])(folder)
    base = TextBase.load(str(folder), device="cpu")
    assert base.encode(texts[:3], "query").shape == (3, 16)
    with pytest.raises(InputError, match=r"tokens of 40 document texts are unknown"):
        base.encode(texts[:40], "document")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_decoder_without_pad_token_and_with_few_positions(tmp_path, dtype):
    words = {f"word{i}": i for i in range(40)} | {"<end>": 40}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<end>"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>").save_pretrained(tmp_path)
    shape = {"vocab_size": 41, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 12, "eos_token_id": 40}
    GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=40)).to(dtype).save_pretrained(tmp_path)
    base = TextBase.load(str(tmp_path), device="cpu")
    long = "word1 word2 " * 30
    vectors = base.encode(["word3", long], "query")
    assert base.model.max_seq_length == 12
    np.testing.assert_allclose(vectors[0], base.encode(["word3"], "query")[0], atol=1e-6)
    np.testing.assert_allclose(vectors[1], base.encode(["word1 word2 " * 6], "query")[0], atol=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        edit("config.json", hidden_act="relu"),
        edit("tokenizer_config.json", truncation_side="left"),
        edit("1_Pooling/config.json", pooling_mode="max"),
        edit("sentence_bert_config.json", do_lower_case=True),
    ],
)
def test_fingerprint_sees_what_a_folders_files_say(tiny_bert, tmp_path, change):
    folder = shutil.copytree(tiny_bert, tmp_path / "model")
    before = TextBase.load(str(folder), device="cpu").fingerprint()
    change(folder)
    assert TextBase.load(str(folder), device="cpu").fingerprint() != before


def test_a_model_that_the_cache_describes_is_loaded_when_it_is_first_needed(tiny_bert, tmp_path, texts):
    """Until then its fingerprint, prompts and distance are known; another file, or a wrong description, is noticed."""
    folder, cache = shutil.copytree(tiny_bert, tmp_path / "model"), tmp_path / "cache"
    first, again = (TextBase.load(folder, device="cpu", cache=cache) for _ in range(2))
    again.compute_in("float32")
    again.to("cpu").eval()
    known = [(b.fingerprint(), b.prompt("query"), b.distance, b.dimension, b.ends_normalized) for b in (first, again)]
    assert known[0] == known[1]
    assert [any(True for _ in each.parameters()) for each in (first, again)] == [True, False]
    assert np.array_equal(first.encode(texts[:3], "query"), again.encode(texts[:3], "query"))
    assert again.fingerprint() == first.fingerprint()
    (description,) = (cache / "models").iterdir()
    wrong = TextBase.load(shutil.copytree(tiny_bert, tmp_path / "same"), device="cpu", cache=cache)
    assert not list(wrong.parameters())
    save_tiny_bert(folder, layers=2)
    assert list(TextBase.load(folder, device="cpu", cache=cache).parameters())
    description.write_text(description.read_text().replace(known[0][0], "0" * 64))
    wrong = TextBase.load(tmp_path / "same", device="cpu", cache=cache)
    with pytest.raises(InputError, match=description.name):
        wrong.encode(texts[:1], "query")
    description.write_text("{}")
    with pytest.raises(InputError, match=description.name):
        TextBase.load(tmp_path / "same", device="cpu", cache=cache)
