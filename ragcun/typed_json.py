"""JSON as dataclasses: a value of a file is checked against the types of the fields, once, when it is read."""

from __future__ import annotations

import dataclasses
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from ragcun.errors import InputError

Type = TypeVar("Type")
LARGEST_COUNT, LARGEST_NUMBER = 1 << 63, 1e300
"""What int64 holds, and what the limits of a plot's axis hold."""


def typed(hint: type[Type] | Any, value: Any, path: str | Path, key: str = "") -> Any:
    """Return a value of a JSON file as `hint`: a dataclass, scalar, list, dict with string keys, or union with None.

    Whole numbers are counts, from 0 to 2⁶³; other numbers are finite, and at most 1e300 in size. Unknown keys of an
    object are passed over. The metadata of a dataclass's field may say its ``key``, or that it is ``inline``: a dict of
    those keys beside it that hold an ``@``.

    Args:
        hint: what the value should be.
        value: what the file holds.
        path: the file, for the message.
        key: where in the file the value is.

    Raises:
        InputError: the value is of another type, or an object lacks a key.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (hint,) = (each for each in arguments if each is not type(None))
        return typed(hint, value, path, key)
    if dataclasses.is_dataclass(hint):
        return _object(hint, _checked(value, dict, path, key), path, key)
    if origin is dict:
        items = _checked(value, dict, path, key).items()
        return {name: typed(arguments[1], each, path, _join(key, name)) for name, each in items}
    if origin in (list, tuple):
        values = enumerate(_checked(value, list, path, key))
        return [typed(arguments[0], each, path, f"{key}[{place}]") for place, each in values]
    if origin is typing.Literal:
        return _checked(value, str, path, key)
    return value if hint is Any else _checked(value, hint, path, key)


def _object(hint: Any, value: dict[str, Any], path: str | Path, key: str) -> Any:
    hints, found = typing.get_type_hints(hint), {}
    for field in dataclasses.fields(hint):
        name = field.metadata.get("key", field.name)
        if field.metadata.get("inline"):
            inline = {metric: each for metric, each in value.items() if "@" in metric}
            found[field.name] = typed(hints[field.name], inline, path, key)
        elif name in value:
            found[field.name] = typed(hints[field.name], value[name], path, _join(key, name))
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise InputError(f"{path}: {f'{key} ' if key else ''}lacks {name!r}; write it again")
    try:
        return hint(**found)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{path}: {key} {error}; write it again") from error


def _checked(value: Any, kind: type, path: str | Path, key: str) -> Any:
    """Return the value where it is of a kind; a whole number is a float, but no bool is a number."""
    fits = isinstance(value, (int, float) if kind is float else kind) and (kind is bool or not isinstance(value, bool))
    if kind is int and fits:
        fits = 0 <= value < LARGEST_COUNT
    if kind is float and fits:
        fits = abs(value) <= LARGEST_NUMBER
    if not fits:
        expected = {float: "a finite number", int: "a count", str: "a text", dict: "an object", list: "a list"}
        raise InputError(
            f"{path}: {key or 'the file'} is {value!r:.60} where {expected.get(kind, kind.__name__)} is expected; "
            "write it again"
        )
    return value


def _join(key: str, name: str) -> str:
    return f"{key}.{name}".lstrip(".")[:200]


def to_json(value: Any) -> Any:
    """Return dataclasses as the objects that `typed` reads; fields that are None are left out."""
    if isinstance(value, dict):
        return {name: to_json(each) for name, each in value.items()}
    if not dataclasses.is_dataclass(value):
        return value
    found: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        each = getattr(value, field.name)
        if field.metadata.get("inline"):
            found |= each
        elif each is not None:
            found[field.metadata.get("key", field.name)] = to_json(each)
    return found
