"""Comparing texts (the same but for case and blanks, or with nearly the same runs of words), and their sentences."""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterator, Sequence, Set
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ragcun.errors import require_package

SHINGLE_WORDS = 3
PERMUTATIONS = 128
MOST_MISSED = 1e-4  # probability that a pair of texts exactly at the threshold is overlooked, at most

UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3001-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Characters of the scripts without blanks (Thai, Lao, Burmese, Khmer, Chinese, Japanese), as a class in a pattern."""
_MARKS = "\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ece\u102b-\u103e\u17b4-\u17d3\u3099\u309a"
WORDS = rf"[{UNSPACED}][{_MARKS}]*(?:[{UNSPACED}][{_MARKS}]*)?|[^\s{UNSPACED}]+"
"""Pattern of a word: what blanks separate, or two characters of a script without blanks."""

_WORD = re.compile(rf"[{UNSPACED}][{_MARKS}]*|[^\W{UNSPACED}]+")
# words after which a full stop ends no sentence, and ends none where a digit follows
_NEVER_LAST = re.compile(
    "al|approx|ca|capt|cf|chap|col|cp|dept|dr|ed|eds|eg|eq|eqs|esp|etc|fig|figs|gen|gov|hon|ie|inc|incl|jr|lt|ltd|max|"
    "messrs|min|mr|mrs|ms|mt|nos|pp|prof|ref|refs|rep|rev|sec|sen|sgt|sr|st|viz|vol|vols|vs"
)
_BEFORE_NUMBERS = re.compile("art|ch|no|p|para|pt|tab|v")
_PARAGRAPH_END = re.compile(r"\n\s*\n")
_MARK = re.compile(
    r"(?P<mark>[.!?…]+)[\"'”’»)\]]*(?=\s+[\"'“‘«(\[]*(?P<next>[^\s\"'“‘«(\[]))" + r"|[。！？]+[」』”’）]*"
)
_INITIALS = re.compile(r"[^\W\d_](\.[^\W\d_])*")
_LONGEST_WORD = 20


def text_key(text: str) -> bytes:
    """Return a hash of a text but for case and blanks."""
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
    return frozenset(" ".join(found[i : i + words]) for i in range(max(1, len(found) - words + 1)) if found)


def jaccard(left: Set[str], right: Set[str]) -> float:
    """Return the Jaccard similarity |A ∩ B| / |A ∪ B| of two sets, 0 where both are empty."""
    shared = len(left & right)
    return shared / max(1, len(left) + len(right) - shared)


def first_of_near_duplicates(texts: Sequence[str], threshold: float, seed: int = 0) -> NDArray[np.bool_]:
    """Return which texts are kept when each is dropped that is a near duplicate of an earlier one that is kept.

    Near duplicates have a Jaccard similarity of their `shingles` of at least `threshold` (above 0, at most 1). MinHash
    (Broder, 1997; datasketch) finds candidates, which are then measured exactly. A text without words is kept.
    """
    require_package("datasketch", "data")
    from datasketch import MinHash, MinHashLSH

    empty = MinHash(PERMUTATIONS, seed, hashfunc=zlib.crc32)
    index = MinHashLSH(num_perm=PERMUTATIONS, params=bands(threshold))
    kept = np.ones(len(texts), dtype=np.bool_)
    for row, text in enumerate(tqdm(texts, "near duplicates", delay=2, leave=False)):
        if mine := shingles(text):
            signature = empty.copy()
            signature.update_batch([run.encode(errors="surrogatepass") for run in mine])
            near = (jaccard(mine, shingles(texts[other])) >= threshold for other in index.query(signature))
            kept[row] = not any(near)
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


def sentence_spans(text: str) -> Iterator[tuple[int, int]]:
    """Yield ``(start, end)`` of every sentence, without the blanks around it.

    A sentence ends with an empty line, with ``.``, ``!``, ``?`` or ``…`` (and closing quotes and brackets) before a
    blank, or with ``。``, ``！`` or ``？``. A mark ends none where a lower-case letter follows, and a full stop none
    after an abbreviation ("Dr.", "et al."), initials ("J. Smith", "U.S.") or, before a digit, "No." and its like.
    """
    ends = {match.start() for match in _PARAGRAPH_END.finditer(text)}
    ends |= {match.end() for match in _MARK.finditer(text) if _ends_sentence(text, match)}
    for start, end in pairwise([0, *sorted(ends), len(text)]):
        if sentence := text[start:end].strip():
            first = end - len(text[start:end].lstrip())
            yield first, first + len(sentence)


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a text.

    >>> split_sentences("Dr. Wu measured 3.5 mm, i.e. little. Why? See Fig. 2.")
    ['Dr. Wu measured 3.5 mm, i.e. little.', 'Why?', 'See Fig. 2.']
    """
    return [text[start:end] for start, end in sentence_spans(text)]


def _ends_sentence(text: str, match: re.Match[str]) -> bool:
    if match["mark"] is None:
        return True
    if match["next"].islower():
        return False
    before = text[max(0, match.start() - _LONGEST_WORD) : match.start()]
    if match["mark"] != "." or not before or before[-1].isspace():
        return True
    word = before.split()[-1].lstrip("\"'“‘«([")
    if _BEFORE_NUMBERS.fullmatch(word.casefold()):
        return not match["next"].isdigit()
    return not _NEVER_LAST.fullmatch(word.casefold()) and not _INITIALS.fullmatch(word)
