"""Texts that are the same, or nearly: equal but for case and blanks, or with nearly the same runs of words."""

from __future__ import annotations

import hashlib
import re
import zlib
from collections import defaultdict
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
    """Return which texts are kept when each goes that is a near duplicate of an earlier one that is kept.

    Near duplicates have a Jaccard similarity of their `shingles` of at least `threshold`. MinHash (Broder, 1997) finds
    pairs to look at, in bands as Leskovec et al. (Mining of Massive Datasets, 3.4) place them; each is then measured
    exactly. So what goes is a near duplicate for certain, and one that should go stays with probability 1e-4 at most.
    A text without words stays.

    Args:
        texts: the texts, in order.
        threshold: above 0, at most 1.
        seed: of the hashes.

    Raises:
        ValueError: `threshold` is out of range.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be above 0 and at most 1, got {threshold}")
    buckets = _shared_buckets(texts, threshold, seed)
    kept = np.ones(len(texts), dtype=np.bool_)
    kept_in: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for row in tqdm(np.flatnonzero((buckets >= 0).any(axis=1)).tolist(), "near duplicates", delay=2, leave=False):
        places = [(band, bucket) for band, bucket in enumerate(buckets[row].tolist()) if bucket >= 0]
        mine = shingles(texts[row])
        near = sorted({other for place in places for other in kept_in[place]})
        kept[row] = not any(jaccard(mine, shingles(texts[other])) >= threshold for other in near)
        if kept[row]:
            for place in places:
                kept_in[place].append(row)
    return kept


def bands(threshold: float) -> tuple[int, int]:
    """Return how many bands of how many hashes find a pair at the threshold t: the most hashes r for which it is
    overlooked with probability (1 − t^r)^(128 // r) ≤ 1e-4, since longer bands find fewer pairs below it.
    """  # noqa: D205
    enough = (r for r in range(PERMUTATIONS, 1, -1) if (1 - threshold**r) ** (PERMUTATIONS // r) <= MOST_MISSED)
    rows = next(enough, 1)
    return PERMUTATIONS // rows, rows


def _shared_buckets(texts: Sequence[str], threshold: float, seed: int) -> NDArray[np.int64]:
    """Return in which bucket of each band a text lies ``(texts, bands)``, -1 where it lies there alone."""
    n_bands, rows = bands(threshold)
    keys = np.zeros((len(texts), n_bands), dtype=np.uint64)
    drawn = np.random.default_rng(seed).integers(0, 2**64, size=(2, n_bands * rows, 1), dtype=np.uint64)
    mixers = np.random.default_rng([seed, 1]).integers(0, 2**64, size=rows, dtype=np.uint64) | np.uint64(1)
    wordless = np.zeros(len(texts), dtype=np.bool_)
    for place, text in enumerate(tqdm(texts, "hash documents", delay=2, leave=False)):
        hashes = np.array([zlib.crc32(run.encode(errors="surrogatepass")) for run in shingles(text)], dtype=np.uint64)
        wordless[place] = not len(hashes)
        if len(hashes):
            smallest = ((drawn[0] | np.uint64(1)) * hashes + drawn[1] >> np.uint64(32)).min(axis=1)
            keys[place] = (smallest.reshape(n_bands, rows) * mixers).sum(axis=1)
    buckets = np.full(keys.shape, -1, dtype=np.int64)
    for band in range(n_bands):
        _, inverse, counts = np.unique(keys[:, band], return_inverse=True, return_counts=True)
        buckets[:, band] = np.where((counts[inverse] > 1) & ~wordless, inverse, -1)
    return buckets
