"""Room on the disk: asked for before large files are written, and named where it runs out all the same."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from ragcun.errors import InputError
from ragcun.io import FULL


def require_space(folder: Path, size: int, what: str) -> None:
    """Refuse to start what does not fit.

    Raises:
        InputError: the disk has less than `size` bytes left.
    """
    free = shutil.disk_usage(folder).free
    if size > free:
        raise InputError(f"{what} takes {size:,} bytes and {folder} has {free:,} left; make room, or use another disk")


@contextlib.contextmanager
def full_disk_named(path: Path, remedy: str) -> Iterator[None]:
    """Turn the errors of a full disk (or quota, or limit of a file's size) into one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise InputError(f"{path}: {os.strerror(error.errno)}; {remedy}") from error
