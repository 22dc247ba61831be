"""Reading an array piece by piece gives what `json.loads` gives of the whole, whatever the pieces."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragcun.data import json_arrays
from ragcun.data.json_arrays import Unreadable, read_json_array
from ragcun.errors import InputError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=150)
@given(st.lists(VALUES, max_size=8), st.sampled_from([None, 0, 2]), st.integers(1, 40), st.booleans())
def test_pieces_give_what_the_whole_gives(values, indent, chunk, ascii_only):
    text = "\ufeff \n" + json.dumps(values, indent=indent, ensure_ascii=ascii_only) + " \n"
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(json_arrays, "CHUNK", chunk)
        path = Path(folder) / "a.json"
        path.write_text(text, encoding="utf-8")
        read = list(read_json_array(path))
    assert [value for _, value in read] == values
    starts = [0]
    for value in values[:-1] if indent is not None else ():
        starts.append(starts[-1] + json.dumps(value, indent=indent).count("\n") + 1)
    first = 2 if indent is None else 3
    assert [line for line, _ in read] == [first + start for start in (starts if indent is not None else [0] * 99)][
        : len(read)
    ]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 1 << 20])
@pytest.mark.parametrize(
    "text", ["[1.5, 1e+5, -2]", "[1e5\n,\n3.25]", '[true, null, "a\\u00e9b"]', "[-1e-7]", "[12345]"]
)
def test_numbers_are_not_cut(tmp_path, monkeypatch, chunk, text):
    monkeypatch.setattr(json_arrays, "CHUNK", chunk)
    (tmp_path / "a.json").write_text(text)
    assert [value for _, value in read_json_array(tmp_path / "a.json")] == json.loads(text)


WRONG = [
    '[{"a": 1},\n  {"b": 2}, {"c" 3}]',
    '[{"a": 1},\n {"b":\n "two"\n "c": 3}, 4]',
    '[{"abc": 1}, {"d": 2}, nope]',
    '[{"abc": 1}, {"d": 2},',
    "[\n[1, 2",
]


@pytest.mark.parametrize("chunk", [1, 5, 11, 1 << 20])
@pytest.mark.parametrize("text", WRONG)
def test_errors_are_where_json_finds_them(tmp_path, monkeypatch, chunk, text):
    monkeypatch.setattr(json_arrays, "CHUNK", chunk)
    (tmp_path / "a.json").write_text(text)
    line, value = list(read_json_array(tmp_path / "a.json"))[-1]
    with pytest.raises(json.JSONDecodeError) as raised:
        json.loads(text)
    assert isinstance(value, Unreadable)
    assert value.reason == f"not valid JSON ({raised.value.msg} at column {raised.value.colno})"
    assert line == raised.value.lineno


def test_what_is_not_utf_8_is_told(tmp_path):
    (tmp_path / "a.json").write_bytes(b'["one", "\xff"]')
    with pytest.raises(InputError, match=r"a\.json, in or after line 1: not UTF-8 text"):
        list(read_json_array(tmp_path / "a.json"))
