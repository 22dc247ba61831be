"""A checkpoint with a lexical channel of word pieces is one plain folder of sentence-transformers."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling

from ragcun.data.beir import load_collection
from ragcun.embeddings.joined import JoinedBase
from ragcun.embeddings.lexical import LexicalChannel
from ragcun.embeddings.lexical_export import piece_tokenizer
from ragcun.embeddings.text_base import TextBase
from ragcun.errors import InputError
from ragcun.models.encoder import SYSTEMS, RetrievalEncoder
from ragcun.retrieval.mteb import collection_task, evaluate_task, name_for_mteb
from ragcun.retrieval.systems import DenseRetriever, evaluate_retriever
from tests.models.helpers import moved

PLAIN = """
import json, sys
import numpy as np
sys.modules["ragcun"] = None  # a process that cannot import it
from sentence_transformers import SentenceTransformer
folder, texts = sys.argv[1], json.load(sys.stdin)
model = SentenceTransformer(folder, device="cpu")
np.savez(folder + "/../plain.npz", query=model.encode_query(texts), document=model.encode_document(texts))
model.save_pretrained(folder + "/../again")
"""


def text_model(tiny_bert: str, pooling: str) -> TextBase:
    """Return the tiny base with prompts, a length limit, and another pooling."""
    model = SentenceTransformer(tiny_bert, device="cpu")
    prompts = {"query": "word1 word7 ", "document": "word2 "}
    model = SentenceTransformer(modules=[model[0], Pooling(16, pooling), model[2]], device="cpu", prompts=prompts)
    model.max_seq_length = 9
    return TextBase(model, "tiny")


def joined(tiny_bert: str, texts: list[str], pooling: str = "mean") -> JoinedBase:
    base = text_model(tiny_bert, pooling)
    prompts = [base.prompt("query"), base.prompt("document")]
    return JoinedBase(
        base, LexicalChannel.fit(texts, 6, "pieces", tokenizer=piece_tokenizer(base), prompts=prompts), 0.3
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pooling", "settings"),
    [
        ("mean", {"output_dim": 12, "normalize_output": True}),
        ("cls", {"head": "mlp"}),
    ],
)
def test_a_process_without_ragcun_gives_the_same_embeddings(tiny_bert, texts, tmp_path, pooling, settings):
    encoder: Any = moved(SYSTEMS["asymmetric"](joined(tiny_bert, texts[:200], pooling), **settings))
    encoder.save_pretrained(tmp_path / "model")
    some = [*texts[190:230], "", "never seen", "word1 word2", " ".join(texts[:5])]
    subprocess.run(
        [sys.executable, "-c", PLAIN, str(tmp_path / "model")], input=json.dumps(some), text=True, check=True
    )
    plain = np.load(tmp_path / "plain.npz")
    again = RetrievalEncoder.from_pretrained(tmp_path / "model", device="cpu")
    resaved = SentenceTransformer(str(tmp_path / "again"), device="cpu")
    for role in ("query", "document"):
        mine = encoder.encode(some, role)
        np.testing.assert_allclose(plain[role], mine, atol=1e-5, rtol=0)
        np.testing.assert_array_equal(again.encode(some, role), mine)
        theirs = resaved.encode_query(some) if role == "query" else resaved.encode_document(some)
        np.testing.assert_array_equal(theirs, plain[role])
    assert again.base.fingerprint() == encoder.base.fingerprint()


def test_pieces_of_prompts_and_beyond_the_length_limit_are_no_terms(tiny_bert, texts):
    base = joined(tiny_bert, [*texts, "word1 word2 word7"])
    assert not {"word1", "word2", "word7"} & base.channel.vocabulary.keys()
    long = "word11 word12 word13 word14 word15 word16 word17 word18 word19"
    cut = {"query": long.split()[:5], "document": long.split()[:6]}
    for role, words in cut.items():
        np.testing.assert_array_equal(base.lexical([long], role), base.lexical([" ".join(words)], role))


def test_mteb_evaluates_the_folder(tiny_bert, collection_folder, tmp_path):
    pytest.importorskip("mteb")
    collection = load_collection(collection_folder, "test")
    contents = [document.content for document in collection.documents.values()]
    encoder: Any = moved(SYSTEMS["asymmetric"](joined(tiny_bert, contents)))
    encoder.save_pretrained(tmp_path / "model")
    here = evaluate_retriever(DenseRetriever("ours", encoder), collection).mean["NDCG@10"]
    model = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    name_for_mteb(model, "model")
    there = evaluate_task(model, collection_task(collection), tmp_path / "cache")["NDCG@10"]
    assert 0.05 < here < 0.95
    assert there == pytest.approx(here, abs=1e-3)


def test_other_poolings_are_refused(tiny_bert):
    with pytest.raises(InputError, match=r"max.*words"):
        piece_tokenizer(text_model(tiny_bert, "max"))
