"""A million training pairs through reading, validation and splitting: seconds and peak memory of a process of its own.

Writes made-up pairs (queries of 5 to 11 words, passages of 40 to 80 words, all distinct) into a temporary folder, and
reads, checks and splits them in a child process by the functions that training and ``scripts/prepare_data.py`` call.
Peak memory is the largest resident set of that process, libraries included. Ends with code 1 where a limit is passed.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ragcun.cli.parser import run_script

SYLLABLES = [consonant + vowel for consonant in "bcdfghjklmnprstvwz" for vowel in "aeiou"]


def write_made_up_pairs(path: Path, count: int) -> None:
    import numpy as np

    from ragcun.data.pairs import write_pairs

    generator = np.random.default_rng(0)
    words = ["".join(generator.choice(SYLLABLES, size)) for size in generator.integers(1, 5, 20_000)]

    def text(fewest: int, most: int) -> str:
        return " ".join(map(words.__getitem__, generator.integers(0, len(words), generator.integers(fewest, most + 1))))

    write_pairs(path, ((f"{text(5, 11)} {i}", text(40, 80), None) for i in range(count)))


def read_and_split(path: Path, output: Path | None) -> dict[str, float]:
    from ragcun.data.pairs import read_pairs, split_pairs, without_leaks, write_pairs

    start = time.perf_counter()
    pairs = read_pairs(path)
    read = time.perf_counter()
    splits = split_pairs(pairs, (0.8, 0.1, 0.1), seed=0)
    pairs, _ = without_leaks(pairs, splits)
    split = time.perf_counter()
    if output is not None:
        for name, rows in splits.items():
            write_pairs(output / f"{name}.jsonl", pairs.rows(rows))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    seconds = {"read and validate": read - start, "split": split - read, "write": time.perf_counter() - split}
    return {"pairs": len(pairs), **seconds, "peak GB": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--format", choices=("json", "jsonl"), default="jsonl")
    parser.add_argument("--write", action="store_true", help="write the splits too")
    parser.add_argument("--most_gb", type=float, default=1.25)
    parser.add_argument("--child", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.child:
        print(json.dumps(read_and_split(flags.child, flags.child.parent / "splits" if flags.write else None)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"pairs.{flags.format}"
        write_made_up_pairs(path, flags.pairs)
        size = path.stat().st_size / 1e9
        command = [sys.executable, __file__, "--child", str(path), *(["--write"] if flags.write else [])]
        figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    print(f"{path.name}, {size:.2f} GB: " + ", ".join(f"{name} {figure:.4g}" for name, figure in figures.items()))
    if figures["peak GB"] > flags.most_gb:
        sys.exit(f"over the limit of {flags.most_gb:g} GB")


if __name__ == "__main__":
    run_script(main)
