"""What a corpus without labels gives to train on and to judge by: its own titles and sentences as queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ragcun.data.beir import Collection, Document
from ragcun.data.pairs import PairDataset, Row
from ragcun.data.queries import STAND_INS, sample_documents, sentences_as_queries
from ragcun.errors import InputError

HELD_OUT, MOST_HELD_OUT = 0.1, 1000
FEWEST_DOCUMENTS = 20
MOST_DOCUMENTS = 100_000


@dataclass(frozen=True)
class Adaptation:
    """Training pairs, judgments and stand-ins for queries, all made from the documents of one corpus.

    Attributes:
        pairs: title and one drawn sentence of a document as queries, the whole document as their positive.
        held_out: one drawn sentence of each document that makes no pairs, to be found among all documents.
        stand_ins: drawn sentences that stand in for queries where there are none.
    """

    pairs: PairDataset
    held_out: Collection
    stand_ins: list[str]


def adaptation_data(documents: Sequence[Document], source: str, seed: int) -> Adaptation:
    """Make `Adaptation` from documents; a tenth of them, at most 1,000, is held out of the pairs.

    The positive is the document as it will be searched, so that its vector is the one that is computed anyway. What is
    drawn follows from the seed and a document's own text. Of a larger corpus a sample of 100,000 documents is used.

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
