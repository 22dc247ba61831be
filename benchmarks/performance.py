"""Run the benchmarks one after the other and put what they print into docs/performance.md.

Each one has a place on the page, ``<!-- NAME -->`` to ``<!-- /NAME -->``, which gets its command, the machine and its
output; the rest of the page stays as it is. ``--only search sweep`` measures some. Those that need real texts take the
folder of SciFact and Cranfield by ``--data_dir`` and are left out without it.
"""

import argparse
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

from ragcun.cli.parser import run_script
from ragcun.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
DATA = "DATA"
TABLES = ("scaling",)
"""What prints Markdown."""
BENCHMARKS = {
    "startup": "startup.py",
    "encoding": f"encoding.py --data_dir {DATA}/scifact --documents 64 --rounds 3",
    "processes": f"processes.py --data_dir {DATA}/scifact --documents 8 --rounds 3",
    "cached": "cached_training.py --pairs 1500 --rounds 3",
    "cached_scifact": f"cached_training.py --data_dir {DATA}/scifact --rounds 3",
    "sweep": "sweep.py --pairs 500 --epochs 1",
    "search": "search.py --rounds 3",
    "disk": "search.py --disk 1000000 --dim 768",
    "sharded": f"sharded_search.py --data_dir {DATA} --dataset cranfield --documents 128 --block_rows 16",
    "sigreg": "sigreg.py --rounds 3",
    "gradient_cache": "gradient_cache.py --batch_sizes 64 --rounds 2",
    "trained_base": f"trained_base.py {DATA}/scifact --batch 4 --steps 2 --rounds 1",
    "lexical": "lexical.py --documents 30000",
    "isotropy": "isotropy_million.py",
    "scaling": "scaling.py",
}


def run(name: str, data_dir: Path | None) -> str:
    """Return what a benchmark prints."""
    script, *flags = BENCHMARKS[name].replace(DATA, str(data_dir)).split()
    done = subprocess.run([sys.executable, f"benchmarks/{script}", *flags], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"benchmarks/{script} failed: {done.stderr.strip().splitlines()[-1]}; run it alone")
    return done.stdout.strip()


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


def placed(page: str, name: str, printed: str) -> str:
    """Return the page with a benchmark's command, machine and output in its place."""
    shown = printed if name in TABLES else f"```text\n{printed}\n```"
    block = f"<!-- {name} -->\n`python benchmarks/{BENCHMARKS[name]}`, on {machine()}:\n\n{shown}\n<!-- /{name} -->"
    found, count = re.subn(rf"<!-- {name} -->.*?<!-- /{name} -->", lambda _: block, page, flags=re.DOTALL)
    if count != 1:
        raise InputError(f"the page has {count} places <!-- {name} --> … <!-- /{name} -->; give it one")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, help="folder that holds scifact and cranfield")
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS), help="measure these only")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "performance.md")
    flags = parser.parse_args()
    from tqdm.auto import tqdm

    from ragcun.io import write_text

    for name in tqdm(flags.only, unit="benchmark"):
        if DATA in BENCHMARKS[name] and flags.data_dir is None:
            tqdm.write(f"{name} needs --data_dir and is left as it is")
            continue
        start = time.perf_counter()
        printed = run(name, flags.data_dir)
        tqdm.write(f"{name}: {time.perf_counter() - start:.0f} s")
        write_text(flags.page, placed(flags.page.read_text(encoding="utf-8"), name, printed))


if __name__ == "__main__":
    run_script(main)
