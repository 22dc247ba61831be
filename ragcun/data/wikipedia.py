"""Passages of Wikipedia articles, cut where paragraphs and sentences end."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ragcun.data.hub import RowStream
from ragcun.data.texts import split_sentences, text_key
from ragcun.errors import InputError
from ragcun.io import replacing_file, write_json_array, write_json_lines

COLUMNS = ("id", "title", "text")
_LIST_TITLE = re.compile(r"((lists?|index|outline|timeline) of )|.*\(disambiguation\)", re.IGNORECASE)
_REFERS = re.compile(r"\s*.*refers? to[ :]*:[^\S\n]*(\n|$)", re.IGNORECASE)


def is_list_page(title: str, text: str) -> bool:
    r"""Say whether an English article only points to others, by its title and the end of its first line.

    >>> is_list_page("List of rivers", ""), is_list_page("Mercury", "Mercury may refer to:\n\nA planet")
    (True, True)
    """
    return bool(_LIST_TITLE.match(title) or _REFERS.match(text))


def split_passages(text: str, max_length: int, min_length: int = 1) -> list[str]:
    """Cut a text into passages of at most `max_length` words (what blanks separate), in order.

    A paragraph (a line) goes whole into the passage that is being filled, or else begins the next one; one that is
    longer than a passage is cut where sentences end, and a sentence that is longer, between words. A passage below
    `min_length` is filled up with the first sentences of the next paragraph, and may still remain too short.
    """
    passages = [""]
    size = 0
    for paragraph in filter(None, map(str.strip, text.split("\n"))):
        words = len(paragraph.split())
        if size + words > max_length and size >= min_length:
            passages.append("")
            size = 0
        whole = size + words <= max_length
        for place, piece in enumerate([paragraph] if whole else _pieces(paragraph, max_length)):
            words = len(piece.split())
            if size + words > max_length:
                passages.append("")
                size = 0
            passages[-1] += (" " if place else "\n") + piece
            size += words
    return list(filter(None, map(str.strip, passages)))


def read_passages(
    rows: RowStream, wanted: int, max_length: int, min_length: int, counts: Counter[str]
) -> Iterator[dict[str, str]]:
    """Yield at most `wanted` passages of articles, each text once; `counts` says what was left out and why."""
    if not set(COLUMNS) <= set(rows.columns):
        raise rows.wrong_columns(", ".join(COLUMNS))
    seen: set[bytes] = set()
    with tqdm(total=wanted, desc=str(rows), unit=" passages", delay=2, leave=False) as bar:
        for row in rows:
            counts["rows_read"] += 1
            title, text = (row["title"] or "").strip(), row["text"] or ""
            if is_list_page(title, text):
                counts["list_pages"] += 1
                continue
            kept = 0
            for passage in split_passages(text, max_length, min_length):
                key, words = text_key(passage), len(passage.split())
                if words < min_length or key in seen:
                    counts["short_passages" if words < min_length else "repeated_passages"] += 1
                    continue
                seen.add(key)
                yield {"_id": f"{row['id']}-{kept}", "title": title, "text": passage}
                kept += 1
                if len(seen) == wanted:
                    break
            counts.update({"passages": kept, "articles" if kept else "articles_without_passage": 1})
            bar.update(kept)
            if len(seen) == wanted:
                return
    if not seen:
        raise InputError(f"{rows} has no passages of {min_length} words; lower --min_length")


def write_passages(path: Path, passages: Iterable[dict[str, Any]]) -> None:
    """Write passages as JSON lines, a JSON array (.json) or, title first, a line each (.txt); complete or absent."""
    if path.suffix.lower() == ".txt":
        with replacing_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.writelines(" ".join(f"{row['title']} {row['text']}".split()) + "\n" for row in passages)
    else:
        (write_json_array if path.suffix.lower() == ".json" else write_json_lines)(path, passages)


def _pieces(paragraph: str, max_length: int) -> Iterator[str]:
    """Yield the sentences of a paragraph, those that are too long in runs of `max_length` words."""
    for sentence in split_sentences(paragraph):
        words = sentence.split()
        if len(words) <= max_length:
            yield sentence
        else:
            yield from (" ".join(words[start : start + max_length]) for start in range(0, len(words), max_length))
