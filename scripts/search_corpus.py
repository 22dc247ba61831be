"""Search a BEIR collection in shards, on this machine or a Ray cluster, and write a TREC run file."""

from ragcun.cli.parser import run_script
from ragcun.cli.search import parse_search, search_corpus


def main() -> None:
    print(search_corpus(parse_search(__doc__)))


if __name__ == "__main__":
    run_script(main)
