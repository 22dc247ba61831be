"""The one exception that means: the input is wrong, and here is what to do about it."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

MOST, LONGEST = 1500, 300


class InputError(ValueError):
    """Wrong input from outside; one sentence names the place (file and line where there are such) and the remedy.

    Commands end with that sentence and exit code 2. A value in it may make it longer than 1,500 characters: then the
    middle is cut out, so that place and remedy stay.

    >>> len(str(InputError("place: " + "x" * 9999 + "; remedy")))
    1403
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(message if len(message) <= MOST else f"{message[:900]} … {message[-500:]}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``did you mean 'NEAREST'? `` with the known name nearest to `name`, or nothing."""
    return "".join(f"did you mean {near!r}? " for near in difflib.get_close_matches(name, list(known), n=1))


def require_package(name: str, extra: str) -> None:
    """Check that a package is installed that only an extra of ragcun asks for."""
    if importlib.util.find_spec(name) is None:
        raise InputError(f"the package {name} is not installed; install it with: pip install 'ragcun[{extra}]'")


def version_clash() -> str:
    """Return what is wrong where transformers refuses the installed torch, which pip does not check; else nothing."""
    from transformers.utils.import_utils import is_torch_available

    if is_torch_available():
        return ""
    found = f"transformers {version('transformers')} does not work with torch {version('torch')}"
    return f"{found}; install a newer torch, or an older transformers: pip install 'transformers<5'"


def require_same(before: Mapping[str, Any], now: Mapping[str, Any], place: str, remedy: str) -> None:
    """Check that an earlier record has the values that are asked for now.

    >>> require_same({"seed": 0}, {"seed": 5}, "r.json is of another evaluation", "name another file")
    Traceback (most recent call last):
    ragcun.errors.InputError: r.json is of another evaluation: seed is 0 there and 5 now; name another file
    """
    for name, value in now.items():
        if before.get(name) != value:
            raise InputError(f"{place}: {name} is {before.get(name)!r} there and {value!r} now; {remedy}")


@contextmanager
def as_input_error(place: str, remedy: str = "", kinds: tuple[type[Exception], ...] = (ValueError,)) -> Iterator[None]:
    """Turn errors of some kinds into an InputError that begins with a place and ends with a remedy.

    >>> with as_input_error("line 3", "; give a number"):
    ...     float("x")
    Traceback (most recent call last):
    ragcun.errors.InputError: line 3: could not convert string to float: 'x'; give a number
    """
    try:
        yield
    except kinds as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{place}: {reason:.{LONGEST}}{remedy}") from error
