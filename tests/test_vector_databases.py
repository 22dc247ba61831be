"""The code of docs/vectors.md, run as it stands: the databases find what `top_k` finds."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from ragcun import IsotropicGaussianEncoder, RetrievalEncoder, TextBase, load_collection, top_k
from ragcun.embeddings.joined import JoinedBase
from ragcun.embeddings.lexical import LexicalChannel

PAGE = Path(__file__).resolve().parents[1] / "docs" / "vectors.md"
FOLDERS = {"encode": "checkpoints/mine/best_model", "A lexical channel": "checkpoints/words/best_model"}
"""Checkpoints by the section that encodes with them."""


def blocks() -> dict[str, str]:
    """Return the code of each section of the page, by its title; that before the first one is called encode."""
    databases = PAGE.read_text(encoding="utf-8").partition("## Vector databases")[2].partition("\n## ")[0]
    first, *rest = re.split(r"^### (.+)$", databases, flags=re.MULTILINE)
    sections = {"encode": first, **dict(zip(rest[::2], rest[1::2], strict=True))}
    code = {title: re.findall(r"(?ms)^```python\n(.*?)^```$", text) for title, text in sections.items()}
    return {title: "\n".join(parts) for title, parts in code.items() if parts}


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
            exec(compile(blocks()[title], f"{PAGE.name}, {title}", "exec"), names)
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


def test_the_page_has_no_code_that_is_not_run():
    assert set(blocks()) == {*FOLDERS, "numpy", "Qdrant", "Milvus"}
