"""Prepare training data: a BEIR folder of Python documentation, held-out queries, or pairs with hard negatives."""

from ragcun.cli.parser import run_script
from ragcun.cli.prepare import parse_preparation, prepare


def main() -> None:
    print(prepare(parse_preparation(__doc__)))


if __name__ == "__main__":
    run_script(main)
