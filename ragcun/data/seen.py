"""Which documents a model has seen: hashes of the texts that were training positives, kept with a checkpoint.

Documents are the same where their texts are once white space is collapsed, whatever their ids or collections. A hash is
16 bytes of BLAKE2b, so that two of ten million texts share one with probability 1.5e-25.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ragcun.data.beir import Collection, Document
from ragcun.data.documents import read_documents
from ragcun.data.pairs import PairDataset
from ragcun.errors import InputError
from ragcun.files import read_json

if TYPE_CHECKING:
    from ragcun.data.holdout import HoldOut

logger = logging.getLogger(__name__)

SEEN = "ragcun/seen_documents.json"
"""Where a checkpoint folder keeps the hashes: a sorted JSON array of hexadecimal texts."""
_HASH = re.compile(r"[0-9a-f]{32}")


def normalised_bytes(text: str) -> bytes:
    r"""Return what tells a document's text from another one's: white space collapsed, in UTF-8.

    >>> normalised_bytes(" Heat  flow\n")
    b'Heat flow'
    """
    return " ".join(text.split()).encode(errors="surrogatepass")


def text_hash(text: str) -> str:
    r"""Return the hash of a text with white space collapsed, in hexadecimal.

    >>> text_hash(" Heat  flow\n") == text_hash("Heat flow")
    True
    """
    return hashlib.blake2b(normalised_bytes(text), digest_size=16).hexdigest()


def text_hashes(texts: Iterable[str]) -> frozenset[str]:
    """Return the hashes of all texts that are not blank."""
    return frozenset(text_hash(text) for text in texts if text.strip())


def training_documents(
    train: PairDataset, documents: str | None, checkpoint: str | None, held_out: HoldOut | None = None
) -> frozenset[str] | None:
    """Return the hashes of the documents that a model has seen after training on `train`, None where that is unknown.

    Args:
        train: the training pairs; their positives count, their hard negatives do not.
        documents: what the pairs were made from, if from documents. Its documents all count: a positive is only a part.
        checkpoint: the checkpoint folder that training goes on from; what it has seen stays seen.
        held_out: which of `documents` made no pairs and so do not count; `train` is taken as it is.

    Raises:
        InputError: `documents` or the checkpoint's file of hashes cannot be read.
    """
    before = frozenset[str]() if checkpoint is None else read_seen(checkpoint)
    if before is None:
        return None
    now = text_hashes(train.documents[index] for index in set(train.positive_ids.tolist()))
    if documents is not None:
        read = read_documents(documents)
        shown = read if held_out is None else held_out.visible_documents(read)
        now |= text_hashes(document.content for document in shown)
    return before | now


def read_seen(checkpoint: str | Path) -> frozenset[str] | None:
    """Return the hashes that a checkpoint folder keeps, None (and a warning) where it keeps none.

    Raises:
        InputError: the file of hashes is not a JSON array of hashes.
    """
    path = Path(checkpoint) / SEEN
    if not path.exists():
        logger.warning("%s does not say which documents it was trained on: seen documents are unknown", checkpoint)
        return None
    hashes = read_json(path)
    if not isinstance(hashes, list) or not all(isinstance(h, str) and _HASH.fullmatch(h) for h in hashes):
        raise InputError(f"{path} is not an array of hashes of 32 hexadecimal digits; copy the checkpoint again")
    return frozenset(hashes)


def is_seen(document: Document, seen: frozenset[str]) -> bool:
    """Whether a document's content is among the seen ones; an empty one never is."""
    return bool(document.content) and text_hash(document.content) in seen


def seen_queries(collection: Collection, seen: frozenset[str]) -> frozenset[str]:
    """Return the judged queries of which a relevant document (a score above 0) is among the seen ones."""
    relevant = {key for judged in collection.qrels.values() for key, score in judged.items() if score > 0}
    known = {key for key in relevant & collection.documents.keys() if is_seen(collection.documents[key], seen)}
    return frozenset(
        query
        for query, judged in collection.qrels.items()
        if any(score > 0 and key in known for key, score in judged.items())
    )
