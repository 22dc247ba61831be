"""How long `import ragcun` and the `--help` of each script take, in fresh processes."""

import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 3
ROOT = Path(__file__).resolve().parent.parent


def seconds(*command: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, capture_output=True, cwd=ROOT)
    return time.perf_counter() - start


def main() -> None:
    commands = {"python -c pass": ("-c", "pass"), "import ragcun": ("-c", "import ragcun")}
    commands |= {f"{p.name} --help": (str(p), "--help") for p in sorted((ROOT / "scripts").glob("*.py"))}
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(ROUNDS):
        for name, command in commands.items():
            times[name].append(seconds(*command))
    print(f"median and largest of {ROUNDS} rounds; goals: import ragcun under 0.2 s, --help under 3 s")
    for name, column in times.items():
        print(f"  {name}: {statistics.median(column):.2f} s ({max(column):.2f})")


if __name__ == "__main__":
    main()
