"""Relevance judgments (qrels) in the tab-separated form that BEIR uses."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from ragcun.errors import InputError
from ragcun.files import read_lines, replacing_file

Qrels = dict[str, dict[str, int]]


def read_qrels(path: str | Path) -> Qrels:
    """Read judgments: query-id, corpus-id and score between tabs, with or without a header line.

    Where a pair is judged twice the last judgment holds, as in BEIR.

    Raises:
        InputError: the file is missing, a line is wrong (it is named), or there are no judgments.
    """
    qrels: Qrels = {}
    for line, text in read_lines(path):
        fields = next(csv.reader([text], delimiter="\t")) if '"' in text else text.split("\t")
        if not text.strip() or (line == 1 and len(fields) == 3 and not _is_number(fields[2])):
            continue
        if len(fields) != 3:
            raise InputError(
                f"{path}, line {line}: expected query-id, corpus-id and score between tabs, got {len(fields)} columns"
            )
        query, document, score = fields
        if not query.strip() or not document.strip():
            raise InputError(f"{path}, line {line}: an id is empty; correct or delete that line")
        try:
            qrels.setdefault(query, {})[document] = int(score)
        except ValueError as error:
            raise InputError(f"{path}, line {line}: the score must be a whole number, got {score!r:.60}") from error
    if not qrels:
        raise InputError(f"{path}: holds no judgments; a line is query-id, corpus-id and score between tabs")
    return qrels


def write_qrels(path: str | Path, qrels: Mapping[str, Mapping[str, int]]) -> None:
    """Write judgments with BEIR's header; the file is complete or absent."""
    with replacing_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(("query-id", "corpus-id", "score"))
        writer.writerows((query, key, score) for query, judged in qrels.items() for key, score in judged.items())


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
