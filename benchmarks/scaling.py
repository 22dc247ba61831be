"""How time and memory grow: search and isotropy with the corpus, SIGReg with batch size and slices.

Each point is measured in a process of its own, whose peak memory is told (Linux), and a straight line is fitted by
least squares to the points of a row. Search: 1,000 queries, top 100, a corpus of random unit vectors on disk, read
through a memory map under a budget. SIGReg: forward and backward. The line is then extended to sizes that were not
measured; those figures are arithmetic, and say so.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from search import peak, unit_rows

QUERIES, TOP = 1000, 100


def write_corpus(path: Path, rows: int, dim: int) -> None:
    mapped = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, dim))
    for start in range(0, rows, 50_000):
        mapped[start : start + 50_000] = unit_rows(min(50_000, rows - start), dim, start)


def search_point(path: str, budget: int) -> dict:
    from ragcun.retrieval.search import top_k

    documents, before = np.load(path, mmap_mode="r"), peak()
    queries = unit_rows(QUERIES, documents.shape[1], 1)
    top_k(queries, documents[:1000], TOP)
    start = time.perf_counter()
    top_k(queries, documents, TOP, memory_budget_bytes=budget)
    return {"seconds": time.perf_counter() - start, "gigabytes": peak() / 1e9, "before": before / 1e9}


def sigreg_point(rows: int, dim: int, slices: int) -> dict:
    import torch

    from ragcun.losses.sigreg import mean_epps_pulley, random_slices

    z = torch.randn(rows, dim, generator=torch.Generator().manual_seed(0)).requires_grad_()
    directions = random_slices(dim, slices, step=0)
    mean_epps_pulley(z[:8], directions).backward()
    before, times = peak(), []
    for _ in range(3):
        start = time.perf_counter()
        mean_epps_pulley(z, directions).backward()
        times.append(time.perf_counter() - start)
    return {"seconds": min(times), "gigabytes": peak() / 1e9, "before": before / 1e9}


def measured(*arguments: object) -> dict:
    command = [sys.executable, __file__, "--point", *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def line(sizes: list[int], seconds: list[float]) -> tuple[float, float]:
    """Return intercept and slope of the least-squares line."""
    slope, intercept = np.polyfit(sizes, seconds, 1)
    return float(intercept), float(slope)


def duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 600
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def search_table(rows: list[int], dim: int, budget: int) -> list[str]:
    lines = [
        f"Search, {QUERIES:,} queries, top {TOP}, {dim} dimensions, from disk, budget {budget / 1e9:.2f} GB",
        "",
        "| documents | on disk, GB | seconds | peak memory, GB | of it before the search |",
        "|--:|--:|--:|--:|--:|",
    ]
    seconds = []
    for count in rows:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "corpus.npy"
            write_corpus(path, count, dim)
            point = measured("search", path, budget)
        seconds.append(point["seconds"])
        lines.append(
            f"| {count:,} | {count * dim * 4 / 1e9:.2f} | {point['seconds']:.2f} | {point['gigabytes']:.2f} "
            f"| {point['before']:.2f} |"
        )
    start, slope = line(rows, seconds)
    lines += ["", f"Fitted: {start:.2f} s + {slope * 1e6:.2f} s for each million documents.", ""]
    lines += [
        "On paper: the fitted time, in proportion to dimensions, and reading the corpus once at 1 GB/s where it does",
        "not stay in the system's own cache. Memory stays within the budget.",
        "",
        "| corpus | float32, GB | float16, GB | 1 bit, GB | computing | reading float32 | on 100 machines |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, count, wide in (("MS MARCO, 8.8 M x 768", 8_841_823, 768), ("a billion x 768", 10**9, 768)):
        size, passed = count * wide * 4 / 1e9, start + slope * count * wide / dim
        sizes = f"{size:,.0f} | {size / 2:,.0f} | {size / 32:,.1f}"
        shared = (passed + size) / 100
        lines.append(f"| {name} | {sizes} | {duration(passed)} | {duration(size)} | {duration(shared)} |")
    return lines


def sigreg_table(batches: list[int], slices: list[int], dim: int) -> list[str]:
    lines = [
        f"SIGReg, forward and backward, {dim} dimensions",
        "",
        "| rows | slices | milliseconds | peak memory above the start, MB |",
        "|--:|--:|--:|--:|",
    ]
    work, seconds = [], []
    for rows in batches:
        for count in slices:
            point = measured("sigreg", rows, dim, count)
            added = 1000 * (point["gigabytes"] - point["before"])
            work.append(rows * count)
            seconds.append(point["seconds"])
            lines.append(f"| {rows:,} | {count:,} | {1000 * point['seconds']:.1f} | {added:.0f} |")
    start, slope = line(work, seconds)
    lines += ["", f"Fitted: {1000 * start:.1f} ms + {slope * 1e9:.1f} ms for each million of rows x slices."]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--budget", type=int, default=1 << 30, help="memory budget of the search (default: 1 GiB)")
    parser.add_argument("--batches", type=int, nargs="+", default=[256, 1024, 4096])
    parser.add_argument("--slices", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--point", nargs="+", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.point:
        what, *given = flags.point
        point = search_point(given[0], int(given[1])) if what == "search" else sigreg_point(*map(int, given))
        print(json.dumps(point))
        return
    print("\n".join(search_table(flags.rows, flags.dim, flags.budget)), end="\n\n")
    print("\n".join(sigreg_table(flags.batches, flags.slices, flags.dim)))


if __name__ == "__main__":
    main()
