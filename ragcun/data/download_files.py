"""The files of a download: whole under their names or not there, and a manifest that says what they are."""

from __future__ import annotations

import contextlib
import glob
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ragcun.data.part_file import FORMAT, PartFile, note_of, refuse_other_settings
from ragcun.errors import InputError
from ragcun.io import read_json, write_json


@dataclass(frozen=True)
class Download:
    """The files of a download; it is complete when its manifest is there.

    Attributes:
        manifest: the file that says what the others are.
        files: the others, without the part file.
        part: where rows go first.
    """

    manifest: Path
    files: tuple[Path, ...]
    part: Path

    def is_complete(self, settings: Mapping[str, Any], resume: bool) -> bool:
        """Say whether the download is there already; one that is unfinished is gone on with.

        Raises:
            InputError: files are in the way, or a complete download is and `resume` is not set, or it
                was made with other settings.
        """
        complete = self.manifest.exists() and all(file.exists() for file in self.listed())
        if complete and resume:
            refuse_other_settings(self.manifest, read_json(self.manifest), settings)
            self.clear_part()
            return True
        there = [file for file in (*self.files, self.manifest) if file.exists()]
        if there and (complete or not self.note.exists()):
            hint = "--overwrite, or --resume to leave it" if complete else "--overwrite to replace it"
            raise InputError(f"{there[0]} is there already; name another output, or give {hint}")
        return False

    def listed(self) -> list[Path]:
        """Return the files that the manifest lists."""
        return [self.manifest.parent / name for name in read_json(self.manifest)["files"]]

    def clear(self) -> None:
        """Remove all files of an earlier download, its manifest first."""
        for file in (self.manifest, *self.files):
            file.unlink(missing_ok=True)
        self.clear_part()

    def clear_part(self) -> None:
        """Remove the rows that were on their way, their note last, and temporary files of a process that was killed.

        Nobody else may be writing; see `locked`.
        """
        for file in (self.note, self.manifest, *self.files):
            for stale in file.parent.glob(f".{glob.escape(file.name)}.*.tmp"):
                stale.unlink()
        self.part.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    @property
    def note(self) -> Path:
        """Where `PartFile` keeps how far the rows reach."""
        return note_of(self.part)

    def write_manifest(self, part: PartFile, files: Mapping[str, Path]) -> None:
        """Write where the rows come from and what each file holds, by the name that it has in the end."""
        facts = {name: _facts(path) for name, path in files.items()}
        about = {"format": FORMAT, "source": part.source, "settings": part.settings, "counts": dict(part.counts)}
        write_json(self.manifest, {**about, "files": facts})

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out.

        Raises:
            InputError: another one is at it.
        """
        self.manifest.parent.mkdir(parents=True, exist_ok=True)
        path = self.part.with_name(f".{self.part.name}.lock")
        try:
            with FileLock(path, timeout=0):
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
        except Timeout as error:
            raise InputError(f"{self.part} is being written by another process; wait for it") from error


def _facts(path: Path) -> dict[str, Any]:
    digest, lines = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            lines += block.count(b"\n")
    return {"bytes": path.stat().st_size, "lines": lines, "sha256": digest.hexdigest()}
