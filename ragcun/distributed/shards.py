"""Shards: consecutive rows of a corpus, made of whole blocks, and the files of each in the shared folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

DIGEST_BYTES = 32
LENGTH_BYTES = 8


@dataclass(frozen=True)
class Shard:
    """Rows `start` to `stop` of a corpus.

    Attributes:
        number: which shard, from 1.
        of: how many there are.
        start: its first row in the corpus.
        stop: the row after its last one.
    """

    number: int
    of: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return self.stop - self.start

    def file(self, folder: Path, kind: str, suffix: str) -> Path:
        """Return where a file of this shard lies.

        >>> Shard(3, 16, 0, 8).file(Path("work"), "documents", ".npy").name
        'documents-00003-of-00016.npy'
        """
        return folder / f"{kind}-{self.number:05d}-of-{self.of:05d}{suffix}"


def cut_shards(rows: int, shards: int, block_rows: int) -> list[Shard]:
    """Cut a corpus into shards of consecutive whole blocks, their numbers of blocks differing by at most one.

    A block is encoded alone, so which texts share a batch does not depend on the number of shards. The last block of
    the corpus may be shorter.

    >>> [(shard.start, shard.stop) for shard in cut_shards(10, 2, 4)]
    [(0, 4), (4, 10)]

    Raises:
        ValueError: an argument is below 1, or there are fewer blocks than shards.
    """
    if min(rows, shards, block_rows) < 1:
        raise ValueError(f"rows, shards and block_rows must be at least 1, got {rows}, {shards} and {block_rows}")
    blocks = -(-rows // block_rows)
    if blocks < shards:
        raise ValueError(f"{rows} rows are {blocks} blocks of {block_rows}, which make at most {blocks}, not {shards}")
    bounds = [min(rows, number * blocks // shards * block_rows) for number in range(shards + 1)]
    return [Shard(number + 1, shards, bounds[number], bounds[number + 1]) for number in range(shards)]


def texts_digest(texts: Iterable[str]) -> str:
    """Return the BLAKE2b digest of texts in their order, the length of each included."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(LENGTH_BYTES, "little"))
        digest.update(data)
    return digest.hexdigest()
