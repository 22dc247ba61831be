"""SIGReg against its direct computation, and against the bare product with the slices that any form of it needs.

The direct computation makes every cosine and sine of every projection at every knot, 17 numbers per projection, and
leaves the gradient to autograd. All sides take the same slices, forward and backward, in turn in one process. In a
round each side is called for at least 50 ms, so that a short call is not timed by the state in which the other side
left the caches; ratios are those of one round each. Peak memory is that of a fresh process per side, above what it
held before the call.
"""

import argparse
import multiprocessing
import statistics
import time
from pathlib import Path

from memory import held

from ragcun.cli.parser import run_script

SIZES = (256, 128, 256), (1024, 768, 1024), (4096, 768, 1024)
LEAST_SECONDS = 0.05


def direct(z, directions, _) -> None:
    """Compute SIGReg by its definition: knots 0 to 3, trapezoidal weights doubled."""
    import torch

    t = torch.linspace(0, 3, 17)
    target = torch.exp(-t.square() / 2)
    weights = torch.full_like(t, 2 * 3 / 16)
    weights[[0, -1]] /= 2
    angles = (z @ directions).unsqueeze(-1) * t
    distance = (angles.cos().mean(0) - target).square() + angles.sin().mean(0).square()
    (distance @ (weights * target)).mean().backward()


def ours(z, directions, _) -> None:
    from ragcun.losses.sigreg import mean_epps_pulley

    mean_epps_pulley(z, directions).backward()


def floor(z, directions, gradient) -> None:
    """Project, and project a gradient that is there already back."""
    (z @ directions).backward(gradient)


SIDES = {"direct": direct, "ours": ours, "floor": floor}


def make_inputs(n: int, dim: int, slices: int):
    """Make rows, directions, and a gradient by the projections."""
    import torch

    from ragcun.losses.sigreg import random_slices

    z = torch.randn(n, dim, generator=torch.Generator().manual_seed(0)).requires_grad_()
    return z, random_slices(dim, slices, step=0), torch.ones(n, slices)


def seconds(side, inputs, least: float = 0.0) -> float:
    """Return the mean seconds of forward and backward passes that follow one another, `least` seconds of them."""
    calls, start = 0, time.perf_counter()
    while not calls or time.perf_counter() - start < least:
        inputs[0].grad = None
        side(*inputs)
        calls += 1
    return (time.perf_counter() - start) / calls


def peak(name: str, size: tuple[int, int, int]) -> float:
    """Return the MiB that one forward and backward pass adds at its peak; meant for a process of its own."""
    seconds(SIDES[name], make_inputs(8, 4, 4))
    inputs = make_inputs(*size)
    Path("/proc/self/clear_refs").write_text("5")
    before = held("VmRSS")
    seconds(SIDES[name], inputs)
    return (held("VmHWM") - before) / 1024


def spread(ratios: list[float]) -> str:
    return f"median {statistics.median(ratios):.2f} (min {min(ratios):.2f}, max {max(ratios):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="rounds per size, after one not counted (default: 15)")
    parser.add_argument("--threads", type=int, help="threads of torch (default: all)")
    flags = parser.parse_args()

    import torch

    from ragcun.losses.sigreg import random_slices

    if flags.threads:
        torch.set_num_threads(flags.threads)
    print(f"{torch.get_num_threads()} threads, {flags.rounds} rounds")
    for size in SIZES:
        inputs = make_inputs(*size)
        gradients = {}
        for name, side in SIDES.items():
            seconds(side, inputs)
            gradients[name] = inputs[0].grad
        difference = (gradients["ours"] - gradients["direct"]).norm() / gradients["direct"].norm()
        times = {name: [] for name in SIDES}
        for _ in range(flags.rounds):
            for name, side in SIDES.items():
                times[name].append(seconds(side, inputs, LEAST_SECONDS))
        faster = [slow / fast for slow, fast in zip(times["direct"], times["ours"], strict=True)]
        above = [fast / bare for fast, bare in zip(times["ours"], times["floor"], strict=True)]
        start = time.perf_counter()
        random_slices(size[1], size[2], step=1)
        drawing = time.perf_counter() - start
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            memory = {name: pool.apply(peak, (name, size)) for name in SIDES}
        print(f"N = {size[0]}, D = {size[1]}, K = {size[2]}; gradients differ by {float(difference):.0e}")
        medians = (f"{name} {1000 * statistics.median(column):.2f} ms" for name, column in times.items())
        print(f"  {', '.join(medians)}; drawing the slices {1000 * drawing:.2f} ms")
        print(f"  times as fast as direct: {spread(faster)}")
        print(f"  times as long as the floor: {spread(above)}")
        extra = ", ".join(f"{name} {mebibytes:.1f} MiB" for name, mebibytes in memory.items())
        print(f"  peak memory: {extra}; direct takes {memory['direct'] / memory['ours']:.1f} times ours")


if __name__ == "__main__":
    run_script(main)
