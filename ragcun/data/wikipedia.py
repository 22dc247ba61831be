"""Passages of Wikipedia articles, cut where paragraphs and sentences end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ragcun.data.dedup import text_key
from ragcun.data.hub_data import RowStream, wrong_columns
from ragcun.data.sentences import split_sentences
from ragcun.io import replacing_file, write_json_array

COLUMNS = ("id", "title", "text")
LIST_TITLES = ("list of ", "lists of ", "index of ", "outline of ", "timeline of ")
REFERS = ("refer to", "refers to")


def subset_of(source: str, date: str, language: str) -> str | None:
    """Return the subset of a date and language; None where `source` is a folder that is that subset itself."""
    subset = f"{date}.{language}"
    return None if Path(source).is_dir() and not (Path(source) / subset).is_dir() else subset


def is_list_page(title: str, text: str) -> bool:
    r"""Say whether an English article only points to others, by its title and the end of its first line.

    >>> is_list_page("List of rivers", ""), is_list_page("Mercury", "Mercury may refer to:\n\nA planet")
    (True, True)
    """
    name, first = title.casefold(), text.lstrip().split("\n", 1)[0].casefold()
    opening = first.rstrip(" :")
    points = first.rstrip().endswith(":") and opening.endswith(REFERS)
    return name.startswith(LIST_TITLES) or "(disambiguation)" in name or points


def split_passages(text: str, max_length: int, min_length: int = 1) -> list[str]:
    """Cut a text into passages of at most `max_length` words (what blanks separate), in order.

    A paragraph (a line) goes whole into the passage that is being filled, or else begins the next one; one that is
    longer than a passage is cut where sentences end, and a sentence that is longer, between words. A passage below
    `min_length` is filled up with the first sentences of the next paragraph; what remains too short is left in, for
    the caller to drop.

    Raises:
        ValueError: not 1 ≤ `min_length` ≤ `max_length`.
    """
    if not 1 <= min_length <= max_length:
        raise ValueError(f"lengths must be 1 <= min_length <= max_length, got {min_length} and {max_length}")
    passages: list[list[str]] = [[]]
    size = 0
    for paragraph in filter(None, map(str.strip, text.split("\n"))):
        words = len(paragraph.split())
        if size + words > max_length and size >= min_length:
            passages.append([])
            size = 0
        whole = size + words <= max_length
        for place, piece in enumerate([paragraph] if whole else _pieces(paragraph, max_length)):
            words = len(piece.split())
            if size + words > max_length:
                passages.append([])
                size = 0
            passages[-1].append(("\n" if place == 0 else " ") + piece)
            size += words
    return [passage for pieces in passages if (passage := "".join(pieces).strip())]


class PassageKeeper:
    """Keeps the passages of articles, each text once, until there are enough.

    Attributes:
        counts: articles, and why articles and passages were left out.
        wanted: how many passages.
    """

    def __init__(self, wanted: int, max_length: int, min_length: int) -> None:
        self.wanted: int | None = wanted
        self.counts: Counter[str] = Counter()
        self._lengths = (max_length, min_length)
        self._seen: set[bytes] = set()

    def have(self) -> int:
        """Return how many passages there are."""
        return len(self._seen)

    def expect(self, stream: RowStream) -> None:
        """Refuse rows that are no articles.

        Raises:
            InputError: a column is missing.
        """
        if not set(COLUMNS) <= set(stream.columns):
            raise wrong_columns(stream, ", ".join(COLUMNS))

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Remember a passage."""
        self._seen.add(text_key(kept["text"]))

    def take(self, row: Mapping[str, Any]) -> list[dict[str, str]]:
        """Return the passages of an article that are new, as far as they are wanted."""
        title, text = (row["title"] or "").strip(), row["text"] or ""
        if is_list_page(title, text):
            self.counts["list_pages"] += 1
            return []
        kept: list[dict[str, str]] = []
        for passage in split_passages(text, *self._lengths):
            if self.have() == self.wanted:
                break
            if self._is_kept(passage):
                kept.append({"_id": f"{row['id']}-{len(kept)}", "title": title, "text": passage})
        self.counts["articles"] += bool(kept)
        self.counts["articles_without_passage"] += not kept
        self.counts["passages"] += len(kept)
        return kept

    def _is_kept(self, passage: str) -> bool:
        key, is_short = text_key(passage), len(passage.split()) < self._lengths[1]
        self.counts["short_passages"] += is_short
        self.counts["repeated_passages"] += not is_short and key in self._seen
        if is_short or key in self._seen:
            return False
        self._seen.add(key)
        return True


def write_passages(path: Path, passages: Iterable[dict[str, Any]]) -> None:
    """Write passages as a JSON array (.json) or, title first, a line each (.txt); complete or absent."""
    if path.suffix.lower() == ".json":
        write_json_array(path, passages)
        return
    with replacing_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(" ".join(f"{row['title']} {row['text']}".split()) + "\n" for row in passages)


def _pieces(paragraph: str, max_length: int) -> Iterator[str]:
    """Yield the sentences of a paragraph, those that are too long in runs of `max_length` words."""
    for sentence in split_sentences(paragraph):
        words = sentence.split()
        if len(words) <= max_length:
            yield sentence
        else:
            yield from (" ".join(words[start : start + max_length]) for start in range(0, len(words), max_length))
