"""Measure how evenly embeddings fill their space: a model beside its untouched base, or a file of vectors."""

from ragcun.cli.isotropy import compute_isotropy, parse_isotropy
from ragcun.cli.parser import run_script


def main() -> None:
    print(compute_isotropy(parse_isotropy(__doc__)))


if __name__ == "__main__":
    run_script(main)
