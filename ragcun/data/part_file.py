"""A file that grows row by row beside its final name, and goes on where an earlier process stopped."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tqdm.auto import tqdm

from ragcun.data.hub_data import BrokenStreamError, RowStream
from ragcun.errors import InputError
from ragcun.io import read_json, read_json_lines, write_json

logger = logging.getLogger(__name__)

FORMAT = 1
SAVE_EVERY = 1000
"""Rows of the source between two saves, which are what a killed download has to do again."""


class Keeper(Protocol):
    """Chooses what is kept of a source's rows.

    Attributes:
        counts: what it has seen; `gather` counts ``rows_read`` there.
        wanted: how many it wants, None for all.
    """

    counts: Counter[str]
    wanted: int | None

    def have(self) -> int:
        """Return how many it has."""

    def expect(self, stream: RowStream) -> None:
        """Get ready for the rows of a stream, or refuse its columns by an `InputError`."""

    def take(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return what is kept of a row."""

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Remember something that an earlier process kept."""


class PartFile:
    """JSON lines in ``<name>.part`` and, in ``<name>.part.json``, how far they reach.

    Rows are synced before the note that counts them is written, and the note is complete or the earlier one. What
    stands after the note's size is therefore cut off and made again: no row is lost, none is there twice.

    Attributes:
        path: of the rows.
        settings: what the rows follow from; others cannot go on with them.
        source: the `HubSplit.to_dict` of where rows come from, empty before the first was asked for.
        stream: the source's place after the last row that counts; None is its beginning.
        counts: what the rows' maker counts.
        finished: whether all rows are there.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], fresh: bool = False) -> None:
        self.path, self.settings = path, dict(settings)
        self.note = note_of(path)
        self.source: dict[str, Any] = {}
        self.stream: dict[str, Any] | None = None
        self.counts: Counter[str] = Counter()
        self.finished = False
        self._size = 0
        if self.note.exists() and not fresh:
            self._restore(read_json(self.note))
        elif path.exists():
            logger.info("%s: an earlier download stopped before it counted; starting again", path)

    def _restore(self, note: Mapping[str, Any]) -> None:
        _require_note(self.note, note)
        refuse_other_settings(self.note, note, self.settings)
        size = self.path.stat().st_size if self.path.exists() else 0
        if size < note["size"]:
            raise InputError(
                f"{self.path} has {size:,} bytes where its note counts {note['size']:,}; start again with --overwrite"
            )
        self.source, self.stream, self.finished = note["source"], note["stream"], note["finished"]
        self.counts, self._size = Counter(note["counts"]), note["size"]
        logger.info("going on with %s, after %d rows read", self.path, self.counts["rows_read"])

    @property
    def revision(self) -> str | None:
        """The revision that the rows are of, None before the first was asked for."""
        return self.source.get("revision")

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows that count."""
        if not self._size:
            return
        if self.path.stat().st_size > self._size:
            os.truncate(self.path, self._size)
        for _, row in read_json_lines(self.path):
            yield row

    @contextlib.contextmanager
    def appending(self) -> Iterator[PartWriter]:
        """Yield what rows are added with, after those that count."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.truncate(self._size)
            yield PartWriter(self, file)

    def write_note(self, size: int) -> None:
        """Write down that the first `size` bytes count, with the place in the source and the counts."""
        self._size = size
        names = ("settings", "source", "stream", "counts", "finished")
        write_json(self.note, {"format": FORMAT, "size": size, **{name: getattr(self, name) for name in names}})


@dataclass(frozen=True)
class PartWriter:
    """Adds rows to a `PartFile`."""

    part: PartFile
    file: Any

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row, which counts from the next `save` on."""
        self.file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")

    def save(self, stream: dict[str, Any], finished: bool = False) -> None:
        """Let all rows count that were added, and keep the source's place after them."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.part.stream, self.part.finished = stream, finished
        self.part.write_note(self.file.tell())


def refuse_other_settings(path: Path, note: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Compare settings with those that a note or a manifest holds.

    Raises:
        InputError: one is another.
    """
    before = note.get("settings", {})
    for name in sorted({*before, *settings}):
        if before.get(name) != settings.get(name):
            raise InputError(
                f"{path} is of a download with {name} {before.get(name)!r}, now it is {settings.get(name)!r}; "
                "give the same settings, another output, or --overwrite"
            )


def _require_note(path: Path, note: Any) -> None:
    """Check the form of a note.

    Raises:
        InputError: it is none that `PartFile.write_note` wrote.
    """
    forms = {"format": int, "size": int, "settings": dict, "source": dict, "counts": dict, "finished": bool}
    fits = isinstance(note, dict) and all(isinstance(note.get(name), form) for name, form in forms.items())
    if not fits or note["size"] < 0 or "stream" not in note or not isinstance(note["stream"], (dict, type(None))):
        raise InputError(f"{path} is no note of a download; delete it, or start again with --overwrite")
    if not all(isinstance(count, int) for count in note["counts"].values()):
        raise InputError(f"{path} counts what is no number; delete it, or start again with --overwrite")


def note_of(part: Path) -> Path:
    """Return where the note of a part file is."""
    return part.with_name(f"{part.name}.json")


def restore(part: PartFile, keeper: Keeper) -> None:
    """Tell a keeper what an earlier process kept."""
    for kept in part.rows():
        keeper.restore(kept)
    keeper.counts.update(part.counts)


def gather(stream: RowStream, part: PartFile, keeper: Keeper) -> None:
    """Pass the rows of a source to a keeper until it has enough, and what it keeps to a file; or what is left of that.

    Raises:
        BrokenStreamError: the source failed; what was kept until then counts.
    """
    part.counts, part.source = keeper.counts, stream.source.to_dict()
    if part.stream is not None:
        stream.load_state_dict(part.stream)
    bar = tqdm(total=keeper.wanted, initial=keeper.have(), desc=str(stream.source), delay=2, leave=False)
    with part.appending() as writer, bar:
        _pass_rows(stream, writer, keeper, bar)
        writer.save(stream.state_dict(), finished=True)


def _pass_rows(stream: RowStream, writer: PartWriter, keeper: Keeper, bar: Any) -> None:
    rows = iter(stream)
    while keeper.wanted is None or keeper.have() < keeper.wanted:
        try:
            row = next(rows, None)
        except BrokenStreamError:
            writer.save(stream.state_dict())
            raise
        if row is None:
            return
        for kept in keeper.take(row):
            writer.append(kept)
        bar.update(keeper.have() - bar.n)
        keeper.counts["rows_read"] += 1
        if keeper.counts["rows_read"] % SAVE_EVERY == 0:
            writer.save(stream.state_dict())
