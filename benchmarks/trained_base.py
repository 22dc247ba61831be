"""Steps a second and peak memory of a frozen base, LoRA, the last layer, and everything: real pairs, one process each.

Each way trains on the same pairs by ``ragcun train``, round after round; a frozen base encodes them before its steps.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path

from ragcun.cli.parser import run_script
from ragcun.data.beir import load_collection, pairs_from_collection
from ragcun.data.pairs import write_pairs
from ragcun.io import read_json

WAYS = {
    "frozen": ["--mined_negatives", "0"],
    "LoRA of rank 8": ["--lora_rank", "8"],
    "last layer": ["--freeze_early_layers", "5"],
    "everything": ["--freeze_base", "False"],
    "... bf16": ["--freeze_base", "False", "--mixed_precision", "bf16"],
    "... bf16, no dropout": ["--freeze_base", "False", "--mixed_precision", "bf16", "--base_dropout", "False"],
    "LoRA, bf16, no dropout": ["--lora_rank", "8", "--mixed_precision", "bf16", "--base_dropout", "False"],
}


def train(pairs: Path, batch: int, way: list[str]) -> tuple[float, float]:
    """Return the seconds of a step, and the peak memory of the process in GiB."""
    flags = ["--train_data", str(pairs), "--batch_size", str(batch), "--epochs", "1", "--lexical_dim", "0", *way]
    flags += ["--collapse_checks", "0"]  # whose batch is larger than a step's
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "scripts/train.py", "--quiet", *flags, "--output_dir", folder, "--overwrite"]
        _, status, usage = os.wait4(subprocess.Popen(command, stdout=subprocess.DEVNULL).pid, 0)
        if status:
            raise RuntimeError(f"{' '.join(command)} failed")
        result = read_json(Path(folder) / "manifest.json")["result"]
    return result["seconds"] / result["steps"], usage.ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path, help="folder of SciFact")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pairs = Path(folder) / "pairs.jsonl"
        rows = pairs_from_collection(load_collection(flags.data_dir, "train")).rows()
        write_pairs(pairs, list(islice(rows, flags.batch * flags.steps)))
        taken = [{name: train(pairs, flags.batch, way) for name, way in WAYS.items()} for _ in range(flags.rounds)]
    print(f"{flags.batch} pairs a step, {flags.steps} steps, {flags.rounds} rounds\n")
    for name in WAYS:
        seconds, memory = ([each[name][part] for each in taken] for part in (0, 1))
        ratios = [each["everything"][0] / each[name][0] for each in taken]
        print(
            f"{name:<22} {statistics.median(seconds):7.3f} s a step, {statistics.median(ratios):6.1f} times as fast as "
            f"everything ({min(ratios):.1f} to {max(ratios):.1f}), peak {max(memory):.2f} GiB"
        )


if __name__ == "__main__":
    run_script(main)
