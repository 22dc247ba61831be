"""Evaluate an isotropic Gaussian encoder on BEIR collections: scripts/evaluate_beir.py under the notes' name."""

from ragcun.cli.evaluate import evaluate, parse_evaluation
from ragcun.cli.parser import run_script


def main() -> None:
    print(evaluate(parse_evaluation(__doc__)))


if __name__ == "__main__":
    run_script(main)
