"""Time and memory of a lexical channel on synthetic Zipfian text: python benchmarks/lexical.py --documents 1000000."""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np

from ragcun.embeddings.lexical import LexicalChannel

VOCABULARY = 500_000
BLOCK = 10_000


def zipfian_texts(documents: int, words: int, topics: int = 200, seed: int = 0) -> list[str]:
    """Documents of `words` words: half of them by Zipf's law in one order of the vocabulary, half in their topic's."""
    generator = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    names = np.array(["".join(letters[row]) for row in generator.integers(0, 26, (VOCABULARY, 7))])
    shifts = generator.integers(0, VOCABULARY, topics)
    shares = 1 / np.arange(1, VOCABULARY + 1)
    bounds = np.cumsum(shares / shares.sum())
    texts: list[str] = []
    for start in range(0, documents, BLOCK):
        ranks = np.searchsorted(bounds, generator.random((min(BLOCK, documents - start), words)))
        ranks[:, ::2] += shifts[generator.integers(0, topics, len(ranks))][:, None]
        texts.extend(map(" ".join, names[np.minimum(ranks, 2 * VOCABULARY - 1) % VOCABULARY].tolist()))
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--words", type=int, default=100)
    parser.add_argument("--dim", type=int)
    args = parser.parse_args()
    texts = zipfian_texts(args.documents, args.words)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    start, used = time.perf_counter(), time.process_time()
    channel = LexicalChannel.fit(texts, args.dim)
    wall, cpu = time.perf_counter() - start, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    size = f"{len(channel.vocabulary):,} terms, {channel.dimension} dimensions"
    print(f"fit: {len(texts):,} documents of {args.words} words, {size}")
    print(f"     {wall:.1f} s ({cpu:.1f} s of processor), peak {peak:.2f} GiB ({before:.2f} before, texts included)")
    some = texts[:20_000]
    start, used = time.perf_counter(), time.process_time()
    channel.encode(some, "document")
    wall, cpu = time.perf_counter() - start, time.process_time() - used
    print(f"folding in: {len(some) / wall:,.0f} documents a second ({len(some) / cpu:,.0f} a second of processor)")


if __name__ == "__main__":
    main()
