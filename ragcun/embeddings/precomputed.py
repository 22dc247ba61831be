"""Precomputed vectors in place of a text model: VectorStore stands in for the cache of its base."""

from __future__ import annotations

import hashlib
import tokenize
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ragcun.data.beir import Collection
from ragcun.embeddings.base import Base, Rows, Vectors, VectorSource
from ragcun.errors import InputError, as_input_error
from ragcun.io import existing_file, read_lines

if TYPE_CHECKING:
    from ragcun.batch import Role

BLOCK = 8192
Named = tuple[Sequence[str | None], NDArray[Any]]
"""Texts, or ids that stand for them, and the vector of each ``(n, dim)``; None where nothing asks for a row."""


class VectorStore(VectorSource):
    """All vectors, by text or by an id that stands for one; a text given twice has its first vector.

    The matrices are read where they lie, as the rows of a single one of float32.
    """

    def __init__(
        self, documents: Sequence[Named], queries: Sequence[Named], normalize: bool = True, place: str = "vectors"
    ) -> None:
        self.place = place
        self._parts = [vectors for _, vectors in (*documents, *queries)]
        self.dimension, self.fingerprint = int(self._parts[0].shape[1]), _digest(self._parts)
        self.base = Base(self.dimension, normalize, self.fingerprint)
        self._row_of: dict[tuple[str, str | None], int] = {}
        named = [("document", names) for names, _ in documents] + [("query", names) for names, _ in queries]
        for row, key in enumerate((role, name) for role, names in named for name in names):
            self._row_of.setdefault(key, row)

    def __getitem__(self, rows: Rows) -> Vectors:
        return rows_of(self._parts, rows)

    def require_fit(self, base: Base) -> None:
        """Raise InputError if the base has a text model of its own, or vectors of another length."""
        if base.reads_texts:
            raise InputError(f"{self.place}: the checkpoint has a text model, {base.name!r}; leave --vectors out")
        if base.dimension != self.dimension:
            lengths = f"vectors have length {self.dimension}, the checkpoint takes {base.dimension}"
            raise InputError(f"{self.place}: {lengths}; give vectors of the model that it was trained on")

    def rows(self, texts: Sequence[str], role: Role) -> Rows:
        """Return the row of each text, or raise InputError if one has no vector."""
        rows = np.fromiter((self._row_of.get((role, text), -1) for text in texts), dtype=np.int64, count=len(texts))
        if (rows < 0).any():
            first = texts[int(np.argmax(rows < 0))]
            raise InputError(f"{self.place} holds no vector for {(rows < 0).sum()} {role} texts, first {first!r:.60}")
        return rows


def rows_of(parts: Sequence[NDArray[Any]], rows: Rows) -> Vectors:
    """Return some rows of matrices that lie one below the other, as float32."""
    ends = np.cumsum([len(part) for part in parts])
    part_of = np.searchsorted(ends, rows, side="right")
    out = np.empty((len(rows), parts[0].shape[1]), dtype=np.float32)
    for index in np.unique(part_of):
        own = part_of == index
        out[own] = parts[index][rows[own] - (ends[index] - len(parts[index]))]
    return out


def _digest(parts: Sequence[NDArray[Any]]) -> str:
    digest = hashlib.blake2b(digest_size=32)
    for part in parts:
        digest.update(f"{part.shape}".encode())
        for start in range(0, len(part), BLOCK):
            digest.update(np.ascontiguousarray(part[start : start + BLOCK], dtype="<f4").data)
    return digest.hexdigest()


def check_vectors(values: ArrayLike | Tensor, name: str, columns: int | None = None) -> NDArray[Any]:
    """Return vectors ``(n, columns)`` as an array, float32 unless it lies on disk; ValueError if one is not finite."""
    array = values.detach().float().cpu().numpy() if isinstance(values, Tensor) else np.asanyarray(values)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{name} must have the shape (n, dim), got {array.shape}")
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name} must be real numbers, got {array.dtype}")
    if columns is not None and array.shape[1] != columns:
        raise ValueError(f"{name} must have length {columns}, got {array.shape[1]}")
    for start in range(0, len(array), BLOCK):
        with np.errstate(over="ignore"):
            finite = np.isfinite(np.asarray(array[start : start + BLOCK], dtype=np.float32)).all(axis=1)
        if not finite.all():
            raise ValueError(f"{name} must be finite, row {start + int(np.argmin(finite))} is not")
    return array if isinstance(array, np.memmap) else np.ascontiguousarray(array, dtype=np.float32)


def read_vectors(
    folder: str | Path,
    collections: Sequence[Collection],
    normalize: bool = True,
    others: Mapping[str, Mapping[str, str]] | None = None,
) -> VectorStore:
    """Read the vectors of all documents and judged queries of collections, by their texts; matrices stay on disk.

    Those of a collection lie in ``folder/NAME`` where there is such a folder, else in `folder` itself; several
    collections of one name are parts of one. `others` are queries, by a collection's name and their id, that need no
    vector but keep the one that is there. InputError names the file and line that is missing or wrong.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"--vectors {folder}: no such folder; give one that holds documents.npy and queries.npy")
    places = {part.name: folder / part.name if (folder / part.name).is_dir() else folder for part in collections}
    if len(set(places.values())) < len(places):
        raise InputError(f"--vectors {folder}: {' and '.join(places)} need a subfolder each, of the same name")
    documents, queries = [], []
    for name, place in places.items():
        parts = [collection for collection in collections if collection.name == name]
        contents = {key: document.content for part in parts for key, document in part.documents.items()}
        asked = {key: text for part in parts for key, text in part.queries.items()}
        documents.append(_read(place / "documents", contents, name))
        queries.append(_read(place / "queries", asked, name, (others or {}).get(name, {})))
    lengths = {vectors.shape[1] for _, vectors in (*documents, *queries)}
    if len(lengths) > 1:
        raise InputError(f"--vectors {folder}: vectors have the lengths {sorted(lengths)}; give vectors of one length")
    return VectorStore(documents, queries, normalize, str(folder))


def _read(
    path: Path, texts: Mapping[str, str], collection: str, others: Mapping[str, str] = MappingProxyType({})
) -> Named:
    ids, matrix = _read_ids(path.with_suffix(".txt")), open_matrix(path.with_suffix(".npy"))
    with as_input_error(f"{path}.npy", "; write the file again, with numpy.save"):
        vectors = check_vectors(matrix, "vectors")
    if len(ids) != len(vectors):
        raise InputError(f"{path}.txt has {len(ids)} ids, {path}.npy has {len(vectors)} rows; give as many ids as rows")
    absent = sorted(texts.keys() - set(ids))
    if absent:
        lacking = f"{len(absent)} of the {len(texts)} {path.name} of {collection}, first {absent[0]!r}"
        raise InputError(f"{path}.txt lacks {lacking}; add their ids and vectors")
    return [texts.get(each, others.get(each)) for each in ids], vectors


def _read_ids(path: Path) -> list[str]:
    lines: dict[str, int] = {}
    for number, line in read_lines(path):
        if not line:
            raise InputError(f"{path}, line {number}: there is no id; delete the line, and its row if it has one")
        if line in lines:
            raise InputError(f"{path}, line {number}: id {line!r} is also in line {lines[line]}; keep one")
        lines[line] = number
    return list(lines)


def open_matrix(path: str | Path) -> NDArray[Any]:
    """Open a ``.npy`` file of numbers as a memory map."""
    kinds = (ValueError, OSError, TypeError, SyntaxError, OverflowError, MemoryError, tokenize.TokenError)
    with as_input_error(f"{existing_file(path)} is not a .npy file of vectors", "; write it with numpy.save", kinds):
        return np.lib.format.open_memmap(path, mode="r")
