"""Download Wikipedia as passages; goes on where it stopped."""

from ragcun.cli.download import WikiOptions, download_wiki
from ragcun.cli.parser import parse_config, run_script


def main() -> None:
    print(download_wiki(parse_config(WikiOptions, __doc__)))


if __name__ == "__main__":
    run_script(main)
