"""EmbeddingCache: every text goes through a frozen base once; its vector is kept on disk and shared by all runs."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from ragcun.files import write_json
from ragcun.models.abstract import Base, VectorSource
from ragcun.models.base import Role
from ragcun.models.encoder import RetrievalEncoder
from ragcun.models.encoding import ROWS, blocks

logger = logging.getLogger(__name__)

KEY_BYTES = 16


def default_cache_dir() -> Path:
    """Return ``$RAGCUN_CACHE``, or ``~/.cache/ragcun`` where that is not set."""
    return Path(os.environ.get("RAGCUN_CACHE") or Path.home() / ".cache" / "ragcun").expanduser()


class EmbeddingCache:
    """Pooled vectors of one base, in two files that only grow: ``keys.bin`` and ``vectors.bin``, row by row.

    A key is a hash of prompt and text; the folder's name is the base's fingerprint, so another base, or the same one
    with other weights, arithmetic or length limit, has a folder of its own. Writers take turns by a lock. A row counts
    once both its files hold it: a torn write is cut off by the next writer.

    Args:
        base: the base whose vectors these are; only its texts not seen before are encoded.
        folder: where caches lie; None means `default_cache_dir`.
        batch_size: texts encoded at a time, at most (`TextBase.encode`).

    Raises:
        InputError: the base has no text model.
    """

    def __init__(self, base: Base, folder: str | Path | None = None, batch_size: int = ROWS) -> None:
        self.base = base
        base.require_texts()
        self.batch_size = batch_size
        self.dimension = base.dimension
        self.fingerprint = base.fingerprint()
        self.folder = Path(folder or default_cache_dir()).expanduser() / self.fingerprint[:32]
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.folder / "lock")
        self._row_of: dict[bytes, int] = {}
        if not (self.folder / "base.json").exists():
            described = {"base": base.name, "fingerprint": self.fingerprint, "dimension": self.dimension}
            write_json(self.folder / "base.json", described | {"dtype": "float32"})
        self._load_keys()

    def __len__(self) -> int:
        """Count the texts whose vectors are there."""
        return len(self._row_of)

    def rows(self, texts: Sequence[str], role: Role) -> NDArray[np.int64]:
        """Return the row of each text, after encoding those that are not there yet."""
        keys = self._keys(texts, role)
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._row_of}
        if missing:
            self._load_keys()
            missing = {key: text for key, text in missing.items() if key not in self._row_of}
        self._encode(missing, role)
        return np.fromiter((self._row_of[key] for key in keys), dtype=np.int64, count=len(keys))

    @property
    def vectors(self) -> NDArray[np.float32]:
        """All rows ``(len(self), dimension)``, memory-mapped and read-only."""
        if not self._row_of:
            return np.empty((0, self.dimension), dtype=np.float32)
        shape = (len(self._row_of), self.dimension)
        return np.memmap(self.folder / "vectors.bin", dtype=np.float32, mode="r", shape=shape)

    def encode(self, texts: Sequence[str], role: Role) -> NDArray[np.float32]:
        """Return the vectors of texts ``(len(texts), dimension)``, encoding what is missing."""
        rows = self.rows(texts, role)
        return np.asarray(self.vectors[rows])

    def _keys(self, texts: Sequence[str], role: Role) -> list[bytes]:
        prefix = f"{self.base.prompt(role)}\0{role if self.base.routes_roles else ''}\0".encode()
        return [
            hashlib.blake2b(prefix + text.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()
            for text in texts
        ]

    def _encode(self, missing: dict[bytes, str], role: Role) -> None:
        if not missing:
            return
        keys, texts = list(missing), list(missing.values())
        with self.base.token_bar(texts, role):
            for block in blocks(texts):
                vectors = self.base.encode([texts[i] for i in block], role, self.batch_size)
                if not np.isfinite(vectors).all():
                    raise ValueError(f"base {self.base.name!r} gave a vector that is not finite")
                self._append([keys[i] for i in block], vectors)

    def _append(self, keys: list[bytes], vectors: NDArray[np.float32]) -> None:
        with self._lock:
            self._load_keys()
            new = [i for i, key in enumerate(keys) if key not in self._row_of]
            count = len(self._row_of)
            _append_at(self.folder / "vectors.bin", count * self.dimension * 4, vectors[new].tobytes())
            _append_at(self.folder / "keys.bin", count * KEY_BYTES, b"".join(keys[i] for i in new))
            self._row_of.update((keys[i], count + n) for n, i in enumerate(new))

    def _load_keys(self) -> None:
        """Read keys that were added, by this process or another, since the last look."""
        files = self.folder / "keys.bin", self.folder / "vectors.bin"
        if not all(file.exists() for file in files):
            return
        count = min(files[0].stat().st_size // KEY_BYTES, files[1].stat().st_size // (4 * self.dimension))
        have = len(self._row_of)
        with files[0].open("rb") as file:
            file.seek(have * KEY_BYTES)
            added = file.read((count - have) * KEY_BYTES)
        self._row_of.update((added[i * KEY_BYTES : (i + 1) * KEY_BYTES], have + i) for i in range(count - have))


class CachedEncoder:
    """An encoder whose base vectors come from a cache or store; without an encoder, the untouched base itself."""

    def __init__(self, cache: VectorSource, encoder: RetrievalEncoder | None = None) -> None:
        self.cache = cache
        self.encoder = encoder

    def encode_query(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode queries to ``(n, dim)``."""
        return self._encode(texts, "query")

    def encode_document(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode documents to ``(n, dim)``."""
        return self._encode(texts, "document")

    @property
    def dimension(self) -> int:
        """Length of an embedding."""
        return self.cache.dimension if self.encoder is None else self.encoder.dimension

    def finish(self, vectors: NDArray[np.float32], role: Role) -> NDArray[np.float32]:
        """Turn base vectors into embeddings."""
        if self.encoder is None:
            return self.cache.base.untouched_array(vectors)
        return self.encoder.embed(vectors, role)

    def _encode(self, texts: Sequence[str], role: Role) -> NDArray[np.float32]:
        return self.finish(self.cache.encode(texts, role), role)


def _append_at(path: Path, offset: int, data: bytes) -> None:
    """Cut `path` at `offset`, write `data` there, and wait until it is on disk."""
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.truncate(offset)
        file.seek(offset)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
