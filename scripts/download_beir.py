"""Download sets of BEIR into a folder that evaluate_beir.py reads."""

from ragcun.cli import run_script
from ragcun.commands.download_beir import download_beir, parse_download


def main() -> None:
    print(download_beir(parse_download(__doc__)))


if __name__ == "__main__":
    run_script(main)
