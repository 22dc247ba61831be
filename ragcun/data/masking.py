"""Masking: a text of which some words are hidden."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from ragcun.data.beir import Document

MASKS = ("tokens", "spans", "prefix", "suffix", "mixed")
FEWEST_WORDS = 3
"""How many words each side of a pair must have (unmasked ones, where words are masked); a title may have fewer."""

_BLANKS = re.compile(r"(\s+)")


@dataclass(frozen=True)
class Mask:
    """Makes the pair (masked text, whole text) of a document.

    The masked text is the query: the predictor's task is then to guess the whole from what is left of it, as a
    retriever's is to find a document from the little that a query says. What is masked is `Document.content`.

    Attributes:
        method: ``tokens`` (single words, anywhere), ``spans`` (runs of `span_words` words, which may meet), ``prefix``,
            ``suffix``, or ``mixed``: one of these, drawn anew for each pair.
        share: how much of the words is masked, rounded to whole words and at least one.
        mask: what stands in the place of each masked word; a blank one drops the word.
        span_words: words of a span; the last one may be shorter.
    """

    method: str
    share: float = 0.15
    mask: str = "[MASK]"
    span_words: int = 3

    def __post_init__(self) -> None:
        if self.method not in MASKS:
            raise ValueError(f"method must be one of {', '.join(MASKS)}, got {self.method!r}")
        if not 0 < self.share < 1:
            raise ValueError(f"share must lie between 0 and 1, got {self.share}")
        if self.span_words < 1:
            raise ValueError(f"span_words must be at least 1, got {self.span_words}")

    def __call__(self, document: Document, rng: random.Random) -> tuple[str, str] | None:
        """Return ``(masked text, whole text)``, None where fewer than `FEWEST_WORDS` words would be left."""
        masked = self.masked(document.content, rng)
        return None if masked is None else (masked, document.content)

    def masked(self, text: str, rng: random.Random) -> str | None:
        """Return the text with words masked and all else as it was, None where too few would be left."""
        pieces = _BLANKS.split(text.strip())
        words = len(pieces) // 2 + 1
        count = max(1, round(self.share * words))
        if words - count < FEWEST_WORDS:
            return None
        for word in self.positions(words, count, rng):
            if self.mask.strip():
                pieces[2 * word] = self.mask
            else:
                pieces[2 * word : 2 * word + 2] = [""] * len(pieces[2 * word : 2 * word + 2])
        return "".join(pieces).strip()

    def positions(self, words: int, count: int, rng: random.Random) -> set[int]:
        """Return which `count` of `words` words are masked."""
        method = rng.choice([name for name in MASKS if name != "mixed"]) if self.method == "mixed" else self.method
        if method == "prefix":
            return set(range(count))
        if method == "suffix":
            return set(range(words - count, words))
        return spread(words, count, 1 if method == "tokens" else self.span_words, rng)


def spread(words: int, count: int, length: int, rng: random.Random) -> set[int]:
    """Return `count` of `words` positions in runs of `length` (the rest in a shorter one); every placing is as likely.

    A run counts as one place among the unmasked words, so that drawing the runs' places draws an arrangement.
    """
    lengths = [length] * (count // length) + ([count % length] if count % length else [])
    rng.shuffle(lengths)
    places = sorted(rng.sample(range(words - count + len(lengths)), len(lengths)))
    positions: set[int] = set()
    for index, (place, run) in enumerate(zip(places, lengths, strict=True)):
        start = place - index + len(positions)
        positions.update(range(start, start + run))
    return positions
