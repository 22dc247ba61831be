"""Evaluate a checkpoint or a published model in mteb, beside the untouched base."""

from ragcun.cli.mteb import evaluate_in_mteb, parse_mteb
from ragcun.cli.parser import run_script


def main() -> None:
    print(evaluate_in_mteb(parse_mteb(__doc__)))


if __name__ == "__main__":
    run_script(main)
