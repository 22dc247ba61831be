"""Training overlap: which documents a model was trained on (hashes of texts), and which were hidden from training."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from ragcun.data.beir import Collection, Document
from ragcun.data.pairs import PairDataset
from ragcun.data.records import read_documents
from ragcun.errors import InputError, as_input_error
from ragcun.io import read_json

logger = logging.getLogger(__name__)

SEEN = "ragcun/seen_documents.json"  # where a checkpoint keeps the hashes: a sorted array of hexadecimal texts
HELD_OUT = "ragcun/held_out.json"  # where a checkpoint keeps its `HoldOut`
_HASH = re.compile(r"[0-9a-f]{32}")
_HOLD_OUT = {"fraction": float, "seed": int}


def text_hash(text: str) -> str:
    """Return the hash of a text with white space collapsed: 16 bytes of BLAKE2b, in hexadecimal."""
    return hashlib.blake2b(_normalised(text), digest_size=16).hexdigest()


def text_hashes(texts: Iterable[str]) -> frozenset[str]:
    """Return the hashes of all texts that are not blank."""
    return frozenset(text_hash(text) for text in texts if text.strip())


def _normalised(text: str) -> bytes:
    return " ".join(text.split()).encode(errors="surrogatepass")


def training_documents(
    train: PairDataset, documents: str | None, checkpoint: str | None, held_out: HoldOut | None = None
) -> frozenset[str] | None:
    """Return the hashes of the documents that a model has seen after training, None where that is unknown.

    They are the positives of `train`, the file of `documents` that pairs were made from, but for those `held_out`, and
    what the `checkpoint` that training starts from has seen.
    """
    before = frozenset[str]() if checkpoint is None else read_seen(checkpoint)
    if before is None:
        return None
    read = [] if documents is None else read_documents(documents)
    shown = read if held_out is None else held_out.visible_documents(read)
    positives = (train.documents[index] for index in set(train.positive_ids.tolist()))
    return before | text_hashes(positives) | text_hashes(document.content for document in shown)


def read_seen(checkpoint: str | Path) -> frozenset[str] | None:
    """Return the hashes that a checkpoint folder keeps, None (and a warning) where it keeps none."""
    path = Path(checkpoint) / SEEN
    if not path.exists():
        logger.warning("%s does not say which documents it was trained on: seen documents are unknown", checkpoint)
        return None
    hashes = read_json(path)
    if not isinstance(hashes, list) or not all(isinstance(h, str) and _HASH.fullmatch(h) for h in hashes):
        raise InputError(f"{path} is not an array of hashes of 32 hexadecimal digits; copy the checkpoint again")
    return frozenset(hashes)


def seen_queries(collection: Collection, seen: frozenset[str]) -> frozenset[str]:
    """Return the judged queries of which a relevant document (a score above 0) is among the seen ones."""
    relevant = {
        (query, key) for query, judged in collection.qrels.items() for key, score in judged.items() if score > 0
    }
    there = {key for _, key in relevant} & collection.documents.keys()
    known = {key for key in there if _is_seen(collection.documents[key], seen)}
    return frozenset(query for query, key in relevant if key in known)


def _is_seen(document: Document, seen: frozenset[str]) -> bool:
    return bool(document.content) and text_hash(document.content) in seen


@dataclass(frozen=True)
class HoldOut:
    """The documents hidden from training: of a larger fraction all that a smaller one with the same seed hides.

    A document is hidden where the first 8 bytes of the BLAKE2b hash of its text, keyed with the seed, are below
    ``fraction · 2^64`` as a big-endian integer.
    """

    fraction: float
    seed: int

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1:
            raise ValueError(f"fraction must be above 0 and below 1, got {self.fraction}")
        if not -(2**63) <= self.seed < 2**63:
            raise ValueError(f"seed must be a whole number of 64 bits, got {self.seed}")

    def hides(self, content: str) -> bool:
        """Return whether a document is hidden, given its content; the amount of white space does not matter."""
        digest = hashlib.blake2b(_normalised(content), key=self.seed.to_bytes(8, "big", signed=True)).digest()
        return int.from_bytes(digest[:8], "big") < self.fraction * 2**64

    def without_hidden(self, pairs: PairDataset) -> PairDataset:
        """Return the pairs whose positive is not hidden, without hard negatives that are (InputError: none is left)."""
        hidden = {text for text in pairs.documents if self.hides(text)}
        rows = [(q, p, None if n in hidden else n) for q, p, n in pairs.rows() if p not in hidden]
        if not rows:
            raise InputError(f"{pairs.source}: the positives of all {len(pairs)} pairs are hidden; hide fewer")
        logger.info("%s: %d of %d pairs left, positives of the others are hidden", pairs.source, len(rows), len(pairs))
        return PairDataset.from_rows(rows, pairs.source, (text for text in pairs.documents if text not in hidden))

    def visible_documents(self, documents: Iterable[Document]) -> list[Document]:
        """Return the documents that are not hidden, in order (InputError: all are)."""
        documents = list(documents)
        visible = [document for document in documents if not self.hides(document.content)]
        if documents and not visible:
            raise InputError(f"all {len(documents)} documents are hidden; give more or hide fewer")
        return visible

    def hidden_only(self, collection: Collection) -> Collection:
        """Return the hidden documents, the queries that have a relevant one (score above 0) among them, their qrels."""
        documents = {key: value for key, value in collection.documents.items() if self.hides(value.content)}
        left = {
            query: {key: score for key, score in judged.items() if key in documents}
            for query, judged in collection.qrels.items()
        }
        relevant = {query for query, judged in left.items() if max(judged.values(), default=0) > 0}
        return replace(collection, documents=documents, qrels=left).of_queries(relevant)

    def unseen_part(self, collection: Collection, seen: frozenset[str]) -> Collection | None:
        """Return `hidden_only`, or None (and a warning) where an earlier training has seen a hidden document."""
        hidden = self.hidden_only(collection)
        known = sum(_is_seen(document, seen) for document in hidden.documents.values())
        if known:
            logger.warning("%s: training saw %d of the hidden documents: no held-out figures", collection.name, known)
        return None if known else hidden


def read_held_out(checkpoint: str | Path) -> HoldOut | None:
    """Return which documents were hidden from a checkpoint's training, None where none were."""
    path = Path(checkpoint) / HELD_OUT
    if not path.exists():
        return None
    values = read_json(path)
    with as_input_error(str(path), "; copy the checkpoint again"):
        if not isinstance(values, dict) or {key: type(values[key]) for key in values} != _HOLD_OUT:
            raise ValueError(f"expected a fraction and a whole-numbered seed, got {values!r:.80}")
        hidden = HoldOut(**values)
    return hidden
