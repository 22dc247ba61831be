"""Files and folders are whole or absent, and an error names file and line; `test_fault_injection` fails every call."""

import contextlib
import fcntl
import hashlib
import os
import pickle
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


@pytest.mark.parametrize("name", ["file", "folder/x"])
def test_an_interrupted_write_leaves_what_was_there(tmp_path, name):
    path, inner = tmp_path / Path(name).parts[0], "/".join(Path(name).parts[1:])
    write_text(tmp_path / name, "old")
    with contextlib.suppress(KeyboardInterrupt), (replacing_folder if inner else replacing_file)(path) as temporary:
        (temporary / inner).write_text("half")
        raise KeyboardInterrupt
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert (tmp_path / name).read_text() == "old"


@pytest.mark.parametrize("in_one_step", [True, False])
@pytest.mark.parametrize("linked", [True, False])
def test_folders_are_replaced_whole_where_they_lie(tmp_path, monkeypatch, in_one_step, linked):
    if not in_one_step:
        monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
    folder = tmp_path / "disk" / "model"
    write_text(folder / "gone", "old")
    (tmp_path / "link").symlink_to(folder)
    with replacing_folder(tmp_path / "link" if linked else folder) as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "a").write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert os.listdir(tmp_path / "disk") == ["model"]
    assert [str(path.relative_to(folder)) for path in folder.rglob("*")] == ["sub", "sub/a"]


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "x")
        with replacing_folder(tmp_path / "b"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o750


def test_text_and_json_survive(tmp_path):
    """Also a file's name that is not UTF-8, which reaches Python as an unpaired surrogate."""
    name = b"caf\xe9".decode(errors="surrogateescape")
    value = {"é": [1, 2.5, None, "日本"], "b": {"c": True}, "name": name}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert "日本" in (tmp_path / "a.json").read_text(encoding="utf-8")
    rows = [{"a": "x\ny"}, {"b": "\u2028"}, {}]
    write_json_lines(tmp_path / "a.jsonl", rows)
    assert [row for _, row in read_json_lines(tmp_path / "a.jsonl")] == rows
    with pytest.raises(InputError, match=r"b\.md was not written: '.udce9'"):
        write_text(tmp_path / "b.md", name)
    assert sorted(os.listdir(tmp_path)) == ["a.json", "a.jsonl"]


def test_byte_order_mark_and_line_ends(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": 2}\n  \n{"a": 3}')
    assert list(read_json_lines(path)) == [(1, {"a": 1}), (3, {"a": 2}), (5, {"a": 3})]
    assert [line for _, line in read_lines(path)] == ['{"a": 1}', "", '{"a": 2}', "  ", '{"a": 3}']
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n')
    assert read_json(path) == {"a": 1}
    assert read_text(path)[0] == "{"


def lines(path: Path) -> object:
    return list(read_json_lines(path))


@pytest.mark.parametrize(
    ("read", "data", "message"),
    [
        (lines, b'{"a": 1}\n\n{"a": }\n', "line 3: not valid JSON"),
        (lines, b'{"a": 1}\n[1]\n', "line 2: .* object, got list"),
        (lines, b'{"a": 1}\r\n{"b": 2\r\n', "line 2: not valid JSON"),
        (lines, b'{"a": 1}\n{"a": "\xff"}\n', "after line [01]: not UTF-8"),
        (lines, b"\xff\xfe{\x00}", "after line 0: not UTF-16"),
        (lines, b"[" * 100_000, "nested too deeply"),
        (lines, b'{"a": ' + b"9" * 5000 + b"}", "too many digits"),
        (read_json, b'{"a": 1,\n"b" 2}', "line 2: not valid JSON"),
        (read_json, b"", "line 1"),
        (read_json, b'{"a": "\xff"}', r"after line 0: not UTF-8 text"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, read, data, message):
    path = tmp_path / "a.json"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("read", [read_text, read_json, lines])
def test_missing_files_and_folders(tmp_path, read):
    with pytest.raises(InputError, match="no such file"):
        read(tmp_path / "missing")
    with pytest.raises(InputError, match="is a folder"):
        read(tmp_path)


def test_checksum(tmp_path):
    data = bytes(range(256)) * 9000
    (tmp_path / "a").write_bytes(data)
    assert file_digest(tmp_path / "a") == hashlib.blake2b(data, digest_size=32).hexdigest()


def test_what_killed_processes_left_goes_and_what_others_hold_stays(tmp_path):
    """A temporary counts as left where it is older than a minute and no process has it locked."""
    left, held, young, other = (
        tmp_path / f".a.{name}.tmp" for name in ("left_000", "held_000", "young_00", "b.left00")
    )
    left_folder, old = tmp_path / ".a.left_001.tmp", tmp_path / ".model.abcd1234.old"
    write_text(left_folder / "half", "half")
    write_text(old / "a", "old")
    for file in (left, held, young, other):
        file.write_text("half")
    for each in (left, left_folder, held, other):
        os.utime(each, (0, 0))
    with held.open() as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        write_text(tmp_path / "a", "new")
    with pytest.raises(RuntimeError), replacing_folder(tmp_path / "model"):
        raise RuntimeError
    assert (tmp_path / "model" / "a").read_text() == "old", "a folder caught between two names is brought back"
    assert sorted(os.listdir(tmp_path)) == sorted(["a", "model", held.name, young.name, other.name])


@pytest.mark.parametrize("size", [0, 10, 1400, 1450, 1600, 100_000])
def test_place_and_remedy_stay(size):
    whole = f"place.jsonl, line 3: id {'x' * size!r} stands twice; keep one of them"
    message = str(InputError(whole))
    assert message.startswith("place.jsonl, line 3: id")
    assert message.endswith("keep one of them")
    assert len(message) <= 1500
    assert message == whole or len(whole) > 1500
    error = InputError("x" * 5000)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
