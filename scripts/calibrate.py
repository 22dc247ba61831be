"""Fit a linear head to a corpus in closed form: soft whitening, and a shift of queries. No training."""

from ragcun.cli.calibrate import calibrate, parse_calibration
from ragcun.cli.parser import run_script


def main() -> None:
    print(calibrate(parse_calibration(__doc__)))


if __name__ == "__main__":
    run_script(main)
