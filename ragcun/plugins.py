"""Names that settings may have: built in, of installed packages (entry points), and of a user's own files."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path

from ragcun.errors import InputError
from ragcun.options import NAMES

GROUP = "ragcun.plugins"
"""Entry points of installed packages: modules that call `register_loss` or `register_system` when imported."""


LOSSES = ("isotropy", "contrastive", "isotropy_form", "isotropy_transform", "isotropy_rows", "knots", "distance")
MODELS = ("system", "head", "activation")


def registered(kind: str) -> tuple[str, ...]:
    """Return the names that a setting of `ragcun.config` may have, read beside what they name."""
    load_installed()
    if kind in MODELS:
        from ragcun.models.encoder import SYSTEMS
        from ragcun.models.heads import ACTIVATIONS, HEADS

        named: dict[str, Iterable[str]] = {"system": SYSTEMS, "head": HEADS, "activation": ACTIVATIONS}
        return tuple(named[kind])
    from ragcun.losses.objective import CHOICES
    from ragcun.losses.registry import load_losses

    load_losses()
    return tuple(CHOICES[kind])


@functools.cache
def load_installed() -> None:
    """Import the plugins of installed packages, once."""
    for entry in importlib.metadata.entry_points(group=GROUP):
        entry.load()


def load_file(path: str | Path) -> None:
    """Import a user's Python file, which registers losses or systems; a file that was imported before is left alone.

    Raises:
        InputError: there is no such file.
    """
    file = Path(path).resolve()
    name = f"ragcun_plugin_{file.stem}"
    if getattr(sys.modules.get(name), "__file__", None) == str(file):
        return
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None or not file.is_file():
        raise InputError(f"{path}: no such Python file; --plugins takes files that register losses or systems")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


NAMES.update({kind: functools.partial(registered, kind) for kind in (*LOSSES, *MODELS)})
