"""Inputs that readers meet in bad days: arbitrary bytes, and valid files with something wrong in them."""

import json
import os
from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
SLOWEST = timedelta(seconds=20)
"""For one input; a reader that needs longer hangs, even on a busy machine."""
settings.register_profile("quick", max_examples=100, deadline=SLOWEST, suppress_health_check=QUIET, derandomize=True)
settings.register_profile("fuzz", max_examples=10_000, deadline=SLOWEST, suppress_health_check=QUIET, database=None)
FUZZ = settings.get_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))
"""HYPOTHESIS_PROFILE=fuzz (make fuzz) tries 10,000 inputs of each kind."""
ODD = [
    b"\x00", b"\xef\xbb\xbf", b"\xff\xfe", b"\r", b"\r\n", b"\n", b"\n\n", b"\t", b"\x0b", b"\x1c", b'"', b"'", b",",
    b"\\", b"\xff", b"\xc3", b"\xed\xa0\x80", "\u2028".encode(), "\u202e".encode(), "\u00a0".encode(),
    "e\u0301".encode(),
    b"\\ud800", b"\\u0000", b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-0.0", b"9" * 5000, b"1e-400", b"null",
    b"true", b"[" * 3000, b'{"a":' * 3000, b"]", b"}", b"{}", b"[]", b'""', b"0", b"-1", b"1.5", b"x" * 70_000, b"=1+1",
    b"&a [*a, *a]", b"!!python/object/apply:os.system [x]", b"- " * 500, b"? ", b"<<: ", b"2001-01-01", b"0x1f", b"1_0",
    b"%", b"#", b": ", b"../../x", b"<script>",
]  # fmt: skip
WORDS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["", " ", "\ud800", "\x00", "a\nb", "../x", "x" * 2000, "NDCG@10", "1e5", 10**400, -1, 0, 1]),
)
VALUES = st.recursive(WORDS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner))


@st.composite
def spoilt(draw: st.DrawFn, valid: bytes) -> bytes:
    """Valid bytes with up to four wounds: cut, doubled, ended, flipped, with something odd put in, lines moved."""
    content = valid
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        stop = min(len(content), start + draw(st.integers(0, 40)))
        before, after = content[:start], content[start:]
        way = draw(st.sampled_from(["cut", "double", "put", "flip", "end", "lines"]))
        if way == "put":
            content = before + draw(st.sampled_from(ODD) | st.binary(max_size=6)) + after
        elif way == "flip" and after:
            content = before + bytes([after[0] ^ 1 << draw(st.integers(0, 7))]) + after[1:]
        elif way == "lines":
            lines = content.splitlines(keepends=True)
            content = b"".join([*draw(st.permutations(lines)), draw(st.sampled_from([*lines, b""]))])
        else:
            content = {"cut": before + content[stop:], "double": content[:stop] + after}.get(way, before)
    return content


@st.composite
def spoilt_json(draw: st.DrawFn, valid: Any) -> bytes:
    """A valid JSON value of which up to three parts are another value, or gone."""
    value = json.loads(json.dumps(valid))
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(value))
        holder, key = draw(st.sampled_from(places)) if places else ([value], 0)
        if draw(st.integers(0, 3)) == 0:
            del holder[key]
        else:
            holder[key] = draw(VALUES)
    return json.dumps(value, ensure_ascii=draw(st.booleans())).encode(errors="surrogatepass")


def _places(value: Any) -> Any:
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(value[key])


def hostile(valid: bytes, as_json: Any = None, by_line: bool = False) -> st.SearchStrategy[bytes]:
    """Arbitrary bytes, spoilt valid ones, and where `as_json` is given, its value with other parts (one a line)."""
    ways = [st.binary(max_size=200), spoilt(valid), spoilt(valid)]
    if as_json is not None and by_line:
        ways += 2 * [st.lists(st.sampled_from(as_json).flatmap(spoilt_json), min_size=1, max_size=4).map(b"\n".join)]
    elif as_json is not None:
        ways += 2 * [spoilt_json(as_json)]
    return st.one_of(ways)
