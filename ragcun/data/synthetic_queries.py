"""Training pairs made from documents alone: parts of a document, or a masked document and the whole."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import logging
import random
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tqdm.auto import tqdm

from ragcun.data.beir import Document
from ragcun.data.pairs import PairDataset, Row
from ragcun.data.records import read_documents
from ragcun.data.texts import sentence_spans
from ragcun.errors import InputError

logger = logging.getLogger(__name__)

MASKS = ("tokens", "spans", "prefix", "suffix", "mixed")
FEWEST_WORDS = 3
"""How many words each side of a pair must have (unmasked ones, where words are masked); a title may have fewer."""

_BLANKS, _WORD = re.compile(r"(\s+)"), re.compile(r"\S+")

Pair = tuple[str, str]
PairMaker = Callable[[Document, random.Random], "Pair | None"]
"""From a document to ``(query, positive)``, None where the document is too short."""


@dataclass(frozen=True)
class Mask:
    """Makes the pair (masked text, whole text) of a document's content; the predictor learns to infer the whole.

    It masks ``tokens`` (single words, anywhere), ``spans`` (runs of words, which may meet), the ``prefix``, the
    ``suffix``, or ``mixed``: one of these, drawn anew for each pair.
    """

    method: str
    share: float = 0.15  # of the words, rounded to whole ones and at least one
    mask: str = "[MASK]"  # replaces each masked word; a blank one drops the word
    span_words: int = 3  # the last span may be shorter

    def __post_init__(self) -> None:
        if self.method not in MASKS:
            raise ValueError(f"method must be one of {', '.join(MASKS)}, got {self.method!r}")
        if not 0 < self.share < 1:
            raise ValueError(f"share must lie between 0 and 1, got {self.share}")
        if self.span_words < 1:
            raise ValueError(f"span_words must be at least 1, got {self.span_words}")

    def __call__(self, document: Document, rng: random.Random) -> Pair | None:
        """Return ``(masked text, whole text)``, None where fewer than `FEWEST_WORDS` words would be left."""
        masked = self.masked(document.content, rng)
        return None if masked is None else (masked, document.content)

    def masked(self, text: str, rng: random.Random) -> str | None:
        """Return the text with words masked and all else as it was, None where too few would be left."""
        parts = _BLANKS.split(text.strip())  # words, with the blanks between them
        words = len(parts) // 2 + 1
        count = max(1, round(self.share * words))
        if words - count < FEWEST_WORDS:
            return None
        for word in self.positions(words, count, rng):
            if self.mask.strip():
                parts[2 * word] = self.mask
            else:
                parts[2 * word : 2 * word + 2] = [""] * len(parts[2 * word : 2 * word + 2])
        return "".join(parts).strip()

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


def title_body(document: Document, rng: random.Random) -> Pair | None:
    """Pair the title with the text."""
    return _pair(document.title, document.text, fewest_query_words=1)


def first_sentence(document: Document, rng: random.Random) -> Pair | None:
    """Pair the first sentence of the text with the document without it (title and the other sentences)."""
    return next((_without(document, span) for span in sentence_spans(document.text)), None)


def sentence(document: Document, rng: random.Random) -> Pair | None:
    """Pair a drawn sentence of the text with the document without it: the inverse cloze task (Lee et al., 2019).

    Unlike there, the sentence never stays in the document, and one that the rest repeats is not drawn.
    """
    spans = list(sentence_spans(document.text))
    pairs = (_without(document, span) for span in rng.sample(spans, len(spans)))
    return next((pair for pair in pairs if pair and pair[0].casefold() not in pair[1].casefold()), None)


def half(document: Document, rng: random.Random) -> Pair | None:
    """Pair the first half of the words (of an odd number the larger) with the second."""
    words = list(_WORD.finditer(document.content))
    return _cut(document.content, words, (len(words) + 1) // 2)


def random_cut(document: Document, rng: random.Random) -> Pair | None:
    """Pair the words before a cut with those after it; it is uniform between a quarter and three quarters of them."""
    words = list(_WORD.finditer(document.content))
    earliest = max(FEWEST_WORDS, -(-len(words) // 4))
    latest = len(words) - earliest
    return _cut(document.content, words, rng.randint(earliest, latest)) if earliest <= latest else None


def prefix_suffix(document: Document, rng: random.Random) -> Pair | None:
    """Pair the first third of the words with the last; the middle is in neither."""
    words = list(_WORD.finditer(document.content))
    third = len(words) // 3
    if third < FEWEST_WORDS:
        return None
    return document.content[: words[third - 1].end()], document.content[words[-third].start() :]


PAIR_MAKERS: dict[str, PairMaker] = {
    "title_body": title_body,
    "first_sentence": first_sentence,
    "sentence": sentence,
    "half": half,
    "random": random_cut,
    "prefix_suffix": prefix_suffix,
    **{f"mask_{method}": Mask(method) for method in MASKS},
}
"""The ways to make pairs, by name."""


def pair_maker(method: str, masked_share: float | None = None, mask: str | None = None) -> PairMaker:
    """Return a maker by name; `masked_share` and `mask` replace the defaults of one that masks.

    Raises:
        InputError: there is no such method, or it cannot use the settings.
    """
    if method not in PAIR_MAKERS:
        near = difflib.get_close_matches(method, PAIR_MAKERS, n=1)
        guess = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"unknown method {method!r} to make pairs; {guess}there is {', '.join(PAIR_MAKERS)}")
    maker = PAIR_MAKERS[method]
    given = {name: value for name, value in (("share", masked_share), ("mask", mask)) if value is not None}
    if not given:
        return maker
    if not isinstance(maker, Mask):
        raise InputError(f"method {method!r} masks nothing, so it takes no masked share and no mask; leave them out")
    try:
        return dataclasses.replace(maker, **given)  # type: ignore[arg-type]
    except ValueError as error:
        raise InputError(f"method {method!r}: {error}") from error


def pairs_of_document(document: Document, maker: PairMaker, seed: int, times: int = 1) -> list[Pair]:
    """Return the distinct pairs that `times` draws make of a document; they follow from the seed and its text alone.

    The first draws are those of a smaller `times`.
    """
    rng = random.Random(document_digest(document, seed))
    drawn = (maker(document, rng) for _ in range(times))
    return list(dict.fromkeys(pair for pair in drawn if pair is not None))


def pairs_from_documents(path: str | Path, method: str, seed: int) -> PairDataset:
    """Read documents (see `read_documents`) and make one training pair of each that is long enough."""
    maker = pair_maker(method)
    documents = read_documents(path)
    bar = tqdm(documents, desc="make pairs", unit=" documents", delay=2, leave=False)
    made = [pairs_of_document(document, maker, seed) for document in bar]
    if not any(made):
        problem = f"none of its {len(documents)} documents is long enough for pairs by {method!r}"
        raise InputError(f"{path}: {problem}; give longer ones or choose another method")
    if not all(made):
        logger.info("%d of %d documents are too short for a pair and left out", made.count([]), len(made))
    rows: Iterable[Row] = ((*pair, None) for pairs in made for pair in pairs)
    return PairDataset.from_rows(rows, source=f"{path} ({method})")


def document_digest(document: Document, seed: int) -> bytes:
    """Return a hash of seed and content: the document's own random state, and its place in a random order."""
    return hashlib.sha256(f"{seed} {document.content}".encode(errors="surrogatepass")).digest()


def _cut(content: str, words: list[re.Match[str]], at: int) -> Pair | None:
    return _pair(content[: words[at].start()], content[words[at].start() :]) if at < len(words) else None


def _without(document: Document, span: tuple[int, int]) -> Pair | None:
    """Return the sentence at `span` of the text, and the document without it."""
    before, after = document.text[: span[0]], document.text[span[1] :]
    pair = _pair(document.text[slice(*span)], before + after.lstrip())
    return pair and (pair[0], Document(document.title, pair[1]).content)


def _pair(query: str, positive: str, fewest_query_words: int = FEWEST_WORDS) -> Pair | None:
    long_enough = len(query.split()) >= fewest_query_words and len(positive.split()) >= FEWEST_WORDS
    return (query.strip(), positive.strip()) if long_enough else None
