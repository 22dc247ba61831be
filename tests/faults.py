"""A disk that fails at the n-th call: full, damaged or read-only, half-way through a write, a sync or a rename."""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from ragcun import io as atomic

FULL, DAMAGED = errno.ENOSPC, errno.EIO


class Disk:
    """Counts what is asked of the files under a folder (`calls`), and refuses the call of one number (`failed`)."""

    def __init__(self, folder: Path, at: int, error: int) -> None:
        self.folder, self.at, self.error = str(folder), at, error
        self.calls: list[str] = []
        self.failed = False

    def holds(self, path: object) -> bool:
        """Whether a path, or a descriptor's, lies in the folder."""
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}") if os.path.exists(f"/proc/self/fd/{path}") else ""
        return isinstance(path, (str, os.PathLike)) and os.path.abspath(os.fspath(path)).startswith(self.folder)

    def ask(self, what: str) -> None:
        """Count a call; refuse it where it is the one."""
        self.calls.append(what)
        if len(self.calls) == self.at:
            self.failed = True
            raise OSError(self.error, os.strerror(self.error))


class Written:
    """A file open for writing, of whose refused write half the bytes arrive."""

    def __init__(self, file: Any, disk: Disk) -> None:
        self._file, self._disk = file, disk

    def write(self, data: Any) -> Any:
        try:
            self._disk.ask("write")
        except OSError:
            self._file.write(data[: len(data) // 2])
            self._file.flush()
            raise
        return self._file.write(data)

    def __enter__(self) -> Written:
        self._file.__enter__()
        return self

    def __exit__(self, *arguments: Any) -> Any:
        return self._file.__exit__(*arguments)

    def __iter__(self) -> Any:
        return iter(self._file)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextlib.contextmanager
def failing_disk(folder: Path, at: int, error: int = FULL, swap: bool = True) -> Iterator[Disk]:
    """Let the `at`-th write, sync, rename or opening for writing under `folder` fail; names swap only with `swap`."""
    disk = Disk(folder.resolve(), at, error)
    real_open, real_os_open, real_mkdir, real_exchange = io.open, os.open, os.mkdir, atomic._exchange

    def opened(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        writes = set(mode) & set("wax+") and disk.holds(file)
        if writes:
            disk.ask("open")
        result = real_open(file, mode, *arguments, **options)
        return Written(result, disk) if writes else result

    def guarded(what: str, real: Callable[..., Any], place: int = 0) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if disk.holds(arguments[place]):
                disk.ask(what)
            return real(*arguments, **options)

        return call

    def os_open(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if flags & os.O_CREAT and disk.holds(path) and not str(path).endswith("lock"):
            disk.ask("create")
        return real_os_open(path, flags, *arguments, **options)

    def mkdir(path: Any, *arguments: Any, **options: Any) -> None:
        if str(path).endswith(".tmp") and not os.path.exists(path) and disk.holds(path):
            disk.ask("mkdir")
        real_mkdir(path, *arguments, **options)

    patched = {"fsync": guarded("sync", os.fsync), "replace": guarded("rename", os.replace, 1)}
    patched |= {"sendfile": guarded("write", os.sendfile), "open": os_open, "mkdir": mkdir}
    with (
        mock.patch.multiple(os, **patched),
        mock.patch.object(io, "open", opened),
        mock.patch.object(builtins, "open", opened),
        mock.patch.object(atomic, "_exchange", lambda one, other: swap and real_exchange(one, other)),
    ):
        yield disk


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files in a folder, by their path in it, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
