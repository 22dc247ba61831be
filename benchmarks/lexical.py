"""A lexical channel of synthetic Zipfian text: fitted, folded in, joined, and searched from disk.

Texts are made when they are asked for, so that memory is the channel's. With ``--search`` all documents are folded in
and joined with random dense vectors on disk, in a temporary folder, and searched in a process of its own.

    python benchmarks/lexical.py --documents 10000000 --search
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from memory import held
from search import search_apart, unit_rows
from tqdm.auto import tqdm

from ragcun.embeddings.base import Base
from ragcun.embeddings.joined import JoinedBase
from ragcun.embeddings.lexical import LexicalChannel

VOCABULARY = 500_000
TOPICS = 200
BLOCK = 16_384
DENSE_DIM, WEIGHT = 384, 0.3


class ZipfianTexts(Sequence[str]):
    """Documents of `words` words: half of them by Zipf's law in one order of the vocabulary, half in their topic's."""

    def __init__(self, documents: int, words: int, seed: int = 0) -> None:
        self.documents, self.words, self.seed = documents, words, seed
        generator = np.random.default_rng(seed)
        letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
        self.names = np.array(["".join(letters[row]) for row in generator.integers(0, 26, (VOCABULARY, 7))])
        self.shifts = generator.integers(0, VOCABULARY, TOPICS)
        shares = 1 / np.arange(1, VOCABULARY + 1)
        self.bounds = np.cumsum(shares / shares.sum())
        self.block = functools.lru_cache(1)(self.make_block)

    def __len__(self) -> int:
        return self.documents

    def __getitem__(self, place):
        if isinstance(place, slice):
            return [self[row] for row in range(*place.indices(len(self)))]
        return self.block(place // BLOCK)[place % BLOCK]

    def make_block(self, number: int) -> list[str]:
        """Return the texts of a block, the same ones every time."""
        generator = np.random.default_rng([self.seed, number])
        rows = min(BLOCK, len(self) - number * BLOCK)
        ranks = np.searchsorted(self.bounds, generator.random((rows, self.words)))
        ranks[:, ::2] += self.shifts[generator.integers(0, TOPICS, rows)][:, None]
        return list(map(" ".join, self.names[ranks % VOCABULARY].tolist()))


def timed(what: Callable):
    start, used = time.perf_counter(), time.process_time()
    made = what()
    wall, cpu = time.perf_counter() - start, time.process_time() - used
    return made, wall, cpu


def joined_search(channel: LexicalChannel, texts: ZipfianTexts) -> None:
    base = JoinedBase(Base(DENSE_DIM), channel, WEIGHT)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "documents.npy"
        shape = (len(texts), base.dimension)

        def write() -> None:
            mapped = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
            for start in tqdm(range(0, len(texts), BLOCK), "joining"):
                some = texts[start : start + BLOCK]
                mapped[start : start + BLOCK] = base.join(
                    unit_rows(len(some), DENSE_DIM, start), channel.encode(some, "document")
                )

        _, wall, cpu = timed(write)
        print(f"folded in, joined and written: {len(texts):,} documents in {wall:.0f} s ({cpu:.0f} s of processor)")
        print(f"searched {search_apart(path, 1 << 30)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--words", type=int, default=100)
    parser.add_argument("--dim", type=int)
    parser.add_argument("--search", action="store_true", help="fold all documents in, join them, and search from disk")
    args = parser.parse_args()
    texts = ZipfianTexts(args.documents, args.words)
    before = held("VmHWM") / 2**20
    channel, wall, cpu = timed(lambda: LexicalChannel.fit(texts, args.dim))
    size = f"{len(channel.vocabulary):,} terms, {channel.dimension} dimensions"
    print(f"fit: {len(texts):,} documents of {args.words} words, {size}, on {channel.documents:,} of them")
    peak = f"peak {held('VmHWM') / 2**20:.2f} GiB ({before:.2f} before)"
    print(f"     {wall:.1f} s ({cpu:.1f} s of processor, making the texts included), {peak}", flush=True)
    some = texts[:20_000]
    _, wall, cpu = timed(lambda: channel.encode(some, "document"))
    print(f"folding in: {len(some) / wall:,.0f} documents a second ({len(some) / cpu:,.0f} a second of processor)")
    if args.search:
        joined_search(channel, texts)


if __name__ == "__main__":
    main()
