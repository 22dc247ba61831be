"""The code of docs/vectors.md, run as it stands: databases and wrappers find what the checkpoint finds."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from ragcun import AsymmetricProjectionModel, IsotropicGaussianEncoder, RetrievalEncoder, TextBase, top_k
from ragcun.cli.main import main
from ragcun.data.beir import Collection, Document, load_collection
from ragcun.embeddings.joined import JoinedBase
from ragcun.embeddings.lexical import LexicalChannel
from ragcun.retrieval.metrics import evaluate_run, mean
from ragcun.retrieval.systems import DenseRetriever, evaluate_retriever
from tests.models.helpers import moved

PAGE = Path(__file__).resolve().parents[1] / "docs" / "vectors.md"
PARTS = re.split(r"(?m)^##+ (.+)$", PAGE.read_text(encoding="utf-8"))
BLOCK = re.compile(r"(?ms)^```python\n(.*?)^```$")
CODE = {title: "\n".join(BLOCK.findall(text)) for title, text in zip(PARTS[1::2], PARTS[2::2], strict=True)}
"""The code of each section of the page, by its title."""
FOLDERS = {"Vector databases": "checkpoints/mine/best_model", "A lexical channel": "checkpoints/words/best_model"}
"""Checkpoints by the section that encodes with them."""
SECTIONS = {
    "LangChain": ["langchain_huggingface"],
    "LlamaIndex": ["llama_index.core", "llama_index.embeddings.huggingface"],
    "A lexical channel of words": ["langchain_core"],
}
THINGS = ["kettle", "bicycle", "violin", "carpet", "camera", "piano", "lamp", "boat"]
TASKS = {"clean": "wipe the dirt off a", "repair": "mend a broken", "store": "put away a", "sell": "get money for a"}


@pytest.fixture(scope="module")
def checkpoint(tiny_bert, texts, tmp_path_factory):
    """A folder that holds checkpoints whose embeddings are not of length 1, so that cosine would rank otherwise."""
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("place")
    base = TextBase.load(tiny_bert, device="cpu")
    for each, folder in zip((base, JoinedBase(base, LexicalChannel.fit(texts, 8), 0.3)), FOLDERS.values(), strict=True):
        IsotropicGaussianEncoder(each, output_dim=8, head="mlp").save_pretrained(place / folder)
    return place


@pytest.fixture
def page(checkpoint, collection_folder, tmp_path, monkeypatch):
    """Run one section of the page after one that encodes; return all names they made."""
    collection = load_collection(collection_folder)
    documents = {name: document.content for name, document in collection.documents.items()}

    def run(encodes: str, section: str) -> dict:
        (tmp_path / "checkpoints").symlink_to(checkpoint / "checkpoints")
        monkeypatch.chdir(tmp_path)
        names = {"documents": documents, "queries": collection.queries}
        for title in (encodes, section):
            exec(compile(CODE[title], f"{PAGE.name}, {title}", "exec"), names)
        return names

    return run


@pytest.mark.parametrize(
    ("database", "packages", "distance"),
    [("numpy", [], float), ("Qdrant", ["qdrant_client"], float), ("Milvus", ["pymilvus", "milvus_lite"], np.sqrt)],
)
@pytest.mark.parametrize("encodes", FOLDERS)
def test_a_database_finds_the_same(page, checkpoint, encodes, database, packages, distance):
    """By plain distances, or by their squares."""
    for package in packages:
        pytest.importorskip(package)
    names = page(encodes, database)
    encoder = RetrievalEncoder.from_pretrained(checkpoint / FOLDERS[encodes], device="cpu")
    documents = encoder.encode_document(list(names["documents"].values()))
    assert np.ptp(np.linalg.norm(documents, axis=1)) > 1e-3
    found = top_k(encoder.encode_query(list(names["queries"].values())), documents, 11)
    assert np.diff(-found.scores, axis=1).min() > 1e-6, "two distances that float32 cannot tell apart: use other texts"
    ids, hits = list(names["documents"]), names[f"{database.lower()}_hits"]
    assert hits.keys() == names["queries"].keys()
    for query, rows, scores in zip(names["queries"], found.indices[:, :10], found.scores[:, :10], strict=True):
        assert [name for name, _ in hits[query]] == [ids[row] for row in rows]
        np.testing.assert_allclose([distance(value) for _, value in hits[query]], -scores, atol=1e-4, rtol=0)


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
    exec(compile(CODE[section], f"{PAGE.name}, {section}", "exec"), names)
    own = evaluate_retriever(DenseRetriever("own", encoder), collection, cutoffs=(10,))
    assert names["hits"] == {query: list(found) for query, found in own.run.items()}
    run = {query: dict(zip(found, range(10, 0, -1), strict=True)) for query, found in names["hits"].items()}
    assert mean(evaluate_run(run, collection.qrels, (10,))) == own.mean
    encoder.encode_query = encoder.encode_document
    as_documents = evaluate_retriever(DenseRetriever("as documents", encoder), collection, cutoffs=(10,))
    assert abs(as_documents.mean["NDCG@10"] - own.mean["NDCG@10"]) > 0.01
