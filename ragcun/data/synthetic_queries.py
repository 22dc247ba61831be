"""Training pairs and stand-ins for queries from documents alone: sentences, other parts, masked documents."""

from __future__ import annotations

import functools
import hashlib
import logging
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm.auto import tqdm

from ragcun.data.beir import Collection, Document
from ragcun.data.pairs import PairDataset, Row
from ragcun.data.records import read_documents
from ragcun.data.texts import WORDS, sentence_spans, split_sentences
from ragcun.errors import InputError, did_you_mean

logger = logging.getLogger(__name__)

MASKS = ("tokens", "spans", "prefix", "suffix", "mixed")
SPAN_WORDS = 3
FEWEST_WORDS = 3
"""How many `WORDS` each side of a pair must have (unmasked ones, where words are masked); a title may have fewer."""
STAND_INS = 2000  # sentences of a corpus that stand in for queries
HELD_OUT, MOST_HELD_OUT = 0.1, 1000
FEWEST_DOCUMENTS, MOST_DOCUMENTS = 20, 100_000

Pair = tuple[str, str]
PairMaker = Callable[[Document, random.Random], "Pair | None"]
"""From a document to ``(query, positive)``, None where the document is too short."""


def mask_words(
    document: Document, rng: random.Random, method: str, share: float = 0.15, mask: str = "[MASK]"
) -> Pair | None:
    """Pair the masked content with the whole content, which the predictor learns to infer.

    `share` of the words, at least one, are masked: ``tokens`` (single words, anywhere), ``spans`` (runs of three words,
    which may meet), the ``prefix``, the ``suffix``, or ``mixed``: one of these, drawn anew for each pair. `mask`
    replaces each masked word; a blank one drops the word.
    """
    words = re.findall(rf"({WORDS})(\s*)", document.content)  # each with the blanks after it
    count = max(1, round(share * len(words)))
    if len(words) - count < FEWEST_WORDS:
        return None
    for place in masked_positions(method, len(words), count, rng):
        words[place] = (mask, words[place][1]) if mask.strip() else ("", "")
    return "".join(word + blanks for word, blanks in words).strip(), document.content


def masked_positions(method: str, words: int, count: int, rng: random.Random) -> set[int]:
    """Return which `count` of `words` words are masked."""
    method = rng.choice(MASKS[:-1]) if method == "mixed" else method
    if method in ("prefix", "suffix"):
        return set(range(words)[:count] if method == "prefix" else range(words)[-count:])
    return spread(words, count, 1 if method == "tokens" else SPAN_WORDS, rng)


def spread(words: int, count: int, length: int, rng: random.Random) -> set[int]:
    """Return `count` of `words` positions in runs of `length` (the rest in a shorter one); every placing is as likely.

    A run counts as one place among the unmasked words, so that drawing the runs' places draws an arrangement.
    """
    lengths = [min(length, count - start) for start in range(0, count, length)]
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
    starts = _starts(document)
    return _cut(document, starts, (len(starts) + 1) // 2)


def random_cut(document: Document, rng: random.Random) -> Pair | None:
    """Pair the words before a cut with those after it; it is uniform between a quarter and three quarters of them."""
    starts = _starts(document)
    earliest = max(FEWEST_WORDS, -(-len(starts) // 4))
    latest = len(starts) - earliest
    return _cut(document, starts, rng.randint(earliest, latest)) if earliest <= latest else None


def prefix_suffix(document: Document, rng: random.Random) -> Pair | None:
    """Pair the first third of the words with the last; the middle is in neither."""
    starts = _starts(document)
    third = len(starts) // 3
    return _pair(document.content[: starts[third]], document.content[starts[-third] :]) if third else None


PAIR_MAKERS: dict[str, PairMaker] = {
    "title_body": title_body,
    "first_sentence": first_sentence,
    "sentence": sentence,
    "half": half,
    "random": random_cut,
    "prefix_suffix": prefix_suffix,
    **{f"mask_{method}": functools.partial(mask_words, method=method) for method in MASKS},
}
"""The ways to make pairs, by name."""


def pair_maker(method: str, masked_share: float | None = None, mask: str | None = None) -> PairMaker:
    """Return a maker by name; `masked_share` and `mask` replace the defaults of one that masks (else InputError)."""
    if method not in PAIR_MAKERS:
        there = f"{did_you_mean(method, PAIR_MAKERS)}there is {', '.join(PAIR_MAKERS)}"
        raise InputError(f"unknown method {method!r} to make pairs; {there}")
    given = {name: value for name, value in {"share": masked_share, "mask": mask}.items() if value is not None}
    if given and not method.startswith("mask_"):
        raise InputError(f"method {method!r} masks nothing, so it takes no masked share and no mask; leave them out")
    if masked_share is not None and not 0 < masked_share < 1:
        raise InputError(f"method {method!r}: the masked share must lie between 0 and 1, got {masked_share}")
    return functools.partial(PAIR_MAKERS[method], **given)


def pairs_of_document(document: Document, maker: PairMaker, seed: int, times: int = 1) -> list[Pair]:
    """Return the distinct pairs that `times` draws make of a document; more draws of the same seed begin with these."""
    rng = random.Random(document_digest(document, seed))
    drawn = (maker(document, rng) for _ in range(times))
    return list(dict.fromkeys(pair for pair in drawn if pair is not None))


def pairs_from_documents(path: str | Path, method: str, seed: int) -> PairDataset:
    """Read documents (see `read_documents`) and make one training pair of each that is long enough."""
    maker, documents = pair_maker(method), read_documents(path)
    bar = tqdm(documents, desc="make pairs", unit=" documents", delay=2, leave=False)
    rows: list[Row] = [(*pair, None) for document in bar for pair in pairs_of_document(document, maker, seed)]
    if not rows:
        problem = f"none of its {len(documents)} documents is long enough for pairs by {method!r}"
        raise InputError(f"{path}: {problem}; give longer ones or choose another method")
    if short := len(documents) - len(rows):
        logger.info("%d of %d documents are too short for a pair and left out", short, len(documents))
    return PairDataset.from_rows(rows, source=f"{path} ({method})")


def document_digest(document: Document, seed: int) -> bytes:
    """Return a hash of seed and content: the document's own random state, and its place in a random order."""
    return hashlib.sha256(f"{seed} {document.content}".encode(errors="surrogatepass")).digest()


def _starts(document: Document) -> list[int]:
    return [match.start() for match in re.finditer(WORDS, document.content)]


def _cut(document: Document, starts: list[int], at: int) -> Pair | None:
    return _pair(document.content[: starts[at]], document.content[starts[at] :]) if at < len(starts) else None


def _without(document: Document, span: tuple[int, int]) -> Pair | None:
    before, after = document.text[: span[0]], document.text[span[1] :]
    pair = _pair(document.text[slice(*span)], before + after.lstrip())
    return pair and (pair[0], Document(document.title, pair[1]).content)


def _pair(query: str, positive: str, fewest_query_words: int = FEWEST_WORDS) -> Pair | None:
    query_words, positive_words = (len(re.findall(WORDS, text)) for text in (query, positive))
    long_enough = query_words >= fewest_query_words and positive_words >= FEWEST_WORDS
    return (query.strip(), positive.strip()) if long_enough else None


def sample_queries(queries: Sequence[str], most: int | None, seed: int) -> list[str]:
    """Return `most` queries drawn at random; all, in their order, where there are no more or `most` is None."""
    return list(queries) if most is None or len(queries) <= most else random.Random(seed).sample(queries, most)


def sample_documents(documents: Sequence[Document], most: int, seed: int) -> list[Document]:
    """Return at most `most` documents, in a random order that follows from the seed and their texts alone."""
    return sorted(documents, key=lambda document: document_digest(document, seed))[:most]


def sentences_as_queries(documents: Sequence[Document], most: int, seed: int) -> list[str]:
    """Return a sentence of each document (of the title where there is no text), or of a sample of `most` documents."""
    drawn = []
    for document in sample_documents([document for document in documents if document.content], most, seed):
        sentences = split_sentences(document.text) or split_sentences(document.title)
        drawn.append(random.Random(document_digest(document, seed)).choice(sentences))
    return drawn


@dataclass(frozen=True)
class Adaptation:
    """Training pairs, judgments and stand-ins for queries, all made from the documents of one corpus."""

    pairs: PairDataset  # (title or drawn sentence, document); none where documents are one sentence without a title
    held_out: Collection  # one drawn sentence of each document that makes no pairs, to be found among all documents
    stand_ins: list[str]  # drawn sentences that stand in for queries where there are none


def adaptation_data(documents: Sequence[Document], source: str, seed: int) -> Adaptation:
    """Make `Adaptation` from documents (a sample of 100,000, and 20 at least); a tenth, at most 1,000, is held out."""
    filled = sample_documents([document for document in documents if document.text.strip()], MOST_DOCUMENTS, seed)
    distinct = list({document.content: document for document in filled}.values())
    if len(distinct) < FEWEST_DOCUMENTS:
        problem = f"{source} has {len(distinct)} documents with text"
        raise InputError(f"{problem}; adapting to a corpus needs at least {FEWEST_DOCUMENTS}")
    count = min(round(HELD_OUT * len(distinct)), MOST_HELD_OUT)
    corpus = {str(place): document for place, document in enumerate(distinct)}
    sentences = sentences_as_queries(distinct[:count], count, seed)
    questions = {f"sentence of {place}": sentence for place, sentence in enumerate(sentences)}
    qrels = {f"sentence of {place}": {str(place): 1} for place in range(count)}
    rows: list[Row] = []
    for document in distinct[count:]:
        queries = dict.fromkeys([document.title.strip(), *sentences_as_queries([document], 1, seed)])
        rows += [(query, document.content, None) for query in queries if query not in ("", document.content)]
    made, contents = f"{source} (titles and sentences)", (document.content for document in distinct)
    several = len(rows) > 1  # a batch needs two
    pairs = PairDataset.from_rows(rows, made, contents) if several else PairDataset.without_pairs(contents, made)
    held_out = Collection(f"{source}, held-out sentences", corpus, questions, qrels, "held-out")
    return Adaptation(pairs, held_out, sentences_as_queries(distinct, STAND_INS, seed))
