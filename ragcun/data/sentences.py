"""Where the sentences of a text are: a plain rule for running text, without a model of the language."""

from __future__ import annotations

import re
from collections.abc import Iterator

ABBREVIATIONS = (
    "al approx ca capt cf chap col cp dept dr ed eds eg eq eqs esp etc fig figs gen gov hon ie inc incl jr lt ltd max "
    "messrs min mr mrs ms mt nos pp prof ref refs rep rev sec sen sgt sr st viz vol vols vs"
)
"""Words after which a full stop ends no sentence."""
BEFORE_NUMBERS = "art ch no p para pt tab v"
"""Words after which a full stop ends no sentence where a digit follows."""

_NEVER_LAST, _BEFORE_NUMBERS = frozenset(ABBREVIATIONS.split()), frozenset(BEFORE_NUMBERS.split())
_PARAGRAPH_END = re.compile(r"\n\s*\n")
_MARK = re.compile(
    r"(?P<mark>[.!?…]+)[\"'”’»)\]]*(?=\s+[\"'“‘«(\[]*(?P<next>[^\s\"'“‘«(\[]))" + r"|[。！？]+[」』”’）]*"
)
_INITIALS = re.compile(r"[^\W\d_](\.[^\W\d_])*")
_LONGEST_WORD = 20


def sentence_spans(text: str) -> Iterator[tuple[int, int]]:
    """Yield ``(start, end)`` of every sentence, without the blanks around it.

    A sentence ends with an empty line, with ``.``, ``!``, ``?`` or ``…`` (and closing quotes and brackets) before a
    blank, or with ``。``, ``！`` or ``？``. A mark ends none where a lower-case letter follows, and a full stop none
    after an abbreviation ("Dr.", "et al."), initials ("J. Smith", "U.S.") or, before a digit, "No." and its like.
    """
    ends = {match.start() for match in _PARAGRAPH_END.finditer(text)}
    ends |= {match.end() for match in _MARK.finditer(text) if _ends_sentence(text, match)}
    start = 0
    for end in sorted(ends | {len(text)}):
        piece = text[start:end]
        if piece.strip():
            first = start + len(piece) - len(piece.lstrip())
            yield first, first + len(piece.strip())
        start = end


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
    if word.casefold() in _BEFORE_NUMBERS:
        return not match["next"].isdigit()
    return word.casefold() not in _NEVER_LAST and not _INITIALS.fullmatch(word)
