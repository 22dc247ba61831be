"""Kill training at random moments, resume it until it is finished, and compare it with a run that nothing disturbed.

Half of the moments are drawn from the length of a run; for the other half a save is waited for, and the kill falls into
it or shortly after it. Processes are forked from one that has imported everything, and killed with SIGKILL. The run has
a predictor, an EMA target, dropout, mined negatives and a dev set that chooses the epoch.

    OMP_NUM_THREADS=1 python benchmarks/kills.py --kills 50
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import load

from ragcun.config import TrainConfig
from ragcun.data.beir import Document, write_collection
from ragcun.io import file_digest
from ragcun.models.encoder import RetrievalEncoder
from ragcun.training.loop import fit

KILLS_OF_A_RUN = 6
"""Kills after which a run is left to finish."""


@dataclass
class Count:
    """What came of the kills."""

    runs: int = 0
    kills: int = 0
    during_a_save: int = 0
    identical: int = 0
    failed: int = 0
    corrupt: int = 0


def prepare(folder: Path) -> dict[str, Any]:
    """Write queries, documents and their vectors, and return the settings of a run."""
    numbers = np.random.default_rng(0)
    documents = {f"d{i}": Document("", f"document {i}") for i in range(80)}
    queries = {f"q{i}": f"query {i}" for i in range(60)}
    splits = {"train": range(40), "dev": range(40, 60)}
    qrels = {split: {f"q{i}": {f"d{i}": 1} for i in places} for split, places in splits.items()}
    write_collection(folder / "toy", documents, queries, qrels)
    vectors = numbers.normal(size=(80, 16))
    near = vectors[:60] + 0.7 * numbers.normal(size=(60, 16))
    (folder / "vectors").mkdir()
    for name, ids, matrix in (("documents", documents, vectors), ("queries", queries, near)):
        np.save(folder / "vectors" / f"{name}.npy", matrix.astype(np.float32))
        (folder / "vectors" / f"{name}.txt").write_text("".join(f"{each}\n" for each in ids))
    found = {"train_data": str(folder / "toy"), "dev_beir": str(folder / "toy"), "vectors": str(folder / "vectors")}
    found |= {"system": "jepa", "lambda_predictive": 1.0, "ema_decay": 0.9, "dropout": 0.3, "device": "cpu"}
    found |= {"lambda_isotropy": 1.0, "isotropy": "sigreg", "num_slices": 16, "log_interval": 1, "trained_share": 0.7}
    return found | {"epochs": 5, "batch_size": 8, "state_interval": 2, "projection_learning_rate": 1e-2}


def start(settings: dict[str, Any], out: Path, resume: bool) -> int:
    """Fork a process that trains, and return its number; what it prints goes beside its folder."""
    number = os.fork()
    if number:
        return number
    code = 3
    try:
        log = os.open(out.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(log, stream)
        logging.basicConfig(level=logging.INFO, force=True)
        fit(TrainConfig(**settings, output_dir=str(out), resume=resume))
        code = 0
    finally:
        traceback.print_exc()
        os._exit(code)


def ended(process: int) -> int | None:
    """Return the exit status of a process that has ended, None while it runs."""
    found, status = os.waitpid(process, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def saves(out: Path) -> set[str]:
    """Return the temporary files and folders of saves that have begun and not ended."""
    folders = [folder for folder in (out, out / "state") if folder.is_dir()]
    return {entry.path for folder in folders for entry in os.scandir(folder) if entry.name.endswith((".tmp", ".old"))}


def kill(process: int, out: Path, moment: random.Random, length: float) -> tuple[int, bool]:
    """Kill a process at a random moment; return its exit status and whether a save was cut short."""
    before, in_a_save = saves(out), moment.random() < 0.5
    until = time.monotonic() + moment.uniform(0, length)
    passed_over, seen = moment.randrange(8), set(before)
    while (status := ended(process)) is None:
        if in_a_save:
            new = saves(out) - seen
            seen |= new
            passed_over -= len(new)
            now = passed_over < 0
        else:
            now = time.monotonic() >= until
        if now:
            time.sleep(moment.uniform(0, 0.005) if in_a_save else 0)
            os.kill(process, signal.SIGKILL)
            _, status = os.waitpid(process, 0)
            return os.waitstatus_to_exitcode(status), bool(saves(out) - before)
        time.sleep(0.0003)
    return status, False


def corrupt(out: Path) -> list[str]:
    """Return what of a run's folder cannot be read as it was written."""
    wrong = (
        [] if not (out / "best_model").exists() else unreadable(out / "best_model", RetrievalEncoder.from_pretrained)
    )
    for point in (out / "state").glob("[0-9]*"):
        wrong += unreadable(point, check_point)
    for name, read in (("manifest.json", json.loads), ("config.yaml", yaml.safe_load), ("metrics.jsonl", rows_of)):
        if (out / name).exists():
            wrong += unreadable(out / name, lambda path, read=read: read(path.read_text()))  # type: ignore[misc]
    return wrong


def unreadable(path: Path, read: Any) -> list[str]:
    try:
        read(path)
    except (ValueError, OSError, KeyError) as error:
        return [f"{path}: {error}"]
    return []


def check_point(point: Path) -> None:
    """Compare a resume point with its own checksums."""
    values = json.loads((point / "state.json").read_text())
    for name, digest in values["files_blake2b"].items():
        load((point / name).read_bytes())
        if file_digest(point / name) != digest:
            raise ValueError(f"{name} is not as it was written")


def rows_of(text: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in text.splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def result(out: Path) -> dict[str, str]:
    """Return the SHA-256 of what a finished run left: weights, optimiser, random state, progress, rows, checkpoint."""
    point = max((out / "state").glob("[0-9]*"))
    progress = json.loads((point / "state.json").read_text())["progress"] | {"seconds": None}
    parts = {"progress": json.dumps(progress).encode()}
    parts["rows"] = json.dumps(rows_of((out / "metrics.jsonl").read_text())).encode()
    parts |= {path.name: path.read_bytes() for path in point.glob("*.safetensors")}
    files = [path for path in (out / "best_model").rglob("*") if path.is_file() and path.name != "README.md"]
    parts |= {str(path.relative_to(out)): path.read_bytes() for path in files}
    return {name: hashlib.sha256(content).hexdigest() for name, content in parts.items()}


def one_run(settings: dict[str, Any], out: Path, moment: random.Random, length: float, most: int, count: Count) -> None:
    """Kill a run up to `most` times, and let it finish."""
    for kills in range(most + 1):
        process = start(settings, out, resume=kills > 0)
        status, cut = kill(process, out, moment, length) if kills < most else (wait(process), False)
        if status == -signal.SIGKILL:
            count.kills += 1
            count.during_a_save += cut
            if wrong := corrupt(out):
                count.corrupt += 1
                print(*wrong, sep="\n", file=sys.stderr)
            continue
        count.failed += status != 0
        return


def wait(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def main() -> int:
    """Kill as often as asked, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="kills in all (default: 50)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default: 0)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.optim.AdamW([torch.zeros(1)])  # the first optimiser imports for seconds, which forked processes then need not
    moment, count = random.Random(arguments.seed), Count()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = prepare(folder)
        began = time.monotonic()
        if wait(start(settings, folder / "whole", resume=False)):
            print((folder / "whole.log").read_text(), file=sys.stderr)
            return 1
        length = time.monotonic() - began
        expected = result(folder / "whole")
        while count.kills < arguments.kills:
            out = folder / f"run-{count.runs}"
            one_run(settings, out, moment, length, min(KILLS_OF_A_RUN, arguments.kills - count.kills), count)
            count.runs += 1
            found = result(out) if (out / "best_model").exists() else {}
            count.identical += found == expected
            if found != expected:
                differing = sorted(key for key in expected if found.get(key) != expected[key])
                print(out.name, "differs in", *differing, file=sys.stderr)
                print(out.with_suffix(".log").read_text()[-4000:], file=sys.stderr)
    for key, value in (asdict(count) | {"seconds_of_a_run": round(length, 2)}).items():
        print(f"{key.replace('_', ' '):20} {value}")
    print(json.dumps(asdict(count)))
    return int(count.identical != count.runs or count.corrupt > 0 or count.failed > 0)


if __name__ == "__main__":
    sys.exit(main())
