"""What ``scripts/download_beir.py`` does: fetch sets of BEIR, for a machine that evaluates without a network."""

from __future__ import annotations

import argparse
from pathlib import Path

from ragcun.cli import ArgumentParser


def parse_download(description: str | None) -> argparse.Namespace:
    """Parse the flags of `download_beir`."""
    parser = ArgumentParser(description=description)
    names = "sets of BEIR, quick (5 small sets), or all (every one that can be had; default: quick)"
    parser.add_argument("--datasets", nargs="+", default=["quick"], metavar="NAME", help=names)
    parser.add_argument("--data_dir", default="data", metavar="DIR", help="where folders are made (default: data)")
    place = "where NAME.zip lie, https:// or file:// (default: $RAGCUN_BEIR_MIRROR or BEIR's own)"
    parser.add_argument("--mirror", metavar="URL", help=place)
    return parser.parse_args()


def download_beir(flags: argparse.Namespace) -> str:
    """Fetch the sets that are not there, and return where all of them are.

    Raises:
        InputError: a set is unknown, or cannot be had.
    """
    from ragcun.data.archives import fetch_from
    from ragcun.data.locate import find_sets

    data_dir = Path(flags.data_dir)
    found = find_sets(data_dir, flags.datasets, fetch=fetch_from(flags.mirror, data_dir))
    return "\n".join(f"{folder.name}: {folder.path}, {folder.split}" for folder in found)
