"""Rows of MS MARCO as the hub has them: passages of which some are selected, or triplets of texts."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ragcun.data.hub_data import RowStream, wrong_columns
from ragcun.errors import InputError

QUERY_COLUMNS, POSITIVE_COLUMNS = ("query", "anchor"), ("positive", "pos")
EXPECTED = "query and passages (is_selected, passage_text), or query (anchor), positive and negative (negative_1, …)"
_NEGATIVE = re.compile(r"negative(_\d+)?|neg")


class Judged(NamedTuple):
    """A query with the passages that answer it, and others that a row offers as negatives."""

    query: str
    positives: list[str]
    negatives: list[str]


Reader = Callable[[Mapping[str, Any]], Judged]


def reader_of(stream: RowStream) -> Reader:
    """Return what reads a row of either layout.

    Of the layout with `passages`, those selected are positives; the others are candidates that nobody judged.

    Raises:
        InputError: the columns are those of neither layout.
    """
    columns = stream.columns
    query = next((name for name in QUERY_COLUMNS if name in columns), None)
    positive = next((name for name in POSITIVE_COLUMNS if name in columns), None)
    negatives = sorted(filter(_NEGATIVE.fullmatch, columns), key=lambda name: (len(name), name))
    if query and "passages" in columns:
        return lambda row: _from_passages(stream, row, row[query])
    if query and positive:
        return lambda row: _from_texts(stream, row, [query, positive, *negatives])
    raise wrong_columns(stream, EXPECTED)


def _from_passages(stream: RowStream, row: Mapping[str, Any], query: Any) -> Judged:
    """Read a row whose passages are lists by field, as the hub has them, or a list of passages."""
    passages = row["passages"]
    try:
        listed = isinstance(passages, list)
        texts = [each["passage_text"] for each in passages] if listed else passages["passage_text"]
        selected = [each["is_selected"] for each in passages] if listed else passages["is_selected"]
    except (KeyError, TypeError) as error:
        raise wrong_columns(stream, EXPECTED) from error
    texts = [_text(stream, "passage_text", text) for text in texts]
    sides: tuple[list[str], list[str]] = ([], [])
    for text, chosen in zip(texts, selected, strict=True):
        sides[not chosen].append(text)
    return Judged(_text(stream, "query", query), *sides)


def _from_texts(stream: RowStream, row: Mapping[str, Any], names: list[str]) -> Judged:
    query, positive, *negatives = (_text(stream, name, row[name]) for name in names)
    return Judged(query, [positive], negatives)


def _text(stream: RowStream, name: str, value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InputError(f"{stream.source}: {name} holds {value!r}, not text; name a --subset with texts")
    return value
