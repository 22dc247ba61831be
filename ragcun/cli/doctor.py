"""What surrounds the work: ``ragcun doctor``, ``cache``, ``push`` and ``completion``."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import shutil
from collections.abc import Iterator
from dataclasses import MISSING
from pathlib import Path
from typing import Any

from ragcun.cli.parser import COMMON
from ragcun.config import CACHE_HELP
from ragcun.errors import InputError, version_clash
from ragcun.io import read_text
from ragcun.options import flag, settings_of

REQUIREMENT = re.compile(r"""([\w.-]+).*?(?:extra == ["']([\w-]+)["'])?$""")
DEVELOPMENT = ("dev", "docs", "all")


def doctor() -> tuple[str, dict[str, Any]]:
    """Return versions, device, native arithmetic, cache, and whether the model hub is used."""
    import torch
    from huggingface_hub import constants

    import ragcun
    from ragcun.embeddings.cache import cached_bases
    from ragcun.embeddings.encode import bfloat16_features, cache_folder, resolve_device, resolve_dtype

    device = torch.device(resolve_device(None))
    gpu = torch.cuda.get_device_name() if device.type == "cuda" else None
    cached = sum(each["bytes"] for each in cached_bases(cache_folder()))
    offline = constants.HF_HUB_OFFLINE
    figures = {
        "ragcun": ragcun.__version__,
        "python": f"{platform.python_version()} on {platform.platform()}",
        "device": gpu or f"cpu, {torch.get_num_threads()} threads",
        "native_arithmetic": ", ".join([resolve_dtype("auto", device), *([] if gpu else bfloat16_features())]),
        "cache": cache_folder(),
        "cache_size": f"{cached / 1e6:,.1f} MB",
        "model_hub": "offline (HF_HUB_OFFLINE is set)" if offline else f"online, {constants.ENDPOINT}",
        **dict(_packages()),
    }
    if clash := version_clash():
        figures["problem"] = clash
    return "\n".join(f"{name.replace('_', ' ')}: {value}" for name, value in figures.items()), figures


def _packages() -> Iterator[tuple[str, str]]:
    """Yield each package that ragcun or an extra for users needs, with its version."""
    try:
        needed = importlib.metadata.requires("ragcun") or []
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError("ragcun is not installed as a package; install it with: pip install .") from error
    for name, extra in (match.groups() for match in map(REQUIREMENT.match, needed) if match):
        if name != "ragcun" and extra not in DEVELOPMENT:
            try:
                yield name, importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                yield name, f"not installed: pip install 'ragcun[{extra}]'"


def size(cache_dir: Path | None = flag(None, CACHE_HELP)) -> tuple[str, dict[str, Any]]:
    """Return the texts and bytes in the cache of vectors, by base model."""
    return _shown(cache_dir, "", remove=False)


def clear(
    cache_dir: Path | None = flag(None, CACHE_HELP),
    yes: bool = flag(False, "delete; without it, show what would be deleted"),
) -> tuple[str, dict[str, Any]]:
    """Delete the cached vectors of every base model, or return what would be deleted."""
    return _shown(cache_dir, "deleted: " if yes else "would be deleted with --yes: ", remove=yes)


def _shown(place: Path | None, verb: str, remove: bool) -> tuple[str, dict[str, Any]]:
    """Describe the folders of a cache, each removed first where that is asked for."""
    from filelock import FileLock, Timeout

    from ragcun.embeddings.cache import LOCK, cached_bases
    from ragcun.embeddings.encode import cache_folder

    if place is not None and not place.is_dir():
        raise InputError(f"--cache_dir {place}: no such folder; give the --cache_dir of the other commands")
    place = cache_folder(place)
    lines, found = [], cached_bases(place)
    for each in found:
        folder = each["folder"]
        if remove:
            try:
                with FileLock(folder / LOCK, timeout=0):
                    shutil.rmtree(folder)
            except Timeout as error:
                raise InputError(f"{folder}: another process is encoding into it; wait until it is done") from error
        lines.append(f"{verb}{each['base']}, {each['texts']:,} texts, {each['bytes'] / 1e6:,.1f} MB, {folder}")
    if remove:
        for derived in ("models", "openvino"):  # descriptions of models, and converted ones
            shutil.rmtree(place / derived, ignore_errors=True)
    whole = sum(each["bytes"] for each in found)
    lines.append(f"{whole / 1e6:,.1f} MB in {place}{' before' if remove else ''}")
    return "\n".join(lines), {"folder": place, "bytes": whole, "deleted": remove, "bases": found}


def push(
    model_path: Path = flag(MISSING, "checkpoint folder"),
    repo: str = flag(MISSING, "repository on the hub (owner/name); created if missing"),
    private: bool = flag(False, "make a new repository private"),
) -> tuple[str, dict[str, Any]]:
    """Upload a checkpoint, and return its address."""
    from ragcun.models.checkpoint import push_to_hub

    url = push_to_hub(model_path, repo, private)
    return f"checkpoint: {url}", {"url": url}


def completion(
    shell: tuple[str] = flag(MISSING, "the shell", choices=("bash", "zsh"), metavar="SHELL", positional=True),
) -> str:
    """Return a script by which a shell completes commands and flags, and else names of files."""
    from jinja2 import Template

    from ragcun.cli.main import COMMANDS, load

    known: dict[str, list[str]] = {"": []}  # what may follow the start of a line
    for name in COMMANDS:
        group, *rest = name.split()
        known[""].append(group)
        known.setdefault(f"{group} ", []).extend(rest)
        settings = settings_of(load(name)[1]).items()
        flags = [one for one, setting in settings if not setting.field.metadata["positional"]]
        known[f"{name} "] = [f"--{one}" for one in (*flags, *COMMON, "config", "plugins")]
    script = Template(read_text(Path(__file__).with_name("completion.sh.j2")), trim_blocks=True)
    return script.render(program=shell[0], known=sorted(known.items(), reverse=True))
