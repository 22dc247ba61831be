"""Queries that are held out of training while rows stream by, before it is known how many there are."""

from __future__ import annotations

import hashlib
import heapq

from ragcun.data.dedup import text_key


class DevQueries:
    """Holds queries out: those with the smallest hashes of seed and text, as a fraction or as a number of all.

    Queries that are the same but for case and blanks are one. Which are held out does not depend on their order.

    Attributes:
        train_pairs: pairs of the queries that are not held out.
    """

    def __init__(self, seed: int, fraction: float, number: int | None = None) -> None:
        self.train_pairs = 0
        self._seed, self._fraction, self._number = seed, fraction, number
        self._largest: list[tuple[float, bytes]] = []
        self._pairs: dict[bytes, int] = {}

    def add(self, query: str, pairs: int) -> None:
        """Count pairs of a query."""
        key = text_key(query)
        if self._number is None:
            self.train_pairs += 0 if query in self else pairs
        elif key in self._pairs:
            self._pairs[key] += pairs
        else:
            heapq.heappush(self._largest, (-self._place(key), key))
            self._pairs[key] = pairs
            if len(self._largest) > self._number:
                self.train_pairs += self._pairs.pop(heapq.heappop(self._largest)[1])

    def __contains__(self, query: str) -> bool:
        key = text_key(query)
        return key in self._pairs if self._number is not None else self._place(key) < self._fraction

    def _place(self, key: bytes) -> float:
        """Return a number from 0 to below 1 that follows from seed and query."""
        digest = hashlib.blake2b(f"{self._seed} ".encode() + key, digest_size=6).digest()
        return int.from_bytes(digest, "big") / 2**48
