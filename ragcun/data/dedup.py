"""Texts that are the same, or nearly: equal but for case and blanks, or with nearly the same runs of words."""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Sequence, Set

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

SHINGLE_WORDS = 3
PERMUTATIONS = 128
MOST_MISSED = 1e-4
"""How likely a pair of texts exactly at the threshold may be overlooked; one above it is less likely so."""

_WORD = re.compile(r"\w+")


def text_key(text: str) -> bytes:
    r"""Return a hash of a text but for case and blanks.

    >>> text_key("Heat  Flow\n") == text_key("heat flow")
    True
    """
    return hashlib.blake2b(" ".join(text.split()).casefold().encode(errors="surrogatepass"), digest_size=16).digest()


def text_classes(texts: Sequence[str]) -> NDArray[np.int64]:
    """Return for each text the place of the first one that is the same but for case and blanks."""
    keys = np.frombuffer(b"".join(map(text_key, texts)), dtype="V16")
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return first[inverse].astype(np.int64)


def shingles(text: str, words: int = SHINGLE_WORDS) -> frozenset[str]:
    """Return the runs of `words` words of a text, without case and punctuation; a shorter text is one run.

    >>> sorted(shingles("Heat flows, heat flows."))
    ['flows heat flows', 'heat flows heat']
    """
    found = _WORD.findall(text.casefold())
    if not found:
        return frozenset()
    return frozenset(" ".join(found[i : i + words]) for i in range(max(1, len(found) - words + 1)))


def jaccard(left: Set[str], right: Set[str]) -> float:
    """Return the Jaccard similarity |A ∩ B| / |A ∪ B| of two sets, 0 where both are empty."""
    shared = len(left & right)
    return shared / max(1, len(left) + len(right) - shared)


def first_of_near_duplicates(texts: Sequence[str], threshold: float, seed: int = 0) -> NDArray[np.bool_]:
    """Return which texts are kept when each is dropped that is a near duplicate of an earlier one that is kept.

    Near duplicates have a Jaccard similarity of their `shingles` of at least `threshold` (above 0, at most 1). MinHash
    (Broder, 1997; datasketch) finds candidates, which are then measured exactly. A text without words is kept.
    """
    from datasketch import MinHash, MinHashLSH

    empty = MinHash(PERMUTATIONS, seed, hashfunc=zlib.crc32)
    index = MinHashLSH(num_perm=PERMUTATIONS, params=bands(threshold))
    kept = np.ones(len(texts), dtype=np.bool_)
    for row, text in enumerate(tqdm(texts, "near duplicates", delay=2, leave=False)):
        mine = shingles(text)
        if mine:
            signature = empty.copy()
            signature.update_batch([run.encode(errors="surrogatepass") for run in mine])
            candidates = index.query(signature)
            kept[row] = not any(jaccard(mine, shingles(texts[other])) >= threshold for other in candidates)
            if kept[row]:
                index.insert(row, signature, check_duplication=False)
    return kept


def bands(threshold: float) -> tuple[int, int]:
    """Return the bands and the hashes in each (Leskovec et al., Mining of Massive Datasets, 3.4) for a threshold t.

    It is the most hashes r for which a pair at t is overlooked with probability (1 − t^r)^(128 // r) ≤ 1e-4, since
    longer bands find fewer pairs below it.
    """
    enough = (r for r in range(PERMUTATIONS // 2, 1, -1) if (1 - threshold**r) ** (PERMUTATIONS // r) <= MOST_MISSED)
    rows = next(enough, 1)
    return PERMUTATIONS // rows, rows
