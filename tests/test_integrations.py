"""The code of docs/vectors.md, run as it stands: real wrappers find what the checkpoint finds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ragcun import AsymmetricProjectionModel, TextBase
from ragcun.cli.main import main
from ragcun.data.beir import Collection, Document
from ragcun.embeddings.joined import JoinedBase
from ragcun.embeddings.lexical import LexicalChannel
from ragcun.retrieval.metrics import evaluate_run, mean
from ragcun.retrieval.systems import DenseRetriever, evaluate_retriever
from tests.models.helpers import moved

PAGE = Path(__file__).resolve().parents[1] / "docs" / "vectors.md"
SECTIONS = {
    "LangChain": ["langchain_huggingface"],
    "LlamaIndex": ["llama_index.core", "llama_index.embeddings.huggingface"],
    "A lexical channel of words": ["langchain_core"],
}
THINGS = ["kettle", "bicycle", "violin", "carpet", "camera", "piano", "lamp", "boat"]
TASKS = {"clean": "wipe the dirt off a", "repair": "mend a broken", "store": "put away a", "sell": "get money for a"}


@pytest.fixture
def collection() -> Collection:
    documents = {f"{task} {thing}": Document("", f"How to {task} a {thing}.") for thing in THINGS for task in TASKS}
    queries = {f"to {task} {thing}": f"I {TASKS[task]} {thing}" for thing in THINGS for task in ("clean", "store")}
    return Collection("made", documents, queries, {query: {query[3:]: 1} for query in queries}, "test")


@pytest.mark.slow
@pytest.mark.parametrize("section", SECTIONS)
def test_a_wrapper_retrieves_at_the_library_s_ndcg(collection, tmp_path, monkeypatch, section):
    for package in SECTIONS[section]:
        pytest.importorskip(package, reason="needs pip install 'ragcun[integrations]'")
    monkeypatch.chdir(tmp_path)
    code = re.search(rf"(?ms)^### {section}$.*?^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"))[1]
    documents = {name: document.content for name, document in collection.documents.items()}
    base = TextBase.load("minilm", device="cpu")
    if "words" in section:
        base = JoinedBase(base, LexicalChannel.fit([*documents.values()], 8), 0.3)
    encoder = moved(AsymmetricProjectionModel(base, normalize_output=True), 0.08)
    folder = "checkpoints/words/best_model" if "words" in section else "checkpoints/mine/best_model"
    encoder.save_pretrained(folder)
    for side in ("query", "document") if section == "LlamaIndex" else ():
        main(["export", "--model_path", folder, "--side", side, "--output_dir", f"exported/{side}"])
    names = {"documents": documents, "queries": collection.queries}
    exec(compile(code, f"{PAGE.name}, {section}", "exec"), names)
    own = evaluate_retriever(DenseRetriever("own", encoder), collection, cutoffs=(10,))
    assert names["hits"] == {query: list(found) for query, found in own.run.items()}
    run = {query: dict(zip(found, range(10, 0, -1), strict=True)) for query, found in names["hits"].items()}
    assert mean(evaluate_run(run, collection.qrels, (10,))) == own.mean
    encoder.encode_query = encoder.encode_document
    as_documents = evaluate_retriever(DenseRetriever("as documents", encoder), collection, cutoffs=(10,))
    assert abs(as_documents.mean["NDCG@10"] - own.mean["NDCG@10"]) > 0.01
