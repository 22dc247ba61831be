"""EmbeddingCache: every text goes through a frozen base once; its vector is kept on disk and shared by all runs.

JoinedSource puts lexical vectors beside those; TargetSource has queries and documents of two models.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock

from ragcun.batch import Role
from ragcun.embeddings.base import NO_TEXTS, Base, Rows, Vectors, VectorSource
from ragcun.embeddings.encode import ROWS, blocks, cache_folder, progress_bar
from ragcun.embeddings.joined import JoinedBase
from ragcun.embeddings.precomputed import VectorStore
from ragcun.embeddings.target import TargetBase
from ragcun.errors import InputError
from ragcun.io import naming_failed_writes, read_json, write_json

logger = logging.getLogger(__name__)

KEY_BYTES, NAME_LENGTH = 16, 32
ABOUT, KEYS, LOCK = "base.json", "keys.bin", "encoding.lock"


class EmbeddingCache(VectorSource):
    """Pooled vectors of one base, in two files that only grow, row by row: ``vectors.bin`` and ``keys.bin``.

    A key is a hash of prompt and text; the folder, in `cache_folder`, is named after the base's
    fingerprint. Processes encode in turn, so two runs on the same texts have the vectors that each would have alone, to
    the bit. A row counts once vector and key are on the disk: the next writer cuts a torn write off. InputError if the
    base has no text model.
    """

    def __init__(self, base: Base, folder: str | Path | None = None, batch_size: int = ROWS) -> None:
        if not base.reads_texts:
            raise InputError(NO_TEXTS)
        self.base, self.batch_size = base, batch_size
        self.dimension, self.fingerprint = base.dimension, base.fingerprint()
        self.folder = cache_folder(folder) / self.fingerprint[:NAME_LENGTH]
        self._row_of: dict[bytes, int] = {}
        self.vectors = np.empty((0, self.dimension), dtype=np.float32)
        self._claim_folder()
        self._load_keys()

    def __len__(self) -> int:
        return len(self._row_of)

    def __getitem__(self, rows: Rows) -> Vectors:
        return np.asarray(self.vectors[rows])

    def rows(self, texts: Sequence[str], role: Role) -> Rows:
        """Return the row of each text, after encoding those that are not there yet."""
        keys = self._keys(texts, role)
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._row_of}
        if missing:
            logger.info("encoding %d texts into %s once no other process does", len(missing), self.folder)
            with FileLock(self.folder / LOCK):
                self._load_keys()
                self._encode({key: text for key, text in missing.items() if key not in self._row_of}, role)
        return np.fromiter((self._row_of[key] for key in keys), dtype=np.int64, count=len(keys))

    def _keys(self, texts: Sequence[str], role: Role) -> list[bytes]:
        prefix = f"{self.base.prompt(role)}\0{role if self.base.routes_roles else ''}\0".encode()
        whole = (prefix + text.encode("utf-8", "surrogatepass") for text in texts)
        return [hashlib.blake2b(each, digest_size=KEY_BYTES).digest() for each in whole]

    def _encode(self, missing: dict[bytes, str], role: Role) -> None:
        keys, texts = list(missing), list(missing.values())
        with progress_bar(texts, role) as progress:
            for block in blocks(texts):
                vectors = self.base.encode([texts[i] for i in block], role, self.batch_size, progress)
                self._append([keys[i] for i in block], vectors)

    def _append(self, keys: list[bytes], vectors: Vectors) -> None:
        with naming_failed_writes(self.folder):
            _append_at(self.folder / "vectors.bin", self.vectors.nbytes, vectors.tobytes())
            _append_at(self.folder / KEYS, len(self.vectors) * KEY_BYTES, b"".join(keys))
        self._load_keys()

    def _claim_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / ABOUT
        described = {"fingerprint": self.fingerprint, "dimension": self.dimension, "dtype": "float32"}
        if not path.exists():
            write_json(path, {"base": self.base.name, **described})
        found = read_json(path)
        if not isinstance(found, dict) or any(found.get(name) != value for name, value in described.items()):
            raise InputError(f"{path} belongs to another base than its folder's name; delete the folder {self.folder}")

    def _load_keys(self) -> None:
        keys, vectors = self.folder / KEYS, self.folder / "vectors.bin"
        if not (keys.exists() and vectors.exists()):
            return
        known = len(self.vectors)
        count = min(keys.stat().st_size // KEY_BYTES, vectors.stat().st_size // (4 * self.dimension))
        if count < known:
            raise InputError(f"{self.folder} lost rows while it was in use; delete that folder and start again")
        if count > known:
            new = np.fromfile(keys, f"V{KEY_BYTES}", count - known, offset=known * KEY_BYTES)
            self._row_of.update(zip(new.tolist(), range(known, count), strict=True))
            self.vectors = np.memmap(vectors, dtype=np.float32, mode="r", shape=(count, self.dimension))


def _append_at(path: Path, offset: int, data: bytes) -> None:
    with path.open("ab") as file:
        file.truncate(offset)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def cached_bases(place: Path) -> list[dict[str, Any]]:
    """Describe the folders in a cache that `EmbeddingCache` made: base, folder, texts, bytes."""
    found = []
    for file in sorted(place.glob(f"*/{ABOUT}")):
        about, folder, keys = read_json(file), file.parent, file.with_name(KEYS)
        if isinstance(about, dict) and str(about.get("fingerprint"))[:NAME_LENGTH] == folder.name:
            texts = keys.stat().st_size // KEY_BYTES if keys.exists() else 0
            occupied = sum(each.stat().st_size for each in folder.iterdir())
            found.append({"base": about.get("base"), "folder": folder, "texts": texts, "bytes": occupied})
    return found


class JoinedSource(VectorSource):
    """Joined vectors of texts: dense ones from a cache or store, lexical ones made once and kept in memory.

    Raises:
        InputError: `dense` is of another text model than `base`.
    """

    base: JoinedBase

    def __init__(self, dense: VectorSource, base: JoinedBase) -> None:
        if dense.fingerprint != (own := base.dense.fingerprint()):
            raise InputError(f"the cached vectors are not those of {base.name!r}; cache those of the joined base's own")
        self.dense, self.base = dense, base
        self.dimension, self.fingerprint = base.dimension, base.fingerprint(own)
        self._row_of: dict[tuple[Role, str], int] = {}
        self._dense_rows = np.empty(0, dtype=np.int64)
        self._lexical = np.empty((0, base.channel.dimension), dtype=np.float32)

    @property
    def untouched(self) -> VectorSource:
        """The dense vectors."""
        return self.dense

    def __getitem__(self, rows: Rows) -> Vectors:
        return self.base.join(self.dense[self._dense_rows[rows]], self._lexical[rows])

    def rows(self, texts: Sequence[str], role: Role) -> Rows:
        """Return the row of each text, after encoding those that are not there yet."""
        new = list(dict.fromkeys(text for text in texts if (role, text) not in self._row_of))
        if new:
            self._dense_rows = np.append(self._dense_rows, self.dense.rows(new, role))
            self._lexical = np.vstack([self._lexical, self.base.lexical(new, role)])
            self._row_of.update({(role, text): row for row, text in enumerate(new, len(self._row_of))})
        return np.fromiter((self._row_of[role, text] for text in texts), dtype=np.int64, count=len(texts))


class TargetSource(VectorSource):
    """Documents of a `TargetBase` in even rows, and in odd rows its queries, mapped when they are read."""

    base: TargetBase

    def __init__(self, queries: VectorSource, documents: VectorSource, base: TargetBase) -> None:
        self.queries, self.documents, self.base = queries, documents, base
        self.dimension, self.fingerprint = base.dimension, base.fingerprint()

    @property
    def untouched(self) -> VectorSource:
        """The vectors of the small model."""
        return self.queries

    def __getitem__(self, rows: Rows) -> Vectors:
        out, odd = np.empty((len(rows), self.dimension), dtype=np.float32), rows % 2 == 1
        out[~odd] = self.documents[rows[~odd] // 2]
        out[odd] = self.base.mapped(torch.from_numpy(self.queries[rows[odd] // 2])).cpu().numpy()
        return out

    def rows(self, texts: Sequence[str], role: Role) -> Rows:
        """Return the row of each text, after encoding those that are not there yet."""
        own = self.queries if role == "query" else self.documents
        return own.rows(texts, role) * 2 + (role == "query")


def vector_source(
    base: Base, cache_dir: str | Path | None = None, batch_size: int = ROWS, given: VectorSource | None = None
) -> VectorSource:
    """Return the vectors of a base's texts; dense ones as `given`, else from `cache_dir` (None: the default)."""
    if isinstance(given, VectorStore):
        given.require_fit(base.untouched)
    dense = EmbeddingCache(base.untouched, cache_dir, batch_size) if given is None else given
    if isinstance(base, TargetBase):
        base.target.source = vector_source(base.documents, cache_dir, batch_size)
        return TargetSource(dense, base.target.source, base)
    if not isinstance(base, JoinedBase):
        return dense
    if isinstance(given, VectorStore):
        base.dense = given.base  # a checkpoint knows the digest of its training vectors alone
    return JoinedSource(dense, base)
