"""Text from files, which may hold anything, made fit to be shown."""

from __future__ import annotations

import unicodedata

LIMIT = 300
BLANKS = 64
"""Of a text, this many times the limit is looked at: enough where it has no more white space than that."""
KEPT = frozenset("\n\t\u200c\u200d\u00ad")
"""Line feed, tab, the joiners that scripts and emoji need, and the soft hyphen."""
HIDDEN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
"""Categories of Unicode: controls, formats (bidirectional ones among them), lone surrogates, separators."""


def visible(text: str) -> str:
    r"""Return `text` with every character that has no shape, or that turns the order of others, as its code point.

    Unpaired surrogates are among them, so that the result can always be written as UTF-8.

    >>> visible("a\x00b\u202ec")
    'a⟨U+0000⟩b⟨U+202E⟩c'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        f"⟨U+{ord(letter):04X}⟩" if letter not in KEPT and unicodedata.category(letter) in HIDDEN else letter
        for letter in text
    )


def excerpt(text: str, limit: int = LIMIT) -> str:
    r"""Return the start of `text` in one line: white space collapsed, cut after `limit` characters with an ellipsis.

    >>> excerpt("one\n two   three", 8)
    'one two…'

    Raises:
        ValueError: `limit` is below 1.
    """
    if limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    start = text[: BLANKS * limit]
    whole = " ".join(start.split())
    cut = len(whole) > limit or len(start) < len(text)
    return visible(whole[:limit].rstrip() + ("…" if cut else ""))
