"""Flags of every command that turns texts into vectors: where they are cached, and how they are computed."""

from __future__ import annotations

import argparse

from ragcun.config import BASE_DTYPE_HELP, BASE_DTYPES


def add_encoding_flags(parser: argparse.ArgumentParser) -> None:
    """Add ``--cache_dir``, ``--batch_size``, ``--base_dtype`` and ``--device``."""
    cache = "cached base vectors (default: $RAGCUN_CACHE or ~/.cache/ragcun)"
    parser.add_argument("--cache_dir", metavar="DIR", help=cache)
    add_computing_flags(parser)


def add_computing_flags(parser: argparse.ArgumentParser) -> None:
    """Add ``--batch_size``, ``--base_dtype`` and ``--device``."""
    most = "texts encoded at a time, at most: of long ones fewer (default: %(default)s)"
    parser.add_argument("--batch_size", type=int, default=1024, help=most)
    arithmetic = f"{BASE_DTYPE_HELP} (default: %(default)s)"
    parser.add_argument("--base_dtype", choices=BASE_DTYPES, default="float32", help=arithmetic)
    parser.add_argument("--device", help="cpu or cuda (default: a GPU where there is one)")
