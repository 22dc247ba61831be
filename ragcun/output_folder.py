"""Taking an output folder into use: gone on with, replaced, or refused, but never written over unasked."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from ragcun.errors import InputError


def claim_folder(path: Path, kind: str, marker: Path, old: Iterable[Path], resume: bool, overwrite: bool) -> None:
    """Make an output folder, or take an earlier one over.

    Args:
        path: the folder.
        kind: what it is the folder of (a run, a sweep), for the message.
        marker: the file in it that says that an earlier one is there.
        old: files and folders of an earlier one, removed in this order where it is replaced.
        resume: whether an earlier one is to be gone on with.
        overwrite: whether an earlier one is to be replaced.

    Raises:
        InputError: an earlier one is there and neither `resume` nor `overwrite` is set, or the path is a file.
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"--output_dir {path} is a file; give a folder")
    if marker.exists() and not resume:
        if not overwrite:
            raise InputError(f"{path} holds an earlier {kind}; give another --output_dir, or --resume, or --overwrite")
        for each in old:
            if each.is_dir():
                shutil.rmtree(each, ignore_errors=True)
            else:
                each.unlink(missing_ok=True)
    path.mkdir(parents=True, exist_ok=True)
