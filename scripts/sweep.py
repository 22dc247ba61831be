"""Try the settings of a sweep's YAML file, choose by dev data, and report."""

from ragcun.cli.parser import run_script
from ragcun.cli.sweep import parse_sweep, sweep


def main() -> None:
    print(sweep(parse_sweep(__doc__)))


if __name__ == "__main__":
    run_script(main)
