"""Files are complete or absent, and an error names its line."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ragcun import io as atomic
from ragcun.errors import InputError
from ragcun.io import (
    file_digest,
    read_json,
    read_json_lines,
    read_lines,
    read_text,
    replacing_file,
    replacing_folder,
    write_json,
    write_json_lines,
    write_text,
)


@pytest.mark.parametrize("exists", [True, False])
def test_a_failing_write_leaves_what_was_there(tmp_path: Path, exists: bool) -> None:
    path = tmp_path / "sub" / "a.txt"
    if exists:
        write_text(path, "old")

    def write_half() -> None:
        with replacing_file(path) as temporary:
            temporary.write_text("half")
            assert path.exists() == exists
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert [each.name for each in path.parent.iterdir()] == (["a.txt"] if exists else [])
    assert not exists or path.read_text() == "old"


def test_rows_that_fail_half_way_leave_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write_json_lines(path, [{"a": 1}])

    def rows():  # type: ignore[no-untyped-def]
        yield {"a": 2}
        yield {"a": object()}

    with pytest.raises(TypeError):
        write_json_lines(path, rows())
    assert path.read_text() == '{"a": 1}\n'
    assert os.listdir(tmp_path) == ["a.jsonl"]


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failing_folder_leaves_what_was_there(tmp_path: Path, exists: bool, error: type[BaseException]) -> None:
    folder = tmp_path / "model"
    if exists:
        write_text(folder / "a", "old")

    def write_half() -> None:
        with replacing_folder(folder) as temporary:
            (temporary / "a").write_text("half")
            raise error

    with pytest.raises(error):
        write_half()
    assert os.listdir(tmp_path) == (["model"] if exists else [])
    assert not exists or (folder / "a").read_text() == "old"


def test_a_folder_whose_rename_fails_keeps_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "model"
    write_text(folder / "a", "old")
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        if str(source).endswith(".tmp"):
            raise OSError("no")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
    with pytest.raises(OSError, match="no"), replacing_folder(folder) as temporary:
        (temporary / "a").write_text("new")
    assert os.listdir(tmp_path) == ["model"]
    assert (folder / "a").read_text() == "old"


def test_folders_are_replaced_whole(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    write_text(folder / "gone", "old")
    with replacing_folder(folder) as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "a").write_text("new")
    assert os.listdir(tmp_path) == ["model"]
    assert [str(path.relative_to(folder)) for path in folder.rglob("*")] == ["sub", "sub/a"]


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "x")
        with replacing_folder(tmp_path / "b"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o750


def test_text_and_json_survive(tmp_path: Path) -> None:
    value = {"é": [1, 2.5, None, "日本"], "b": {"c": True}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert "日本" in (tmp_path / "a.json").read_text(encoding="utf-8")
    rows = [{"a": "x\ny"}, {"b": "\u2028"}, {}]
    write_json_lines(tmp_path / "a.jsonl", rows)
    assert [row for _, row in read_json_lines(tmp_path / "a.jsonl")] == rows


def test_byte_order_mark_and_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": 2}\n  \n{"a": 3}')
    assert list(read_json_lines(path)) == [(1, {"a": 1}), (3, {"a": 2}), (5, {"a": 3})]
    assert [line for _, line in read_lines(path)] == ['{"a": 1}', "", '{"a": 2}', "  ", '{"a": 3}']
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n')
    assert read_json(path) == {"a": 1}
    assert read_text(path)[0] == "{"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a": 1}\n\n{"a": }\n', "line 3: not valid JSON"),
        (b'{"a": 1}\n[1]\n', "line 2: expected a JSON object, got list"),
        (b'{"a": 1}\r\n{"b": 2\r\n', "line 2: not valid JSON"),
        (b'{"a": 1}\n{"a": "\xff"}\n', "after line [01]: not UTF-8"),
        (b"\xff\xfe{\x00}\x00", "after line 0: not UTF-8"),
    ],
)
def test_wrong_lines_are_named(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        list(read_json_lines(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [(b'{"a": 1,\n"b" 2}', "line 2: not valid JSON"), (b"", "line 1"), (b'{"a": "\xff"}', "not UTF-8 text \\(byte 7")],
)
def test_wrong_json_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(InputError, match=message):
        read_json(tmp_path / "a.json")


def test_missing_files_and_folders(tmp_path: Path) -> None:
    for read in (read_text, read_json, lambda path: list(read_lines(path))):
        with pytest.raises(InputError, match="no such file"):
            read(tmp_path / "missing")
        with pytest.raises(InputError, match="is a folder"):
            read(tmp_path)


def test_checksum(tmp_path: Path) -> None:
    data = json.dumps(list(range(300_000))).encode()
    (tmp_path / "a").write_bytes(data)
    assert file_digest(tmp_path / "a") == hashlib.blake2b(data, digest_size=32).hexdigest()


@pytest.mark.parametrize("in_one_step", [True, False])
def test_a_folder_is_replaced_with_and_without_a_swap_of_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_one_step: bool
) -> None:
    if not in_one_step:
        monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
    write_text(tmp_path / "model" / "old", "old")
    with replacing_folder(tmp_path / "model") as temporary:
        (temporary / "new").write_text("new")
    assert os.listdir(tmp_path) == ["model"]
    assert os.listdir(tmp_path / "model") == ["new"]


def test_a_linked_folder_is_replaced_where_it_lies(tmp_path: Path) -> None:
    write_text(tmp_path / "disk" / "model" / "a", "old")
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "model")
    with replacing_folder(tmp_path / "link") as temporary:
        (temporary / "a").write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "model" / "a").read_text() == "new"
    assert os.listdir(tmp_path / "disk") == ["model"]


def test_what_killed_processes_left_goes_and_what_others_hold_stays(tmp_path: Path) -> None:
    """A temporary counts as left where it is older than a minute and no process has it locked."""
    left, held, young, other = (
        tmp_path / f".a.{name}.tmp" for name in ("left_000", "held_000", "young_00", "b.left00")
    )
    left_folder = tmp_path / ".a.left_001.tmp"
    left_folder.mkdir()
    (left_folder / "half").write_text("half")
    for file in (left, held, young, other):
        file.write_text("half")
    for each in (left, left_folder, held, other):
        os.utime(each, (0, 0))
    with held.open() as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        write_text(tmp_path / "a", "new")
    assert sorted(os.listdir(tmp_path)) == sorted(["a", held.name, young.name, other.name])


def test_a_folder_caught_between_two_names_is_brought_back(tmp_path: Path) -> None:
    old = tmp_path / ".model.abcd1234.old"
    write_text(old / "a", "old")

    def fail() -> None:
        with replacing_folder(tmp_path / "model"):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert os.listdir(tmp_path) == ["model"]
    assert (tmp_path / "model" / "a").read_text() == "old"


@pytest.mark.parametrize("read", [read_json, lambda path: list(read_json_lines(path))])
@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' * 100_000, '{"a": ' + "9" * 5000 + "}"])
def test_json_that_cannot_be_held_is_refused(tmp_path: Path, read: Callable[[Path], object], text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=r"a\.json.*(nested too deeply|too many digits)") as caught:
        read(tmp_path / "a.json")
    assert "\n" not in str(caught.value)


def test_names_that_are_no_text_survive_in_json_and_are_refused_in_text(tmp_path: Path) -> None:
    """A file's name that is not UTF-8 reaches Python as an unpaired surrogate."""
    name = b"caf\xe9".decode(errors="surrogateescape")
    write_json(tmp_path / "a.json", {"command": name})
    assert read_json(tmp_path / "a.json") == {"command": name}
    with pytest.raises(InputError, match=r"b\.md was not written: '.udce9' is no character"):
        write_text(tmp_path / "b.md", name)
    assert os.listdir(tmp_path) == ["a.json"]
