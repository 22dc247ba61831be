"""Whatever call to the disk fails, what was there before stays whole, and one sentence names place and remedy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ragcun.cli.parser import run_script
from ragcun.data.beir import Document, load_collection, write_collection
from ragcun.embeddings.cache import EmbeddingCache
from ragcun.embeddings.text_base import TextBase
from ragcun.io import REMEDIES, WriteError, replacing_folder, write_json, write_json_array, write_json_lines, write_text
from ragcun.models.encoder import RetrievalEncoder
from ragcun.models.systems import IsotropicGaussianEncoder
from ragcun.retrieval.runs import write_run
from tests.faults import DAMAGED, FULL, contents, failing_disk

MOST_CALLS = 400
"""No writer here asks this much of a disk; beyond it a loop over n would not end."""


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
    "json lines": lambda path, word: write_json_lines(path, ({"row": word, "n": n} for n in range(4))),
    "json array": lambda path, word: write_json_array(path, ({"row": word, "n": n} for n in range(4))),
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
            except WriteError as raised:
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
def test_a_failed_write_leaves_what_was_there(name: str, error: int, exists: bool, swap: bool, tmp_path: Path) -> None:
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
def test_a_checkpoint_whose_writing_fails_is_the_old_one(tiny_bert: str, tmp_path: Path) -> None:
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
def test_a_cache_whose_writing_fails_keeps_its_rows(
    tiny_bert: str, texts: list[str], tmp_path: Path, error: int
) -> None:
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


@pytest.mark.parametrize("error", [FULL, DAMAGED])
def test_a_script_on_a_failing_disk_ends_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    monkeypatch.setattr(sys, "argv", ["tool.py"])

    def main() -> None:
        make_collection(tmp_path / "toy", "new")
        with (tmp_path / "log").open("a") as file:
            file.write("a row that no writer of files.py stands behind")

    for at in range(1, MOST_CALLS):
        with failing_disk(tmp_path, at, error) as disk:
            code = None
            try:
                run_script(main)
            except SystemExit as stop:
                code = stop.code
        assert code == (2 if disk.failed else None)
        if not disk.failed:
            break
        said = capsys.readouterr().err
        assert said.startswith("tool.py: error: ")
        assert said.endswith(f"{os.strerror(error)}; {REMEDIES[error]}\n")
        assert said.count("\n") == 1
    assert load_collection(tmp_path / "toy").queries == {"q": "new"}
    assert at > 20


@pytest.mark.slow
def test_safetensors_writer_says_it_as_well(tiny_bert: str, tmp_path: Path) -> None:
    """Its writes are not Python's: a limit of the size of files stands in for a full disk."""
    code = f"""if True:
        import resource
        from ragcun import IsotropicGaussianEncoder, TextBase
        from ragcun.errors import InputError
        encoder = IsotropicGaussianEncoder(TextBase.load({tiny_bert!r}, device="cpu"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        try:
            encoder.save_pretrained({str(tmp_path / "model")!r})
        except InputError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{tmp_path / 'model'} was not written: File too large; {REMEDIES[27]}\n"
    assert os.listdir(tmp_path) == []
