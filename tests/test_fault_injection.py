"""Whatever call to the disk fails, what was there before stays whole, and one sentence names place and remedy."""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import os
import resource
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from ragcun import io as atomic
from ragcun.data.beir import Document, write_collection
from ragcun.embeddings.cache import EmbeddingCache
from ragcun.embeddings.text_base import TextBase
from ragcun.errors import InputError
from ragcun.io import REMEDIES, replacing_folder, write_json, write_json_lines, write_text
from ragcun.models.encoder import RetrievalEncoder
from ragcun.models.systems import IsotropicGaussianEncoder
from ragcun.retrieval.runs import write_run

FULL, DAMAGED = errno.ENOSPC, errno.EIO
MOST_CALLS = 400
"""No writer here asks this much of a disk; beyond it a loop over n would not end."""


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
        mock.patch.object(Path, "open", opened),  # Python 3.10 holds on to the real one
        mock.patch.object(atomic, "_exchange", lambda one, other: swap and real_exchange(one, other)),
    ):
        yield disk


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files in a folder, by their path in it, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Writers


def make_folder(path: Path, word: str) -> None:
    with replacing_folder(path) as temporary:
        (temporary / "sub").mkdir()
        for name in ("a", "sub/b"):
            (temporary / name).write_text(word)


def make_collection(path: Path, word: str) -> None:
    documents = {f"d{i}": Document(word, f"{word} {i}") for i in range(3)}
    write_collection(path, documents, {"q": word}, {"test": {"q": {"d1": 1}}})


WRITERS: dict[str, Callable[[Path, str], Any]] = {
    "text": write_text,
    "json": lambda path, word: write_json(path, {"figures": [word] * 50}),
    "json array": lambda path, word: write_json_lines(path, ({"row": word, "n": n} for n in range(4))),
    "json lines": lambda path, word: write_json_lines(path.with_suffix(".jsonl"), ({"row": word} for _ in range(4))),
    "run file": lambda path, word: write_run(path, {word: {f"d{i}": 1.0 / (i + 1) for i in range(4)}}, "tag"),
    "folder": make_folder,
    "collection": make_collection,
}


def fail_at_each_call(
    folder: Path, write: Callable[[], Any], check: Callable[[Sequence[str]], None], error: int, swap: bool = True
) -> int:
    """Let each call of a writer fail in turn, until one run meets no failure; return how many calls there are."""
    for at in range(1, MOST_CALLS):
        message = None
        with failing_disk(folder, at, error, swap) as disk:
            try:
                write()
            except InputError as raised:
                message = str(raised)
        assert disk.failed == (message is not None)
        if not disk.failed:
            return at - 1
        assert str(folder) in str(message)
        assert str(message).endswith(f"was not written: {os.strerror(error)}; {REMEDIES[error]}")
        check(disk.calls)
    raise AssertionError("the writer never ends")


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("error", [FULL, DAMAGED])
@pytest.mark.parametrize(("name", "swap"), [*((name, True) for name in WRITERS), ("folder", False)])
def test_a_failed_write_leaves_what_was_there(name, error, exists, swap, tmp_path):
    """Only where all but the last sync is done may it be the new content, whole."""
    place = tmp_path / "place"
    path, write = place / "x.json", WRITERS[name]

    def start() -> dict[str, bytes]:
        shutil.rmtree(place)
        place.mkdir()
        if exists:
            write(path, "old")
        return contents(place)

    place.mkdir()
    write(path, "new")
    new = contents(place)
    old = start()

    def check(calls: Sequence[str]) -> None:
        assert contents(place) in ([old, new] if calls[-1] == "sync" else [old]), calls
        if contents(place) == new != old:
            assert calls.count("sync") >= 2
            start()

    calls = fail_at_each_call(place, lambda: write(path, "new"), check, error, swap)
    assert calls >= 4
    assert contents(place) == new


@pytest.mark.slow
def test_a_checkpoint_whose_writing_fails_is_the_old_one(tiny_bert, tmp_path):
    encoder = IsotropicGaussianEncoder(TextBase.load(tiny_bert, device="cpu"), output_dim=8)
    encoder.save_pretrained(tmp_path / "model", card="old")
    old = contents(tmp_path)

    def check(calls: Sequence[str]) -> None:
        now = contents(tmp_path)
        if now != old:
            assert now["model/README.md"] == b"new"
            assert calls[-1] == "sync"
            RetrievalEncoder.from_pretrained(tmp_path / "model")
            encoder.save_pretrained(tmp_path / "model", card="old")

    assert fail_at_each_call(tmp_path, lambda: encoder.save_pretrained(tmp_path / "model", "new"), check, FULL) > 30
    assert (tmp_path / "model" / "README.md").read_bytes() == b"new"


@pytest.mark.parametrize("error", [FULL, DAMAGED])
def test_a_cache_whose_writing_fails_keeps_its_rows(tiny_bert, texts, tmp_path, error):
    base = TextBase.load(tiny_bert, device="cpu")
    expected = base.encode(texts[:12], "document")
    EmbeddingCache(base, tmp_path).encode(texts[:8], "document")

    def check(calls: Sequence[str]) -> None:
        again = EmbeddingCache(base, tmp_path)
        assert 8 <= len(again) <= 12
        np.testing.assert_allclose(again.encode(texts[:8], "document"), expected[:8], atol=1e-6)

    def encode() -> None:
        EmbeddingCache(base, tmp_path).encode(texts[:12], "document")

    assert fail_at_each_call(tmp_path, encode, check, error) >= 6
    np.testing.assert_allclose(EmbeddingCache(base, tmp_path).encode(texts[:12], "document"), expected, atol=1e-6)


def test_safetensors_writer_says_it_as_well(tiny_bert, tmp_path):
    """Its writes are not Python's: a limit of the size of files stands in for a full disk."""
    encoder = IsotropicGaussianEncoder(TextBase.load(tiny_bert, device="cpu"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(InputError) as caught:
            encoder.save_pretrained(tmp_path / "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(caught.value) == f"{tmp_path / 'model'} was not written: File too large; {REMEDIES[27]}"
    assert os.listdir(tmp_path) == []
