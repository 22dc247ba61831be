"""A folder of vectors of BEIR collections: ``documents.npy``, ``queries.npy``, and the ids of the rows in ``.txt``."""

from __future__ import annotations

import tokenize
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragcun.data.beir import Collection
from ragcun.errors import InputError
from ragcun.files import existing_file, read_lines
from ragcun.models.vectors import Named, VectorStore, check_vectors


def read_vectors(folder: str | Path, collections: Sequence[Collection], normalize: bool = True) -> VectorStore:
    """Read the vectors of all documents and judged queries of collections, by their texts; matrices stay on disk.

    Those of a collection lie in ``folder/NAME`` where there is such a folder, else in `folder` itself. Documents with
    the same text share a vector, that of the first.

    Args:
        folder: where; a ``.npy`` file is never unpickled.
        collections: what needs vectors; several of one name are parts of one collection.
        normalize: whether heads see vectors scaled to length 1.

    Raises:
        InputError: a file is missing or wrong, an id stands twice or has no vector, or vectors are not of one length.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"--vectors {folder}: no such folder; give one that holds documents.npy and queries.npy")
    by_name: dict[str, list[Collection]] = {}
    for collection in collections:
        by_name.setdefault(collection.name, []).append(collection)
    places = {name: folder / name if (folder / name).is_dir() else folder for name in by_name}
    if len(set(places.values())) < len(places):
        raise InputError(f"--vectors {folder}: {' and '.join(places)} need a folder each in it, of their names")
    documents, queries = [], []
    for name, parts in by_name.items():
        texts = {key: document.content for part in parts for key, document in part.documents.items()}
        documents.append(_read(places[name] / "documents", texts, name))
        queries.append(
            _read(places[name] / "queries", {k: text for part in parts for k, text in part.queries.items()}, name)
        )
    lengths = {vectors.shape[1] for _, vectors in (*documents, *queries)}
    if len(lengths) > 1:
        raise InputError(f"--vectors {folder}: vectors have the lengths {sorted(lengths)}; they must have one")
    return VectorStore(documents, queries, normalize, str(folder))


def _read(path: Path, texts: Mapping[str, str], collection: str) -> Named:
    """Return the text of each row, None where nothing asks for it, and the rows of ``<path>.npy``."""
    ids, vectors = _read_ids(path.with_suffix(".txt")), _read_matrix(path.with_suffix(".npy"))
    if len(ids) != len(vectors):
        raise InputError(f"{path}.txt has {len(ids)} ids, {path}.npy has {len(vectors)} rows; they must be as many")
    absent = sorted(texts.keys() - set(ids))
    if absent:
        raise InputError(
            f"{path}.txt lacks {len(absent)} of the {len(texts)} {path.name} of {collection}, first {absent[0]!r}; "
            "add their ids and vectors"
        )
    return [texts.get(each) for each in ids], vectors


def _read_ids(path: Path) -> list[str]:
    lines: dict[str, int] = {}
    for number, line in read_lines(path):
        if not line:
            raise InputError(f"{path}, line {number}: there is no id; delete the line, and its row if it has one")
        if line in lines:
            raise InputError(f"{path}, line {number}: id {line!r} stands in line {lines[line]} already; keep one")
        lines[line] = number
    return list(lines)


def _read_matrix(path: Path) -> NDArray[np.float32]:
    matrix = open_matrix(path)
    try:
        return check_vectors(matrix, "vectors")
    except ValueError as error:
        raise InputError(f"{path} is not a .npy file of vectors ({error}); write it with numpy.save") from error


def open_matrix(path: str | Path) -> NDArray[Any]:
    """Open an array of numbers as a memory map.

    Raises:
        InputError: there is no such file, or it is no ``.npy`` file of numbers.
    """
    try:
        return np.lib.format.open_memmap(existing_file(path), mode="r")
    except InputError:
        raise
    except (ValueError, OSError, TypeError, SyntaxError, OverflowError, MemoryError, tokenize.TokenError) as error:
        why = " ".join(str(error).split())[:200]
        raise InputError(f"{path} is not a .npy file of vectors ({why}); write it with numpy.save") from error
