"""Published models with their authors' conventions, from a local hub cache that holds tiny stand-ins for them."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from ragcun.embeddings.hub import BGE_QUERY, apply_convention, convention_of
from ragcun.embeddings.text_base import TextBase

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TEXTS = ["word1 word2", "word3 word4 word5 word6 word7", "word8"]
PLAIN, OWN, BGE = "intfloat/e5-small-v2", "intfloat/e5-base", "BAAI/bge-small-en-v1.5"
E5_PROMPTS = ("query: ", "passage: ")
ASK = """
import json, logging, sys
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
from ragcun import TextBase
names, folder, texts = json.loads(sys.argv[1])
told = {}
for name in names:
    base = TextBase.load(name, device="cpu")
    told[name] = {
        "distance": base.distance,
        "prompts": [base.prompt("query"), base.prompt("document")],
        "vectors": [base.encode(texts, role).tolist() for role in ("query", "document")],
        "untouched": base.untouched_array(base.encode(texts, "query")).tolist(),
        "tokens": [base.features(texts, role)["input_ids"].tolist() for role in ("query", "document")],
    }
    if name == "intfloat/e5-small-v2":
        from ragcun import EmbeddingCache, IsotropicGaussianEncoder
        cache = EmbeddingCache(base, folder + "/cache")
        both = [cache.encode(texts, role).tolist() for role in ("query", "document")]
        told[name] |= {"cached": both, "rows": len(cache)}
        IsotropicGaussianEncoder(base).save_pretrained(folder + "/checkpoint")
print(json.dumps(told))
"""


def put_into_hub(cache: Path, name: str, folder: Path) -> Path:
    """Lay a model folder into a hub cache under a hub name."""
    place = cache / f"models--{name.replace('/', '--')}"
    shutil.copytree(folder, place / "snapshots" / COMMIT)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(COMMIT)
    return place / "snapshots" / COMMIT


def silent(folder: str, place: Path, **settings: object) -> Path:
    """Copy a model folder whose configuration then holds nothing but `settings`."""
    shutil.copytree(folder, place)
    file = place / "config_sentence_transformers.json"
    versions = json.loads(file.read_text())["__version__"]
    file.write_text(json.dumps({"__version__": versions, **settings}))
    return place


@pytest.fixture(scope="module")
def stand_ins(tiny_bert, tmp_path_factory) -> tuple[dict[str, dict], str, Path]:
    """What a process without network says of each name; its log; and a folder that holds hub, cache and checkpoint."""
    folder = tmp_path_factory.mktemp("published")
    hub = folder / "hub"
    bare = Path(tiny_bert).parent / "bert"
    put_into_hub(hub, "facebook/contriever", bare)
    put_into_hub(hub, PLAIN, silent(tiny_bert, folder / "plain"))
    own = {"prompts": {"query": "word9 "}, "similarity_fn_name": "dot"}
    put_into_hub(hub, OWN, silent(tiny_bert, folder / "own", **own))
    put_into_hub(hub, BGE, silent(tiny_bert, folder / "bge"))
    names = ["contriever", PLAIN, OWN, BGE]
    done = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps([names, str(folder), TEXTS])],
        env=os.environ | {"HF_HUB_CACHE": str(hub), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1]), done.stderr, folder


def test_contriever_is_the_masked_mean_of_the_last_layer_compared_by_dot_product(stand_ins, tiny_bert):
    from transformers import AutoModel, AutoTokenizer

    told = stand_ins[0]["contriever"]
    bare = Path(tiny_bert).parent / "bert"
    batch = AutoTokenizer.from_pretrained(bare)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        tokens = AutoModel.from_pretrained(bare)(**batch).last_hidden_state.double()
    mask = batch["attention_mask"].double()[:, :, None]
    assert 0 < mask.mean() < 1, "no padding: the mask would not matter"
    expected = ((tokens * mask).sum(1) / mask.sum(1)).numpy()
    assert told["distance"] == "dot"
    assert told["prompts"] == ["", ""]
    for vectors in (*told["vectors"], told["untouched"]):
        np.testing.assert_allclose(vectors, expected, atol=1e-6)


def test_e5_prompts_are_the_text_put_before_by_hand(stand_ins, tiny_bert):
    told, log, _ = stand_ins
    assert told[PLAIN]["prompts"] == list(E5_PROMPTS)
    assert told[PLAIN]["distance"] == "cosine"
    bare = TextBase.load(tiny_bert, device="cpu")
    assert bare.prompt("query") == bare.prompt("document") == ""
    for role, vectors, tokens in zip(E5_PROMPTS, told[PLAIN]["vectors"], told[PLAIN]["tokens"], strict=True):
        by_hand = [role + text for text in TEXTS]
        np.testing.assert_allclose(vectors, bare.encode(by_hand, "document"), atol=1e-6)
        assert np.abs(vectors - bare.encode(TEXTS, "document")).max() > 0.01
        assert tokens == bare.features(by_hand, "document")["input_ids"].tolist()
    assert f"{PLAIN}: distance cosine; query prompt 'query: '" in log


def test_prompts_tell_cached_queries_from_documents(stand_ins):
    told = stand_ins[0][PLAIN]
    assert told["rows"] == 2 * len(TEXTS)
    np.testing.assert_array_equal(told["cached"], told["vectors"])


def test_a_checkpoint_keeps_the_prompts(stand_ins):
    told, _, folder = stand_ins
    assert SentenceTransformer(str(folder / "checkpoint"), device="cpu").prompts == {
        "query": "query: ",
        "document": "passage: ",
    }
    from ragcun import RetrievalEncoder

    base = RetrievalEncoder.from_pretrained(folder / "checkpoint", "cpu").base
    assert [base.prompt("query"), base.prompt("document")] == list(E5_PROMPTS)
    np.testing.assert_allclose(base.encode(TEXTS, "query"), told[PLAIN]["vectors"][0], atol=1e-6)


def test_bge_asks_with_an_instruction_and_leaves_documents_alone(stand_ins, tiny_bert):
    told = stand_ins[0][BGE]
    assert told["prompts"] == [BGE_QUERY, ""]
    bare = TextBase.load(tiny_bert, device="cpu")
    np.testing.assert_allclose(told["vectors"][1], bare.encode(TEXTS, "document"), atol=1e-6)


def test_a_models_own_configuration_wins(stand_ins):
    told, log, _ = stand_ins
    assert told[OWN]["prompts"] == ["word9 ", ""]
    assert told[OWN]["distance"] == "dot"
    said = {line.split(":")[0] for line in log.splitlines() if "as its authors use it" in line}
    assert said == {"facebook/contriever", PLAIN, BGE}


@pytest.mark.parametrize("name", ["e5-small-v2", "intfloat/e5-small-v2", "contriever"])
def test_a_folder_of_a_published_name_is_only_a_folder(name, tiny_bert, tmp_path, monkeypatch, caplog):
    silent(tiny_bert, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.INFO, logger="ragcun"):
        base = TextBase.load(name, device="cpu")
    assert (base.prompt("query"), base.prompt("document"), base.distance) == ("", "", "cosine")
    assert not caplog.records
    np.testing.assert_array_equal(
        base.encode(TEXTS, "query"), TextBase.load(tiny_bert, device="cpu").encode(TEXTS, "query")
    )


@pytest.mark.parametrize(
    ("name", "distance", "query", "document"),
    [
        ("facebook/contriever", "dot", "", ""),
        ("facebook/contriever-msmarco", "dot", "", ""),
        *(
            (f"intfloat/e5-{size}{v}", "cosine", *E5_PROMPTS)
            for size in ("small", "base", "large")
            for v in ("", "-v2")
        ),
        *((f"intfloat/multilingual-e5-{size}", "cosine", *E5_PROMPTS) for size in ("small", "base", "large")),
        *((f"BAAI/bge-{size}-en{v}", "cosine", BGE_QUERY, "") for size in ("small", "large") for v in ("", "-v1.5")),
    ],
)
def test_known_names(name, distance, query, document):
    found = convention_of(name)
    assert (found.distance, found.query, found.document) == (distance, query, document)


@pytest.mark.parametrize(
    "name",
    [
        "contriever",
        "e5-small",
        "someone/e5-small",
        "intfloat/multilingual-e5-large-instruct",
        "intfloat/e5-mistral-7b-instruct",
        "BAAI/bge-small-zh-v1.5",
        "BAAI/bge-small-en-v1x5",
        "BAAI/bge-m3",
        "BAAI/bge-reranker-base",
    ],
)
def test_other_names_have_no_convention(name):
    assert convention_of(name) is None


def test_a_configured_cosine_is_not_taken_for_silence(tiny_bert):
    model = SentenceTransformer(tiny_bert, device="cpu", similarity_fn_name="cosine")
    apply_convention(model, "facebook/contriever")
    assert model.similarity_fn_name == "cosine"
