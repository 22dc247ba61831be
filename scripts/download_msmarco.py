"""Download MS MARCO as training pairs with hard negatives, split by query; goes on where it stopped."""

from ragcun.cli.download import MsmarcoOptions, download_msmarco
from ragcun.cli.parser import parse_config, run_script


def main() -> None:
    print(download_msmarco(parse_config(MsmarcoOptions, __doc__)))


if __name__ == "__main__":
    run_script(main)
