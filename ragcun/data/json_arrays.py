"""The elements of a JSON array, each with the line it starts on, without holding the whole file in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from ragcun.errors import InputError

CHUNK = 1 << 20
BLANKS = " \t\n\r"
LONGEST_NUMBER_END = 2
"""How many characters may stand unparsed behind a number that goes on in the next chunk, as in ``1e+`` and ``5``."""


class Unreadable(NamedTuple):
    """A record that could not be parsed, and why."""

    reason: str


def not_json(error: ValueError | RecursionError, columns_before: int = 0) -> Unreadable:
    """Return what `json` says of a text that is none; `columns_before` were cut off the text's first line."""
    if isinstance(error, json.JSONDecodeError):
        column = error.colno + (columns_before if error.lineno == 1 else 0)
        return Unreadable(f"not valid JSON ({error.msg} at column {column})")
    return Unreadable(f"not readable as JSON ({error})")


def read_json_array(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield ``(line, element)`` of a JSON array; what cannot be parsed comes last, as an `Unreadable`.

    Raises:
        InputError: the file is not UTF-8.
    """
    with path.open(encoding="utf-8-sig") as file:
        text = _Window(file, path)
        if not text.skip("["):
            yield 1, Unreadable("expected a JSON array of objects (a file with one object a line is named .jsonl)")
            return
        closed = text.skip("]")
        more = not closed
        while more:
            line, value = text.decode()
            yield line, value
            if isinstance(value, Unreadable):
                return
            more = text.skip(",")
            closed = not more and text.skip("]")
        line = text.line
        if not closed:
            yield line, Unreadable("not valid JSON (expected a comma or the closing bracket of the array)")
        elif text.next_character():
            yield line, Unreadable("not valid JSON (text after the closing bracket of the array)")


class _Window:
    """The part of a file that is being parsed: it begins within a line; parsing stands on `line`."""

    def __init__(self, file: TextIO, path: Path) -> None:
        self.line = 1
        self._file, self._path = file, path
        self._text, self._at, self._counted, self._column, self._ended = "", 0, 0, 0, False
        self._decoder = json.JSONDecoder()

    def next_character(self) -> str:
        """Pass over blanks; return what follows them, nothing at the end of the file."""
        while True:
            while self._text[self._at : self._at + 1] and self._text[self._at] in BLANKS:
                self._at += 1
            if self._at < len(self._text) or self._ended:
                self.line += self._text.count("\n", self._counted, self._at)
                self._counted = self._at
                return self._text[self._at : self._at + 1]
            self._read()

    def skip(self, character: str) -> bool:
        """Pass over blanks and over `character`; say whether it was there."""
        found = self.next_character() == character
        self._at += found
        return found

    def decode(self) -> tuple[int, Any]:
        """Pass over blanks and a value; return its line and it, or where and why it cannot be parsed."""
        self.next_character()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if self._ended:
                    line = self.line + self._text.count("\n", self._at, error.pos)
                    return line, not_json(error, self._column)
                end = len(self._text)
            except (ValueError, RecursionError) as error:
                return self.line, not_json(error)
            if len(self._text) - end > LONGEST_NUMBER_END or self._ended:
                self._at = end
                return self.line, value
            self._read()

    def _read(self) -> None:
        """Let the window begin where parsing stands, and double it, so that a long value is not parsed too often."""
        before = self._text[: self._at]
        self._column = len(before) - 1 - before.rfind("\n") if "\n" in before else self._column + len(before)
        self.line += self._text.count("\n", self._counted, self._at)
        try:
            more = self._file.read(max(CHUNK, len(self._text) - self._at))
        except UnicodeDecodeError as error:
            raise InputError(
                f"{self._path}, in or after line {self.line}: not UTF-8 text ({error.reason}); convert it first"
            ) from error
        self._text, self._ended = self._text[self._at :] + more, not more
        self._at = self._counted = 0
