"""Fit a linear head to a corpus in closed form: soft whitening, and a shift of queries. No training."""

from ragcun.cli import run_script
from ragcun.commands.calibrate import calibrate, parse_calibration


def main() -> None:
    print(calibrate(parse_calibration(__doc__)))


if __name__ == "__main__":
    run_script(main)
