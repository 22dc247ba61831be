"""Pieces of work on disk: an array file, and beside it a record (JSON) of what it was made from, written last."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from ragcun.errors import InputError
from ragcun.io import read_json, replacing_file, write_json
from ragcun.retrieval.top_k import SearchResult

logger = logging.getLogger(__name__)

Record = Mapping[str, Any]
"""What a piece was made from, as JSON has it: two pieces of equal records hold the same."""


def record_of(piece: Path) -> dict[str, Any] | None:
    """Return the record of a piece; None where it was never finished."""
    file = piece.with_suffix(".json")
    return dict(read_json(file)) if file.is_file() else None


def write_matrix(piece: Path, blocks: Iterable[NDArray[np.float32]], record: Record) -> None:
    """Write blocks of rows, one after the other, as a ``.npy`` of ``(record["rows"], record["dimension"])`` float32.

    Raises:
        ValueError: the blocks have another number of rows together.
    """
    rows, dimension = record["rows"], record["dimension"]
    piece.with_suffix(".json").unlink(missing_ok=True)
    with replacing_file(piece) as temporary:
        matrix = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=(rows, dimension))
        filled = 0
        for block in blocks:
            matrix[filled : filled + len(block)] = block
            filled += len(block)
        if filled != rows:
            raise ValueError(f"{piece.name} must have {rows} rows, got {filled}")
        matrix.flush()
    write_json(piece.with_suffix(".json"), record)


def write_array(piece: Path, array: NDArray[Any], record: Record) -> None:
    """Write an array as a ``.npy``."""
    piece.with_suffix(".json").unlink(missing_ok=True)
    with replacing_file(piece) as temporary, temporary.open("wb") as file:
        np.save(file, array)
    write_json(piece.with_suffix(".json"), record)


def read_array(piece: Path) -> NDArray[Any]:
    """Return the array of a ``.npy`` piece, memory-mapped and read-only."""
    return np.lib.format.open_memmap(piece, mode="r")


def is_whole(piece: Path, record: Record) -> bool:
    """Say whether a ``.npy`` piece of this record is there; one that was cut off counts as not there, and is named.

    >>> is_whole(Path("nowhere.npy"), {"rows": 1})
    False
    """
    if record_of(piece) != record:
        return False
    try:
        return len(read_array(piece)) == record["rows"]
    except (OSError, ValueError) as error:
        logger.warning("%s is not whole (%s); it is made again", piece, error)
        return False


def require_same(piece: Path, record: Record) -> None:
    """Refuse a piece that was made from something else.

    Raises:
        InputError: it is of other texts, another model or other settings; what differs is named.
    """
    before = record_of(piece)
    if before is None:
        return
    for key in {**record, **before}:
        if before.get(key) != record.get(key):
            raise InputError(
                f"{piece} was made from something else: {key} is {before.get(key)!r} there and {record.get(key)!r} "
                "now; name another --work_dir, or delete that folder"
            )


def write_found(piece: Path, found: SearchResult, record: Record) -> None:
    """Write what a search found as a ``.npz`` of scores and indices."""
    piece.with_suffix(".json").unlink(missing_ok=True)
    with replacing_file(piece) as temporary, temporary.open("wb") as file:
        np.savez(file, scores=found.scores, indices=found.indices)
    write_json(piece.with_suffix(".json"), record)


def read_found(piece: Path) -> SearchResult:
    """Read what `write_found` wrote."""
    with np.load(piece) as arrays:
        return SearchResult(arrays["scores"], arrays["indices"])


@contextlib.contextmanager
def owned_folder(folder: Path) -> Iterator[None]:
    """Keep other processes from working in a folder; what killed ones left half-written is removed, before and after.

    Raises:
        InputError: another process works in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "lock", timeout=0):
            _remove_half_written(folder)
            yield
            _remove_half_written(folder)
    except Timeout as error:
        raise InputError(f"another process works in {folder}; wait for it, or name another --work_dir") from error


def _remove_half_written(folder: Path) -> None:
    for stale in folder.glob(".*.tmp"):
        stale.unlink(missing_ok=True)
