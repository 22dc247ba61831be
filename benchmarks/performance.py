"""Run the benchmarks one after the other and write docs/performance.md from what they print.

What each one printed is kept in ``results/benchmarks``, so that ``--only search sweep`` measures some anew and leaves
the others as they are. Those that need real texts take the folder of SciFact and Cranfield by ``--data_dir`` and are
left out without it.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ragcun.cli.parser import run_script
from ragcun.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
DATA = "DATA"


@dataclass(frozen=True)
class Benchmark:
    """A section of the page: a title, what it shows, and the benchmark that shows it."""

    name: str
    title: str
    text: str
    command: tuple[str, ...]
    table: bool = False

    def run(self, data_dir: Path | None) -> str:
        """Return what the benchmark prints."""
        command = [part.replace(DATA, str(data_dir)) for part in self.command]
        done = subprocess.run(
            [sys.executable, f"benchmarks/{command[0]}", *command[1:]], cwd=ROOT, capture_output=True, text=True
        )
        if done.returncode:
            raise InputError(f"benchmarks/{command[0]} failed: {done.stderr.strip().splitlines()[-1]}; run it alone")
        return done.stdout.strip()


BENCHMARKS = [
    Benchmark("startup", "Start", "Nothing heavy is imported before it is needed.", ("startup.py",)),
    Benchmark(
        "encoding",
        "Encoding",
        "Texts are tokenised once, sorted by length and packed into batches by tokens; a CPU with native bfloat16 may "
        "use it (`--base_dtype auto`), and OpenVINO is faster than torch (`--base_backend openvino`).",
        ("encoding.py", "--data_dir", f"{DATA}/scifact", "--documents", "256", "--rounds", "3", "--full"),
    ),
    Benchmark(
        "processes",
        "Several processes",
        "Threads that wait for each other spin for less than by default, so that processes can share cores.",
        ("processes.py", "--data_dir", f"{DATA}/scifact"),
    ),
    Benchmark(
        "cached",
        "Training on cached vectors",
        "A frozen base encodes each text once; after that an epoch costs no more than its head. Short passages:",
        ("cached_training.py",),
    ),
    Benchmark(
        "cached_scifact",
        "Training on cached vectors, SciFact",
        "The training queries of SciFact with their abstracts, about 220 words each:",
        ("cached_training.py", "--data_dir", f"{DATA}/scifact"),
    ),
    Benchmark("sweep", "A sweep", "A λ sweep on cached vectors.", ("sweep.py",)),
    Benchmark(
        "search",
        "Exact search",
        "faiss selects candidates in float32, scored again in float64; ties rank by document id. Both rivals do less.",
        ("search.py", "--rounds", "9"),
    ),
    Benchmark(
        "disk",
        "Search from disk",
        "A corpus larger than the budget, through a memory map, in a process of its own.",
        ("search.py", "--disk", "1000000", "--dim", "768"),
    ),
    Benchmark(
        "sharded",
        "Search in shards",
        "The same search by two Ray workers on the same machine, with the same run file, byte for byte.",
        ("sharded_search.py", "--data_dir", DATA, "--dataset", "cranfield"),
    ),
    Benchmark("sigreg", "SIGReg", "The loss against its direct computation.", ("sigreg.py", "--rounds", "7")),
    Benchmark(
        "gradient_cache",
        "Gradient caching",
        "What a large contrastive batch costs when the base is trained.",
        ("gradient_cache.py", "--batch_sizes", "64", "256", "--rounds", "2"),
    ),
    Benchmark(
        "trained_base",
        "Training the base",
        "What a step costs where the base is trained, by LoRA, its last layer or as a whole.",
        ("trained_base.py", f"{DATA}/scifact"),
    ),
    Benchmark(
        "lexical",
        "The lexical channel of a million documents",
        "Synthetic text, half by Zipf's law, half by topics.",
        ("lexical.py", "--documents", "1000000"),
    ),
    Benchmark("isotropy", "Isotropy of a million vectors", "All measures, read from disk.", ("isotropy_million.py",)),
    Benchmark("scaling", "How it grows", "", ("scaling.py",), table=True),
]


def machine() -> str:
    """Say what the figures were measured on."""
    import torch

    from ragcun.embeddings.encode import bfloat16_features

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    features = ", ".join(bfloat16_features()) or "no native bfloat16"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{os.cpu_count()} CPU cores ({platform.machine()}, {features}), {memory:.0f} GB of memory, {device}; "
        f"Python {platform.python_version()}, torch {torch.__version__}; {time.strftime('%Y-%m-%d')}"
    )


def page(kept: Path) -> str:
    """Lay the kept outputs out as a page."""
    shown = {}
    for each in BENCHMARKS:
        if (output := kept / f"{each.name}.txt").exists():
            shown[each] = [part.strip() for part in output.read_text(encoding="utf-8").split("\n", 2)]
    usual = Counter(where for _, where, _ in shown.values()).most_common(1)
    parts = [
        "# Performance",
        "`make bench` measures all of this and writes this page; `DATA=FOLDER` names the folder that holds SciFact and "
        "Cranfield. Each benchmark runs all its sides in one process, in turn, and prints the ratio with its spread: "
        "seconds depend on the machine, ratios much less.",
        *(f"Unless a section says otherwise, it was measured on {where}." for where, _ in usual),
    ]
    for each in BENCHMARKS:
        parts += [f"## {each.title}", *filter(None, [each.text])]
        if each not in shown:
            parts.append("Not measured.")
            continue
        command, where, printed = shown[each]
        parts.append(f"`{command}`:" if where == usual[0][0] else f"`{command}`, on {where}:")
        parts.append(printed if each.table else f"```text\n{printed}\n```")
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, help="folder that holds scifact and cranfield")
    parser.add_argument("--only", nargs="+", choices=[each.name for each in BENCHMARKS], help="measure these only")
    parser.add_argument("--kept", type=Path, default=ROOT / "results" / "benchmarks", help="where outputs are kept")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "performance.md")
    flags = parser.parse_args()
    from tqdm.auto import tqdm

    from ragcun.io import write_text

    flags.kept.mkdir(parents=True, exist_ok=True)
    chosen = [each for each in BENCHMARKS if flags.only is None or each.name in flags.only]
    for each in tqdm(chosen, unit="benchmark"):
        if any(DATA in part for part in each.command) and flags.data_dir is None:
            tqdm.write(f"{each.name} needs --data_dir and is left as it is")
            continue
        printed = each.run(flags.data_dir)
        shown = " ".join(["python", f"benchmarks/{each.command[0]}", *each.command[1:]])
        write_text(flags.kept / f"{each.name}.txt", f"{shown}\n{machine()}\n{printed}\n")
        write_text(flags.output, page(flags.kept))
    write_text(flags.output, page(flags.kept))


if __name__ == "__main__":
    run_script(main)
