"""What a model's folder may ask for: built-in classes and files within it; checked before anything is loaded."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from ragcun.errors import InputError
from ragcun.io import read_json

MODULES = "modules.json"
BUILT_IN = "sentence_transformers."
ACTIVATIONS = "torch.nn."
MODULE_CONFIGS = ("router_config.json", "config.json")


def require_safe(folder: Path) -> None:
    """Check that a folder's configuration names no code but sentence-transformers' own, and no file outside it.

    Files in the hub's own cache are links to a folder beside; links to anywhere else are refused.

    Raises:
        InputError: it names another class, a place outside, or cannot be read.
    """
    require_inside(folder, _files(folder))
    path = folder / MODULES
    if not path.is_file():
        return
    modules = read_json(path)
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise InputError(f"{path} is not a list of modules; copy the model again")
    for module in modules:
        _require_built_in(module.get("type"), path)
        _check_module(folder, module.get("path", ""), path)


def require_inside(folder: Path, names: Iterable[str]) -> None:
    """Check that files named relative to a folder lie in it once links are followed.

    Raises:
        InputError: one does not.
    """
    real = folder.resolve()
    root = real.parent.parent if real.parent.name == "snapshots" else real
    for name in names:
        _require_relative(name, folder)
        if not (folder / name).resolve().is_relative_to(root):
            raise InputError(f"{folder / name} leads out of its folder; put the file itself there")


def _files(folder: Path) -> Iterator[str]:
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            yield (Path(place) / name).relative_to(folder).as_posix()


def _require_relative(name: Any, where: Path) -> None:
    parts = PurePosixPath(name).parts if isinstance(name, str) else ("..",)
    if ".." in parts or parts[:1] == ("/",) or "\\" in name or "\0" in name:
        raise InputError(f"{where} names the place {name!r:.100}, which leads out of its folder; use another model")


def _require_built_in(name: Any, where: Path) -> None:
    if not isinstance(name, str) or not name.startswith(BUILT_IN):
        raise InputError(
            f"{where} names the class {name!r:.100}, which is not sentence-transformers' own; code of others is never "
            "loaded, use another model"
        )


def _check_module(folder: Path, name: Any, where: Path) -> None:
    """Check the configuration of one module, and of those that it routes to."""
    _require_relative(name, where)
    for file in MODULE_CONFIGS:
        path = folder / name / file
        if not path.is_file():
            continue
        config = read_json(path)
        if not isinstance(config, dict):
            raise InputError(f"{path}: expected a JSON object, got {type(config).__name__}; copy the model again")
        activation, tokenizer = config.get("activation_function"), config.get("tokenizer_class")
        if activation is not None and not str(activation).startswith(ACTIVATIONS):
            raise InputError(
                f"{path} names the activation {activation!r:.100}, which is not torch's; use another model"
            )
        if isinstance(tokenizer, str) and "." in tokenizer:
            _require_built_in(tokenizer, path)
        types = config.get("types")
        for inner, kind in types.items() if isinstance(types, dict) else ():
            _require_built_in(kind, path)
            _check_module(folder / name, inner, path)
