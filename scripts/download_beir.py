"""Download sets of BEIR into a folder that evaluate_beir.py reads."""

from ragcun.cli.download import download_beir, parse_download
from ragcun.cli.parser import run_script


def main() -> None:
    print(download_beir(parse_download(__doc__)))


if __name__ == "__main__":
    run_script(main)
