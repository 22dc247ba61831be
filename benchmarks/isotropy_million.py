"""Isotropy of a million embeddings: seconds and peak memory of `ragcun.isotropy.measure_space` on a memory map.

Makes a matrix of float32 rows, normal along axes whose standard deviations fall from 1 to 0.05, about a common vector,
block by block in a temporary folder, and measures it. Peak memory is the largest resident set of the whole process,
libraries included. Ends with code 1 where a limit is passed.
"""

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

from ragcun.cli.parser import run_script

BLOCK = 50_000


def write_rows(path: Path, n: int, dim: int) -> None:
    import numpy as np

    generator = np.random.default_rng(0)
    turn = np.linalg.qr(generator.standard_normal((dim, dim)))[0]
    scales = (np.geomspace(1, 0.05, dim)[:, None] * turn).astype(np.float32)
    shift = generator.standard_normal(dim).astype(np.float32) / 10
    header = {"descr": "<f4", "fortran_order": False, "shape": (n, dim)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, n, BLOCK):
            rows = generator.standard_normal((min(BLOCK, n - start), dim), dtype=np.float32)
            (rows @ scales + shift).astype("<f4").tofile(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--sample", type=int, default=20_000)
    parser.add_argument("--most_seconds", type=float, default=180)
    parser.add_argument("--most_gb", type=float, default=2)
    flags = parser.parse_args()

    import numpy as np

    from ragcun.isotropy import MeasureSettings, measure_space

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npy"
        write_rows(path, flags.rows, flags.dim)
        start = time.perf_counter()
        report = measure_space(np.load(path, mmap_mode="r"), MeasureSettings(sample=flags.sample))
        seconds = time.perf_counter() - start
    gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    for name, figure in report.measures.items():
        value, low, high, isotropic = (
            "-" if each is None else f"{each:.4g}" for each in (figure.value, figure.low, figure.high, figure.isotropic)
        )
        print(f"{name:20} {value} [{low}, {high}], {figure.n} rows, isotropic {isotropic}")
    print(f"{flags.rows} rows of {flags.dim} dimensions: {seconds:.1f} s, peak memory {gigabytes:.2f} GB")
    if seconds > flags.most_seconds or gigabytes > flags.most_gb:
        sys.exit(f"over the limit of {flags.most_seconds:g} s or {flags.most_gb:g} GB")


if __name__ == "__main__":
    run_script(main)
