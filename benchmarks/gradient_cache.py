"""Gradient caching against the plain step: peak memory and time of a step with a trained base, at several batch sizes.

Each side takes the optimiser steps of training, InfoNCE and SIGReg, on random words. Time: both in turn in one process,
and the ratio of their times with its spread over the rounds. Memory: what the steps add at their peak to a process that
has loaded the model and taken one step on two pairs, each side in a process of its own (Linux).
"""

import argparse
import multiprocessing
import statistics
import time
from pathlib import Path

from memory import held

from ragcun.cli.parser import run_script


def make_stepper(base_model: str, pairs: int, words: tuple[int, int], size: int):
    """Return a stepper with a trained base on `pairs` pairs of random words; `size` pairs are embedded at a time."""
    import numpy as np
    import torch

    from ragcun.config import TrainConfig
    from ragcun.data.pairs import PairDataset
    from ragcun.losses.objective import Objective
    from ragcun.training.batches import PairSource
    from ragcun.training.processes import make_accelerator
    from ragcun.training.setup import build_encoder
    from ragcun.training.step import Stepper

    config = TrainConfig(train_data="made", base_model=base_model, freeze_base=False, learning_rate=1e-5)
    accelerator = make_accelerator(config.device)
    torch.manual_seed(0)
    encoder = build_encoder(config).to(accelerator.device).train()
    known = [word for word in encoder.base.text_model.tokenizer.get_vocab() if word.isalpha()]
    random = np.random.default_rng(0)
    sides = [[" ".join(random.choice(known, count)) for _ in range(pairs)] for count in words]
    dataset = PairDataset.from_rows([(query, positive, None) for query, positive in zip(*sides, strict=True)], "made")
    source = PairSource(dataset, encoder.base, accelerator.device)
    groups = encoder.parameter_groups(config.rates)
    model, optimizer = accelerator.prepare(encoder, torch.optim.AdamW(groups, fused=True))
    objective = Objective(lambda_isotropy=1.0, isotropy="sigreg", temperature=0.1)
    return Stepper(accelerator, model, optimizer, objective, source, 1.0, size)


def peak(base_model: str, batch: int, words: tuple[int, int], size: int) -> float:
    """Return the MiB that two steps add at their peak; meant for a process of its own."""
    import numpy as np

    stepper = make_stepper(base_model, batch, words, size)
    stepper([np.arange(2)])
    Path("/proc/self/clear_refs").write_text("5")
    before = held("VmRSS")
    for _ in range(2):
        stepper([np.arange(batch)])
    return (held("VmHWM") - before) / 1024


def seconds(stepper, batch: int) -> float:
    """Return the seconds of one step."""
    import numpy as np

    start = time.perf_counter()
    stepper([np.arange(batch)])
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base_model", default="minilm", help="the base that is trained (default: minilm)")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[64, 256, 1024], help="pairs of a batch")
    parser.add_argument("--grad_cache_size", type=int, default=32, help="pairs embedded at a time (default: 32)")
    parser.add_argument("--words", type=int, nargs=2, default=(8, 32), help="words of a query and a document")
    parser.add_argument("--rounds", type=int, default=5, help="rounds per size, after one not counted (default: 5)")
    alone = "peak memory of gradient caching alone, for batches that the plain step has no room for"
    parser.add_argument("--cached_memory", action="store_true", help=alone)
    parser.add_argument("--threads", type=int, help="threads of torch (default: all)")
    flags = parser.parse_args()

    import torch

    if flags.threads:
        torch.set_num_threads(flags.threads)
    print(f"{torch.get_num_threads()} threads, {flags.rounds} rounds, {flags.grad_cache_size} pairs at a time")
    sides = {"plain": 0, "cached": flags.grad_cache_size}
    for batch in flags.batch_sizes if flags.cached_memory else ():
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            most = pool.apply(peak, (flags.base_model, batch, tuple(flags.words), flags.grad_cache_size))
        print(f"batch of {batch} pairs, cached: peak memory {most:.0f} MiB")
    for batch in () if flags.cached_memory else flags.batch_sizes:
        steppers = {
            name: make_stepper(flags.base_model, batch, tuple(flags.words), size) for name, size in sides.items()
        }
        times: dict[str, list[float]] = {name: [] for name in sides}
        for done in range(flags.rounds + 1):
            for name, stepper in steppers.items():
                passed = seconds(stepper, batch)
                if done:
                    times[name].append(passed)
        del steppers
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            given = (flags.base_model, batch, tuple(flags.words))
            memory = {name: pool.apply(peak, (*given, size)) for name, size in sides.items()}
        slower = [cached / plain for cached, plain in zip(times["cached"], times["plain"], strict=True)]
        print(f"batch of {batch} pairs")
        print("  " + ", ".join(f"{name} {statistics.median(column):.2f} s" for name, column in times.items()))
        spread = f"{statistics.median(slower):.2f} times as long (min {min(slower):.2f}, max {max(slower):.2f})"
        print(f"  cached takes {spread}")
        extra = ", ".join(f"{name} {mebibytes:.0f} MiB" for name, mebibytes in memory.items())
        print(f"  peak memory: {extra}; plain takes {memory['plain'] / memory['cached']:.1f} times that of cached")


if __name__ == "__main__":
    run_script(main)
