"""Keeping passwords and tokens out of logs and manifests."""

from __future__ import annotations

import re
from collections.abc import Sequence

HIDDEN = "***"
_NAMES = r"[\w-]*(?:token|password|passwd|secret|api[_-]?key|credential|signature)[\w-]*"
_IN_URL = re.compile(r"(?P<before>\b[a-z][a-z0-9+.-]*://)[^/?#\s@]+@", re.IGNORECASE)
_IN_QUERY = re.compile(rf"(?P<before>[?&]{_NAMES}=)[^&\s#]+", re.IGNORECASE)
_FLAG = re.compile(rf"(?P<before>--{_NAMES}(?:=|\s+))(?!--)\S+", re.IGNORECASE)
_HUB = re.compile(r"\bhf_[A-Za-z0-9]{16,}")


def masked(text: str) -> str:
    """Return `text` without what looks like a secret: users and passwords of addresses, tokens of flags and queries.

    >>> masked("get https://me:word@host/a?token=1 --api_token abc")
    'get https://***@host/a?token=*** --api_token ***'
    """
    for pattern in (_IN_QUERY, _FLAG):
        text = pattern.sub(rf"\g<before>{HIDDEN}", text)
    return _HUB.sub(HIDDEN, _IN_URL.sub(rf"\g<before>{HIDDEN}@", text))


def masked_command(arguments: Sequence[str]) -> str:
    """Return a command as one line, without its secrets, also where one holds blanks.

    >>> masked_command(["train.py", "--hub_token", "a b", "--epochs", "3"])
    'train.py --hub_token *** --epochs 3'
    """
    hides = re.compile(rf"--{_NAMES}", re.IGNORECASE)
    shown: list[str] = []
    for place, argument in enumerate(arguments):
        before = arguments[place - 1] if place else ""
        is_value = hides.fullmatch(before) and not argument.startswith("--")
        name, equals, _ = argument.partition("=")
        shown.append(HIDDEN if is_value else f"{name}={HIDDEN}" if equals and hides.fullmatch(name) else argument)
    return masked(" ".join(shown))
