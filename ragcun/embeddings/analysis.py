"""From texts to terms: words of a language, stemmed and without stop words, character bigrams, or word pieces."""

from __future__ import annotations

import functools
import logging
import re
import unicodedata
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import Stemmer
from tokenizers import Tokenizer

from ragcun.errors import InputError
from ragcun.io import read_json

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

logger = logging.getLogger(__name__)

_TABLES = read_json(Path(__file__).with_name("languages.json"))
LANGUAGES: dict[str, str] = _TABLES["languages"]
"""Languages with a Snowball stemmer; four that are read as character bigrams; and words as they stand."""
K1, B = 0.9, 0.4
"""Saturation of a term's frequency and normalisation of a text's length, in BM25 and in a term's weight."""
BIGRAMS = ("zh", "ja", "ko", "th")
SCRIPTS: dict[str, str] = _TABLES["scripts"]
"""The language that `detect_language` takes a script for, by the first word of its characters' Unicode names."""
SAMPLE = 400
"""Texts that `detect_language` looks at, and characters of each."""
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
)
_RUNS = re.compile(f"([{UNSPACED}]+)")
_ENGLISH_WORD = re.compile(r"\w\w+")
_BLANKS = {code: " " for code in range(128) if not re.match(r"\w", chr(code))}


@dataclass(frozen=True)
class Analyser:
    """Splits texts into words, and folds words into terms; ``split`` is cheap, ``fold`` need see each word once.

    Words are lower case and of at least two letters. A run of a script without blanks (Chinese, Japanese, Korean, Thai)
    is read as its overlapping pairs of characters in every language but English. With `pieces`, the JSON of a tokenizer
    of ``tokenizers``, its word pieces stand in place of words, truncated as there, as they are but for `dropped` ones.
    """

    language: str = "en"
    pieces: str | None = None
    dropped: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.language not in LANGUAGES:
            raise InputError(f"no analyser for the language {self.language!r}; choose auto, {', '.join(LANGUAGES)}")

    @classmethod
    def of(cls, texts: Sequence[str], language: str = "auto") -> Analyser:
        """Return the analyser of a language by its code; ``auto`` detects it in the texts."""
        return cls(detect_language(texts) if language == "auto" else language)

    def split(self, texts: Sequence[str]) -> Iterable[list[str]]:
        """Yield the words of each text."""
        if self.pieces is not None:
            encoded = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
            return (each.tokens for each in encoded)
        return map(_split_english if self.language == "en" else _split_unspaced, map(str.lower, texts))

    def fold(self, words: Sequence[str]) -> list[str]:
        """Return the term of each word, ``""`` for a stop word."""
        if self.pieces is not None or self.language == "none":
            return ["" if word in self.dropped else word for word in words]
        language = LANGUAGES["en" if self.language in BIGRAMS else self.language]
        stop = stop_words(self.language)
        stems = Stemmer.Stemmer(language, 0).stemWords(list(words))  # its cache costs nine times the stemming
        return [
            "" if word in stop or (len(word) == 1 and not _RUNS.match(word)) else stem
            for word, stem in zip(words, stems, strict=True)
        ]

    @functools.cached_property
    def _tokenizer(self) -> Tokenizer:
        tokenizer = Tokenizer.from_str(str(self.pieces))
        tokenizer.no_padding()
        return tokenizer

    def __call__(self, texts: Iterable[str]) -> list[list[str]]:
        """Return the terms of each text, in their order."""
        split = list(self.split(list(texts)))
        words = list(dict.fromkeys(chain.from_iterable(split)))
        terms = dict(zip(words, self.fold(words), strict=True))
        return [[term for word in each if (term := terms[word])] for each in split]


class TermCounter:
    """Counts the terms of texts, which become the vocabulary unless one is given; each word is folded once."""

    def __init__(self, analyser: Analyser, vocabulary: dict[str, int] | None = None) -> None:
        self.analyser = analyser
        self.vocabulary = {} if vocabulary is None else vocabulary
        self._grows = vocabulary is None
        self._number_of: defaultdict[str, int] = defaultdict()
        self._number_of.default_factory = self._number_of.__len__
        self._term_of = np.empty(0, dtype=np.int32)

    def count(self, texts: Sequence[str]) -> csr_matrix:
        """Return how often each term is in each text ``(len(texts), len(vocabulary))``, as float32."""
        from scipy.sparse import csr_matrix  # which imports for long, and a model without a channel does without

        numbers, ends = array("i"), [0]
        for words in self.analyser.split(texts):
            numbers.extend(map(self._number_of.__getitem__, words))
            ends.append(len(numbers))
        new = self.analyser.fold(list(islice(self._number_of, len(self._term_of), None)))
        for term in filter(None, new if self._grows else ()):
            self.vocabulary.setdefault(term, len(self.vocabulary))
        columns = [self.vocabulary.get(term, -1) for term in new]
        self._term_of = np.append(self._term_of, np.array(columns, np.int32))
        terms = self._term_of[np.frombuffer(numbers, dtype=np.int32)]
        known = terms >= 0
        starts = np.concatenate([[0], np.cumsum(known, dtype=np.int64)])[ends]
        ones = np.ones(int(starts[-1]), dtype=np.float32)
        counts = csr_matrix((ones, terms[known], starts), shape=(len(texts), len(self.vocabulary)))
        counts.sum_duplicates()
        return counts


def stop_words(language: str) -> frozenset[str]:
    """Return the stop words of a language, none where bm25s has no list; in bigrams those of English."""
    from bm25s import stopwords

    name = "EN" if language in ("en", *BIGRAMS) else LANGUAGES[language].upper()
    return frozenset(getattr(stopwords, f"STOPWORDS_{name}", ()))


def detect_language(texts: Sequence[str]) -> str:
    """Return the code of the language of a sample of texts, and say so in the log.

    It is one of bigrams where a twentieth of the letters are of scripts without blanks, else that of the script of most
    letters (`SCRIPTS`); of languages in Latin letters the one whose stop words are the most frequent, English where
    that is not clear.
    """
    sample = [text[:SAMPLE].lower() for text in texts[:: max(1, len(texts) // SAMPLE)]]
    scripts: Counter[str] = Counter()
    for letter, count in Counter("".join(sample)).items():
        if letter.isalpha():
            scripts[unicodedata.name(letter, "?").partition(" ")[0]] += count
    unspaced = Counter({script: scripts[script] for script in SCRIPTS if SCRIPTS[script] in BIGRAMS})
    among = unspaced if unspaced.total() > 0.05 * scripts.total() else scripts
    script = among.most_common(1)[0][0] if among else "LATIN"
    japanese = script == "CJK" and scripts["HIRAGANA"] > 0.05 * scripts["CJK"]
    language = "ja" if japanese else SCRIPTS.get(script, "none")
    if script == "LATIN":
        language = _latin_language(sample)
    terms = "character bigrams" if language in BIGRAMS else "words, stemmed" if language != "none" else "words"
    logger.info("language %s (most letters are %s): terms are %s", LANGUAGES[language], script.title(), terms)
    return language


def _latin_language(sample: Sequence[str]) -> str:
    from bm25s.stopwords import STOPWORDS_EN_PLUS

    words = Counter(word for text in sample for word in _ENGLISH_WORD.findall(text))
    shares = {
        code: sum(words[word] for word in stop_words(code)) / max(1, words.total())
        for code in ("da", "de", "es", "fr", "it", "nl", "no", "pt", "sv", "tr")
    }
    english = sum(words[word] for word in STOPWORDS_EN_PLUS) / max(1, words.total())
    best = max(shares, key=lambda code: shares[code])
    return best if shares[best] > max(0.1, 1.5 * english) else "en"


def _split_english(text: str) -> list[str]:
    # of ASCII text the same as the expression but for single letters, which `fold` drops, in a third of the time
    return text.translate(_BLANKS).split() if text.isascii() else _ENGLISH_WORD.findall(text)


def _split_unspaced(text: str) -> list[str]:
    found: list[str] = _marked_word().findall(text)
    if text.isascii() or not _RUNS.search(text):
        return found
    words: list[str] = []
    for word in found:
        for number, run in enumerate(_RUNS.split(word)):
            if number % 2 and len(run) > 1:
                words.extend(map(str.__add__, run, run[1:]))
            elif number % 2 or len(run) > 1:
                words.append(run)
    return words


@functools.cache
def _marked_word() -> re.Pattern[str]:
    # in Python \w has no vowel signs or other combining marks, which would cut words of Hindi, Thai or Arabic
    marks = "".join(chr(c) for c in range(0x300, 0x1F000) if unicodedata.category(chr(c)) in ("Mn", "Mc"))
    return re.compile(rf"[\w{marks}]{{2,}}|[{UNSPACED}]")
