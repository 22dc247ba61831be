"""Exact search: ours against faiss alone and against beir's own, in one process, and a corpus larger than the budget.

Random unit vectors. Each round times the sides in turn; ratios are of the same round. beir's search is given vectors
(encoding costs it nothing) and asks for the top 1,000, as it does by default. With ``--disk`` a corpus is written to a
temporary file by blocks and searched through a memory map in a process of its own, whose peak memory is printed.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from memory import held


def unit_rows(rows: int, dim: int, seed: int) -> np.ndarray:
    made = np.random.default_rng(seed).standard_normal((rows, dim), dtype=np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def faiss_alone(queries: np.ndarray, documents: np.ndarray, k: int) -> None:
    import faiss

    index = faiss.IndexFlatL2(documents.shape[1])
    index.add(documents)
    index.search(queries, k)


def beir_search(queries: np.ndarray, documents: np.ndarray, k: int) -> None:
    from beir.retrieval.search.dense import DenseRetrievalExactSearch

    class Given:
        """What beir takes for a model: the vectors that are there."""

        def __init__(self) -> None:
            self.place = 0

        def encode_queries(self, texts: list[str], **options: object) -> np.ndarray:
            return queries

        def encode_corpus(self, texts: list[dict[str, str]], **options: object) -> np.ndarray:
            self.place += len(texts)
            return documents[self.place - len(texts) : self.place]

    corpus = {str(row): {"title": "", "text": ""} for row in range(len(documents))}
    asked = {f"q{row}": "" for row in range(len(queries))}
    DenseRetrievalExactSearch(Given(), batch_size=128).search(corpus, asked, k, "dot", show_progress_bar=False)


def compare(rows: int, dim: int, n_queries: int, rounds: int) -> None:
    from ragcun.retrieval.search import top_k

    queries, documents = unit_rows(n_queries, dim, 1), unit_rows(rows, dim, 0)
    sides = {
        "ours, top 100": lambda: top_k(queries, documents, 100),
        "faiss IndexFlatL2, top 100": lambda: faiss_alone(queries, documents, 100),
        "ours, top 1,000": lambda: top_k(queries, documents, 1000),
        "beir, top 1,000": lambda: beir_search(queries, documents, 1000),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for each in range(rounds + 1):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            if each:
                seconds[name].append(time.perf_counter() - start)
    print(f"{n_queries:,} queries x {rows:,} x {dim}, {rounds} rounds after one to warm up")
    for name, values in seconds.items():
        print(f"  {name}: {statistics.median(values):.2f} s ({min(values):.2f} to {max(values):.2f})")
    for ours, other, goal in (
        ("ours, top 100", "faiss IndexFlatL2, top 100", "at most 1.05"),
        ("beir, top 1,000", "ours, top 1,000", "at least 3"),
    ):
        ratios = [a / b for a, b in zip(seconds[ours], seconds[other], strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"  {ours} / {other}: {spread}; goal {goal}")


def from_disk(rows: int, dim: int, budget: int) -> None:
    """Search a corpus on disk in a process of its own, so that its peak memory is the search's."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "documents.npy"
        mapped = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, dim))
        for start in range(0, rows, 50_000):
            mapped[start : start + 50_000] = unit_rows(min(50_000, rows - start), dim, start)
        del mapped
        print(search_apart(path, budget))


def search_apart(path: Path, budget: int) -> str:
    """Search a matrix on disk in a process of its own, and say how large it is and what the search took."""
    rows, dim = np.load(path, mmap_mode="r").shape
    command = [sys.executable, __file__, "--child", str(path), "--budget", str(budget)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    size = f"{rows:,} x {dim} on disk ({path.stat().st_size / 1e9:.2f} GB)"
    return f"{size}, budget {budget / 1e9:.2f} GB: {done.stdout.strip()}"


def peak() -> int:
    """Return the most bytes that were resident in this process (Linux)."""
    return held("VmHWM") * 1024


def child(path: str, budget: int) -> None:
    from ragcun.retrieval.search import top_k

    before = peak()
    documents = np.load(path, mmap_mode="r")
    start = time.perf_counter()
    top_k(unit_rows(1000, documents.shape[1], 1), documents, 100, memory_budget_bytes=budget)
    print(
        f"1,000 queries in {time.perf_counter() - start:.1f} s; peak {peak() / 1e9:.2f} GB "
        f"({before / 1e9:.2f} GB before the search), {peak() / budget:.2f} times the budget"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, help="default: 256, from disk 384")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--disk", type=int, metavar="ROWS", help="search this many rows from disk")
    parser.add_argument("--budget", type=int, default=1 << 30, help="memory budget in bytes (default: 1 GB)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.child:
        child(flags.child, flags.budget)
    elif flags.disk:
        from_disk(flags.disk, flags.dim or 384, flags.budget)
    else:
        compare(flags.rows, flags.dim or 256, flags.queries, flags.rounds)


if __name__ == "__main__":
    main()
