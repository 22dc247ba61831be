"""Vectors from anywhere in place of a text model: VectorBase stands in for it, VectorStore for its cache."""

from __future__ import annotations

import hashlib
import tokenize
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ragcun.data.beir import Collection
from ragcun.embeddings.base import Base, Rows, Vectors
from ragcun.embeddings.text_base import TextBase
from ragcun.errors import InputError
from ragcun.io import existing_file, read_lines

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from ragcun.batch import Features, Role
    from ragcun.distance import Distance


BLOCK = 8192
Named = tuple[Sequence[str | None], NDArray[Any]]
"""Texts, or ids that stand for them, and the vector of each ``(n, dim)``; None where nothing asks for a row."""


class VectorBase(Base):
    """Vectors whose model is elsewhere: it passes them on, and cannot encode a text.

    Args:
        dimension: length of the vectors.
        normalize: whether `forward` scales them to length 1.
        digest: of the vectors, for the record.
        name: what they are called.
    """

    reads_texts = False

    def __init__(self, dimension: int, normalize: bool = True, digest: str = "", name: str = "vectors") -> None:
        super().__init__()
        self.name, self.normalize, self.ends_normalized = name, normalize, False
        self._dimension, self.digest = dimension, digest

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> VectorBase:
        """Make the base of `to_config` again."""
        return cls(config["dimension"], config["normalize"], config["digest"], config["name"])

    def to_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {"name": self.name, "dimension": self.dimension, "normalize": self.normalize, "digest": self.digest}

    @property
    def dimension(self) -> int:
        """Length of the vectors."""
        return self._dimension

    @property
    def distance(self) -> Distance:
        """Cosine."""
        return "cosine"

    @property
    def frozen(self) -> bool:
        """True: there is nothing to train."""
        return True

    @property
    def text_model(self) -> SentenceTransformer:
        """Raise InputError: there is none."""
        self.require_texts()

    @property
    def routes_roles(self) -> bool:
        """False: nothing goes through a model here."""
        return False

    def prompt(self, role: Role) -> str:
        """Raise InputError: there is no text model."""
        self.require_texts()

    def encode(self, texts: list[str], role: Role, batch_size: int = 32, show_progress_bar: bool = False) -> Vectors:
        """Raise InputError: there is no text model."""
        self.require_texts()

    def features(self, texts: list[str], role: Role) -> Features:
        """Raise InputError: there is no text model."""
        self.require_texts()

    def checkpoint_activations(self) -> None:
        """Raise InputError: there is no text model."""
        self.require_texts()

    def require_texts(self) -> NoReturn:
        """Raise InputError: there is no text model."""
        raise InputError(
            "this head was trained on vectors alone and there is no text model to encode texts with; give vectors "
            "(--vectors DIR, or load_head(folder).embed_queries)"
        )

    def forward(self, inputs: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """Return what the head sees: the vectors, normalised if asked."""
        return self.finish(inputs, self.normalize)

    def freeze(self, whole: bool = True, early_layers: int = 0) -> None:
        """Do nothing, since nothing can be trained.

        Raises:
            InputError: it is to be trained.
        """
        if not whole:
            raise InputError("vectors cannot be trained, only heads on them; leave --freeze_base as it is")

    def fingerprint(self) -> str:
        """Return the digest of the vectors."""
        return self.digest


class VectorStore:
    """Vectors that are all there, by text or by an id that stands for one; a text given twice has its first vector.

    Args:
        documents: texts and vectors of documents; several sets are one.
        queries: likewise of queries.
        normalize: whether heads see them scaled to length 1.
        place: where they come from, for messages.
    """

    def __init__(
        self, documents: Sequence[Named], queries: Sequence[Named], normalize: bool = True, place: str = "vectors"
    ) -> None:
        sets = [*documents, *queries]
        self.vectors = Stacked([vectors for _, vectors in sets])
        self.place = place
        self.dimension = int(sets[0][1].shape[1])
        self.base = VectorBase(self.dimension, normalize, self.vectors.digest())
        sizes = [len(vectors) for _, vectors in sets]
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        named = [(names, start) for (names, _), start in zip(sets, starts, strict=True)]
        self._row_of = {"document": _numbered(named[: len(documents)]), "query": _numbered(named[len(documents) :])}

    @property
    def fingerprint(self) -> str:
        """Digest of the vectors."""
        return self.base.digest

    def require_fit(self, base: Base) -> None:
        """Check that heads on `base` can stand on these vectors.

        Raises:
            InputError: the base has a text model of its own, or vectors of another length.
        """
        if base.reads_texts:
            raise InputError(f"{self.place}: the checkpoint has a text model, {base.name!r}; leave --vectors out")
        if base.dimension != self.dimension:
            raise InputError(
                f"{self.place}: vectors have length {self.dimension}, the checkpoint takes {base.dimension}; "
                "give vectors of the model that it was trained on"
            )

    def rows(self, texts: Sequence[str], role: Role) -> Rows:
        """Return the row of each text.

        Raises:
            InputError: a text has no vector.
        """
        row_of = self._row_of[role]
        rows = np.fromiter((row_of.get(text, -1) for text in texts), dtype=np.int64, count=len(texts))
        if (rows < 0).any():
            first = texts[int(np.argmax(rows < 0))]
            raise InputError(f"{self.place} holds no vector for {(rows < 0).sum()} {role} texts, first {first!r:.60}")
        return rows

    def encode(self, texts: Sequence[str], role: Role) -> Vectors:
        """Return the vectors of texts ``(len(texts), dimension)``."""
        return self.vectors[self.rows(texts, role)]


class Stacked:
    """Matrices of one width as the rows of a single one, read where they lie, as float32."""

    def __init__(self, parts: Sequence[NDArray[Any]]) -> None:
        self.parts = list(parts)
        self.ends = np.cumsum([len(part) for part in parts])

    def __getitem__(self, rows: Rows) -> Vectors:
        part = np.searchsorted(self.ends, rows, side="right")
        if len(rows) and (part == part[0]).all():
            return self._gather(int(part[0]), rows)
        out = np.empty((len(rows), self.parts[0].shape[1]), dtype=np.float32)
        for index in np.unique(part):
            out[part == index] = self._gather(int(index), rows[part == index])
        return out

    def _gather(self, part: int, rows: Rows) -> Vectors:
        start = self.ends[part] - len(self.parts[part])
        return np.asarray(self.parts[part][rows - start], dtype=np.float32)

    def digest(self) -> str:
        """Return the BLAKE2b digest of shapes and numbers."""
        digest = hashlib.blake2b(digest_size=32)
        for part in self.parts:
            digest.update(f"{part.shape}".encode())
            for start in range(0, len(part), BLOCK):
                digest.update(np.ascontiguousarray(part[start : start + BLOCK], dtype="<f4").data)
        return digest.hexdigest()


def check_vectors(values: ArrayLike | Tensor, name: str, columns: int | None = None) -> NDArray[Any]:
    """Return vectors as an array, float32 unless it lies on disk.

    Raises:
        ValueError: they are not numbers, have no rows or another shape than ``(n, columns)``, or are not finite.
    """
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


def _numbered(sets: Sequence[tuple[Sequence[str | None], int]]) -> dict[str, int]:
    """Return the row of each name, where each set starts at its row; the first of a name counts."""
    row_of: dict[str, int] = {}
    for names, start in sets:
        for row, name in enumerate(names, start=start):
            if name is not None:
                row_of.setdefault(name, row)
    return row_of


def make_base(model: SentenceTransformer | None, config: dict[str, Any]) -> Base:
    """Make the base of a checkpoint again: of its text model where it has one, else of vectors.

    Raises:
        ValueError: the model does not fit the configuration.
    """
    return VectorBase.from_config(config) if model is None else TextBase.from_config(model, config)


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
