"""EmbeddingCache: every text goes through a frozen base once; its vector is kept on disk and shared by all runs."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from ragcun.batch import Role
from ragcun.embeddings.base import Base
from ragcun.embeddings.encode import ROWS, blocks
from ragcun.errors import InputError
from ragcun.io import naming_failed_writes, read_json, write_json

logger = logging.getLogger(__name__)

KEY_BYTES = 16
CHECKED_AT_ONCE = 1 << 16


def default_cache_dir() -> Path:
    """Return ``$RAGCUN_CACHE``, or ``~/.cache/ragcun`` where that is not set."""
    return Path(os.environ.get("RAGCUN_CACHE") or Path.home() / ".cache" / "ragcun").expanduser()


class EmbeddingCache:
    """Pooled vectors of one base, in files that only grow, row by row: ``vectors.bin``, ``sums.bin``, ``keys.bin``.

    A key is a hash of prompt and text; the folder's name is the base's fingerprint, so another base, or the same one
    with other weights, arithmetic or length limit, has a folder of its own. Processes encode in turn: one that needs
    what another encodes waits for it, so no text is encoded twice, and two runs on the same texts have the vectors that
    each would have alone, to the bit. (Where texts overlap in part, last bits depend on what a text was encoded with.)
    A row counts once keys and vectors hold it: a torn write is cut off by the next writer. A row that another process
    wrote is compared with its checksum (`row_checksums`) when it is first asked for. Rows of a version without
    checksums have none until rows are added, and damage from before then is not seen.

    Args:
        base: the base whose vectors these are; only its texts not seen before are encoded.
        folder: where caches lie; None means `default_cache_dir`.
        batch_size: texts encoded at a time, at most (`TextBase.encode`).

    Raises:
        InputError: the base has no text model, or the folder is another base's.
    """

    def __init__(self, base: Base, folder: str | Path | None = None, batch_size: int = ROWS) -> None:
        self.base = base
        base.require_texts()
        self.batch_size = batch_size
        self.dimension = base.dimension
        self.fingerprint = base.fingerprint()
        self.folder = Path(folder or default_cache_dir()).expanduser() / self.fingerprint[:32]
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock, self._encoding = FileLock(self.folder / "lock"), FileLock(self.folder / "encoding.lock")
        self._row_of: dict[bytes, int] = {}
        self._count = 0
        self._checked = np.zeros(0, dtype=np.bool_)
        self._describe()
        self._load_keys()

    def __len__(self) -> int:
        """Count the texts whose vectors are there."""
        return len(self._row_of)

    def rows(self, texts: Sequence[str], role: Role) -> NDArray[np.int64]:
        """Return the row of each text, after encoding those that are not there yet.

        Raises:
            InputError: a row does not match its checksum.
        """
        keys = self._keys(texts, role)
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._row_of}
        if missing:
            with self._turn():
                self._load_keys()
                self._encode({key: text for key, text in missing.items() if key not in self._row_of}, role)
        rows = np.fromiter((self._row_of[key] for key in keys), dtype=np.int64, count=len(keys))
        self._check(rows)
        return rows

    @property
    def vectors(self) -> NDArray[np.float32]:
        """All rows ``(n, dimension)``, memory-mapped and read-only."""
        if not self._count:
            return np.empty((0, self.dimension), dtype=np.float32)
        shape = (self._count, self.dimension)
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

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait until no other process encodes into this cache."""
        try:
            self._encoding.acquire(blocking=False)
        except Timeout:
            logger.info("another process encodes texts into %s: waiting for it", self.folder)
            self._encoding.acquire()
        try:
            yield
        finally:
            self._encoding.release()

    def _append(self, keys: list[bytes], vectors: NDArray[np.float32]) -> None:
        with self._lock, naming_failed_writes(self.folder):
            self._load_keys()
            new = [i for i, key in enumerate(keys) if key not in self._row_of]
            if not new:
                return
            added, count = b"".join(keys[i] for i in new), self._count
            vectors = np.ascontiguousarray(vectors[new], dtype=np.float32)
            _append_at(self.folder / "vectors.bin", count * self.dimension * 4, vectors.tobytes())
            self._append_sums(row_checksums(_as_rows(added), vectors))
            _append_at(self.folder / "keys.bin", count * KEY_BYTES, added)
            self._load_keys()
            self._checked[count:] = True

    def _append_sums(self, sums: NDArray[np.uint64]) -> None:
        """Add the checksums of new rows, and before them those of rows that have none."""
        path = self.folder / "sums.bin"
        have = min(path.stat().st_size // SUM_BYTES if path.exists() else 0, self._count)
        if have < self._count:
            keys = (self.folder / "keys.bin").read_bytes()[have * KEY_BYTES : self._count * KEY_BYTES]
            sums = np.concatenate([row_checksums(_as_rows(keys), self.vectors[have:]), sums])
        _append_at(path, have * SUM_BYTES, sums.astype("<u8").tobytes())

    def _check(self, rows: NDArray[np.int64]) -> None:
        """Compare rows that were not compared yet with their checksums, as far as there are some."""
        path = self.folder / "sums.bin"
        known = path.stat().st_size // SUM_BYTES if path.exists() else 0
        rows = np.unique(rows[~self._checked[rows]])
        rows = rows[rows < known]
        if not len(rows):
            return
        sums = np.memmap(path, dtype="<u8", mode="r", shape=(known,))
        keys = np.memmap(self.folder / "keys.bin", dtype=np.uint8, mode="r", shape=(self._count, KEY_BYTES))
        for start in range(0, len(rows), CHECKED_AT_ONCE):
            some = rows[start : start + CHECKED_AT_ONCE]
            wrong = some[row_checksums(keys[some], self.vectors[some]) != sums[some]]
            if len(wrong):
                raise InputError(
                    f"{self.folder}: row {wrong[0]} of vectors.bin does not match its checksum; delete that folder, "
                    "and its texts are encoded again"
                )
        self._checked[rows] = True

    def _describe(self) -> None:
        """Write down whose cache this is, or check it."""
        path = self.folder / "base.json"
        described = {"fingerprint": self.fingerprint, "dimension": self.dimension, "dtype": "float32"}
        if not path.exists():
            write_json(path, {"base": self.base.name, **described})
            return
        found = read_json(path)
        if not isinstance(found, dict) or any(found.get(name) != value for name, value in described.items()):
            raise InputError(f"{path} is of another base than its folder's name says; delete the folder {self.folder}")

    def _load_keys(self) -> None:
        """Read keys that were added, by this process or another, since the last look."""
        files = self.folder / "keys.bin", self.folder / "vectors.bin"
        if not all(file.exists() for file in files):
            return
        count = min(files[0].stat().st_size // KEY_BYTES, files[1].stat().st_size // (4 * self.dimension))
        if count < self._count:
            raise InputError(f"{self.folder} has lost rows while it was in use; delete that folder and start again")
        have, self._count = self._count, count
        with files[0].open("rb") as file:
            file.seek(have * KEY_BYTES)
            added = file.read((count - have) * KEY_BYTES)
        self._row_of.update((added[i * KEY_BYTES : (i + 1) * KEY_BYTES], have + i) for i in range(count - have))
        self._checked = np.concatenate([self._checked, np.zeros(count - have, dtype=np.bool_)])


def _as_rows(keys: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(keys, dtype=np.uint8).reshape(-1, KEY_BYTES)


def _append_at(path: Path, offset: int, data: bytes) -> None:
    """Cut `path` at `offset`, write `data` there, and wait until it is on disk."""
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.truncate(offset)
        file.seek(offset)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


SUM_BYTES = 8
BLOCK = 4096


def row_checksums(keys: NDArray[np.uint8], vectors: NDArray[np.float32]) -> NDArray[np.uint64]:
    r"""Return a checksum of each row's key and vector: ``Σ_j w_j x_j mod 2^64`` over its words of 64 bits.

    The weights are odd and all different. An odd number is invertible modulo 2^64, so a change within one word always
    shows; any other accidental change is missed with probability about 2^-64. It is no defence against malice.

    Args:
        keys: (n, a multiple of 8) bytes.
        vectors: (n, dim).

    >>> keys, vectors = np.zeros((2, 8), dtype=np.uint8), np.ones((2, 3), dtype=np.float32)
    >>> keys[1, 0] = 1
    >>> len(set(row_checksums(keys, vectors).tolist()))
    2
    """
    size = keys.shape[1] + 4 * vectors.shape[1]
    weights = _weights(-(-size // 8))
    sums = np.empty(len(vectors), dtype=np.uint64)
    for start in range(0, len(vectors), BLOCK):
        rows = slice(start, start + BLOCK)
        block = np.zeros((len(vectors[rows]), 8 * len(weights)), dtype=np.uint8)
        block[:, : keys.shape[1]] = keys[rows]
        block[:, keys.shape[1] : size] = np.ascontiguousarray(vectors[rows], dtype="<f4").view(np.uint8)
        sums[rows] = block.view("<u8") @ weights
    return sums


def _weights(count: int) -> NDArray[np.uint64]:
    """Return odd numbers that look random: the first outputs of SplitMix64 (Steele et al., 2014)."""
    state = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
    return (state ^ (state >> np.uint64(31))) | np.uint64(1)
