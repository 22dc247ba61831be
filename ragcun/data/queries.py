"""Queries without judgments: read from files, or sentences of the corpus that stand in for them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from ragcun.data.augment import document_digest
from ragcun.data.beir import Document, load_collection
from ragcun.data.documents import read_documents
from ragcun.data.sentences import split_sentences
from ragcun.errors import InputError

STAND_INS = 2000
"""How many sentences of a corpus stand in for queries unless the user says otherwise."""


def read_queries(path: str | Path, split: str | None = None) -> list[str]:
    """Read the texts of queries, in the order of the file; blank ones are passed over.

    Args:
        path: a file as `read_documents` takes it (.txt with one query a line, or records with the field `text`), or a
            BEIR folder, which means its ``queries.jsonl``.
        split: of a BEIR folder, take the queries that this split judges; None takes all.

    Raises:
        InputError: there is no such file or split, it holds no queries, or has wrong records.
    """
    path = Path(path)
    if split is not None:
        if not path.is_dir():
            raise InputError(f"{path} is no BEIR folder, so it has no split {split!r}; leave the split out")
        return list(load_collection(path, split).queries.values())
    file = path / "queries.jsonl" if path.is_dir() else path
    queries = [document.content for document in read_documents(file) if document.content]
    if not queries:
        raise InputError(f"{file} holds no queries; give at least one")
    return queries


def sample_queries(queries: Sequence[str], most: int | None, seed: int) -> list[str]:
    """Return `most` queries drawn at random; all, in their order, where there are no more or `most` is None."""
    if most is None or len(queries) <= most:
        return list(queries)
    return random.Random(seed).sample(queries, most)


def sample_documents(documents: Sequence[Document], most: int, seed: int) -> list[Document]:
    """Return at most `most` documents, in a random order that follows from the seed and their texts alone."""
    return sorted(documents, key=lambda document: document_digest(document, seed))[:most]


def sentences_as_queries(documents: Sequence[Document], most: int, seed: int) -> list[str]:
    """Return one drawn sentence of each document, or of a sample of `most`; of the title where there is no text.

    Which sentence is drawn follows from the seed and the document's own text alone.
    """
    drawn = []
    for document in sample_documents([document for document in documents if document.content], most, seed):
        sentences = split_sentences(document.text) or split_sentences(document.title)
        drawn.append(random.Random(document_digest(document, seed)).choice(sentences))
    return drawn
