"""Splitting what training and evaluation use, so that nothing of one is in the other."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TypeVar

from tqdm.auto import tqdm

from ragcun.data.augment import PairMaker, document_digest, pairs_of_document
from ragcun.data.beir import Document
from ragcun.data.pairs import Row
from ragcun.errors import InputError

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
SPLITS = ("train", "dev", "test")


def split_by_shares(items: Sequence[Item], shares: Sequence[float]) -> dict[str, Sequence[Item]]:
    """Return the first items as ``train``, the next as ``dev`` and the last as ``test``, by their shares of all.

    Raises:
        InputError: `shares` is not three fractions that sum to 1.
    """
    if len(shares) != len(SPLITS) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise InputError(f"the split must be three fractions that sum to 1 (train, dev, test), got {tuple(shares)}")
    ends = [round(len(items) * sum(shares[:i])) for i in range(len(shares) + 1)]
    return {name: items[start:end] for name, start, end in zip(SPLITS, ends, ends[1:], strict=False)}


def pairs_by_split(
    documents: Iterable[Document],
    maker: PairMaker,
    seed: int,
    shares: Sequence[float],
    num_pairs: int | None = None,
) -> dict[str, list[Row]]:
    """Make pairs from documents and split them by document, so that no text is in two splits.

    Documents are taken in the order of a hash of seed and content. A pair of which a text is in a pair of an earlier
    document already (but for case and blanks) is left out, because its query would have two answers, one of them
    perhaps in another split. Texts that contain one another are not looked for.

    Args:
        documents: what pairs are made from; those with the same content count once.
        maker: how.
        seed: of the order and of all that the maker draws.
        shares: fractions of the documents that make pairs in train, dev and test.
        num_pairs: how many pairs to return. Where there are more documents, the first in order are used; where there
            are fewer, several pairs are drawn from each, and first ones come before second ones. None draws one from
            each document.

    Raises:
        InputError: `shares` or `num_pairs` is not possible.
    """
    split_by_shares([], shares)
    if num_pairs is not None and num_pairs < 1:
        raise InputError(f"at least 1 pair must be asked for, got {num_pairs}")
    distinct = {document_digest(document, seed): document for document in documents}
    limit = len(distinct) if num_pairs is None else num_pairs
    by_document = _unshared_pairs([document for _, document in sorted(distinct.items())], maker, seed, limit)
    drawn = sorted((draw, place) for place, pairs in enumerate(by_document) for draw in range(len(pairs)))[:limit]
    kept = Counter(place for _, place in drawn)
    rows = [[(*pair, None) for pair in pairs[: kept[place]]] for place, pairs in enumerate(by_document)]
    logger.info("%d pairs from %d of %d distinct documents", len(drawn), len(kept), len(distinct))
    if num_pairs is not None and len(drawn) < num_pairs:
        logger.warning("%d pairs were asked for, the documents give %d", num_pairs, len(drawn))
    return {name: list(chain.from_iterable(part)) for name, part in split_by_shares(rows, shares).items()}


def _unshared_pairs(documents: list[Document], maker: PairMaker, seed: int, limit: int) -> list[list[tuple[str, str]]]:
    """Return the pairs of each document that makes some, without those that share a text with an earlier document."""
    times = max(1, -(-limit // max(1, len(documents))))
    seen: set[bytes] = set()
    by_document: list[list[tuple[str, str]]] = []
    shared = 0
    for document in tqdm(documents, desc="make pairs", unit=" documents", delay=2, leave=False):
        pairs = pairs_of_document(document, maker, seed, times)
        fresh = [pair for pair in pairs if not any(_key(text) in seen for text in pair)]
        seen.update(_key(text) for pair in fresh for text in pair)
        shared += len(pairs) - len(fresh)
        if fresh:
            by_document.append(fresh)
        if len(by_document) == limit:
            break
    if shared:
        logger.info("%d pairs left out because another document has the same query or positive", shared)
    return by_document


def _key(text: str) -> bytes:
    return hashlib.blake2b(" ".join(text.split()).casefold().encode(errors="surrogatepass"), digest_size=16).digest()
