"""Sentences of a corpus that stand in for queries, and training pairs and judgments made of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from ragcun.data.beir import Collection, Document
from ragcun.data.pairs import PairDataset, Row
from ragcun.data.synthetic_queries import document_digest
from ragcun.data.texts import split_sentences
from ragcun.errors import InputError

STAND_INS = 2000
"""How many sentences of a corpus stand in for queries unless the user says otherwise."""
HELD_OUT, MOST_HELD_OUT = 0.1, 1000
FEWEST_DOCUMENTS, MOST_DOCUMENTS = 20, 100_000


def sample_queries(queries: Sequence[str], most: int | None, seed: int) -> list[str]:
    """Return `most` queries drawn at random; all, in their order, where there are no more or `most` is None."""
    if most is None or len(queries) <= most:
        return list(queries)
    return random.Random(seed).sample(queries, most)


def sample_documents(documents: Sequence[Document], most: int, seed: int) -> list[Document]:
    """Return at most `most` documents, in a random order that follows from the seed and their texts alone."""
    return sorted(documents, key=lambda document: document_digest(document, seed))[:most]


def sentences_as_queries(documents: Sequence[Document], most: int, seed: int) -> list[str]:
    """Return one sentence of each document (of the title where there is no text), or of a sample of `most`.

    Which one is drawn follows from the seed and the document's own text alone.
    """
    drawn = []
    for document in sample_documents([document for document in documents if document.content], most, seed):
        sentences = split_sentences(document.text) or split_sentences(document.title)
        drawn.append(random.Random(document_digest(document, seed)).choice(sentences))
    return drawn


@dataclass(frozen=True)
class Adaptation:
    """Training pairs, judgments and stand-ins for queries, all made from the documents of one corpus."""

    pairs: PairDataset  # title and one drawn sentence of a document as queries, the whole document as their positive
    held_out: Collection  # one drawn sentence of each document that makes no pairs, to be found among all documents
    stand_ins: list[str]  # drawn sentences that stand in for queries where there are none


def adaptation_data(documents: Sequence[Document], source: str, seed: int) -> Adaptation:
    """Make `Adaptation` from documents; a tenth of them, at most 1,000, is held out of the pairs.

    The positive is the document as it will be searched, whose vector is computed anyway. What is drawn follows from the
    seed and a document's own text. Of a larger corpus a sample of 100,000 documents is used.

    Raises:
        InputError: there are fewer than 20 documents with text.
    """
    filled = sample_documents([document for document in documents if document.text.strip()], MOST_DOCUMENTS, seed)
    distinct = list({document.content: document for document in filled}.values())
    if len(distinct) < FEWEST_DOCUMENTS:
        raise InputError(
            f"{source} has {len(distinct)} documents with text; adapting to a corpus needs at least {FEWEST_DOCUMENTS}"
        )
    count = min(round(HELD_OUT * len(distinct)), MOST_HELD_OUT)
    held, kept = distinct[:count], distinct[count:]
    corpus = {str(place): document for place, document in enumerate(distinct)}
    sentences = sentences_as_queries(held, count, seed)
    questions = {f"sentence of {place}": sentence for place, sentence in enumerate(sentences)}
    qrels = {f"sentence of {place}": {str(place): 1} for place in range(count)}
    rows = [row for document in kept for row in _rows(document, seed)]
    pairs = PairDataset.from_rows(rows, f"{source} (titles and sentences)", (document.content for document in distinct))
    held_out = Collection(f"{source}, held-out sentences", corpus, questions, qrels, "held-out")
    return Adaptation(pairs, held_out, sentences_as_queries(distinct, STAND_INS, seed))


def _rows(document: Document, seed: int) -> list[Row]:
    """Return the pairs of one document: its title, where it has one, and a sentence that is not all of it."""
    queries = [document.title.strip(), *sentences_as_queries([document], 1, seed)]
    return [(query, document.content, None) for query in dict.fromkeys(queries) if query not in ("", document.content)]
