"""A checkpoint folder: a sentence-transformers model, and beside it, in ``ragcun/``, what is needed to train on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ragcun.embeddings.base import Base
from ragcun.embeddings.encode import resolve_device
from ragcun.embeddings.hub import CONFIG, MODULES, load_sentence_transformer, model_folder, require_inside
from ragcun.embeddings.joined import JoinedBase, restore_pooling
from ragcun.embeddings.lexical import LexicalChannel
from ragcun.embeddings.target import Target, TargetBase
from ragcun.embeddings.text_base import TextBase
from ragcun.errors import InputError
from ragcun.io import as_json, file_digest, read_json, write_json
from ragcun.tensors import contiguous

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

FORMAT = 2
"""In format 1, which is read too, `CONFIG` has no checksum of itself."""
OWN_SUM = "description_blake2b"
TRAINED = "trained_parameters"
WEIGHTS = "ragcun/parts.safetensors"
CARD = "README.md"
DENSE, LEXICAL = "dense", "lexical"
"""Where the lexical channel is and, if it is of words, the text model."""


def seal_folder(folder: Path, parts: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write the weights beside the base, and the description with the checksum of every file in the folder."""
    (folder / WEIGHTS).parent.mkdir(exist_ok=True)
    save_file(contiguous(parts), folder / WEIGHTS)
    whole = as_json({"format": FORMAT, "files_blake2b": file_digests(folder), **description})
    write_json(folder / CONFIG, {**whole, OWN_SUM: description_digest(whole)})


def read_folder(
    folder: Path, device: str | None = None, cache: Path | None = None
) -> tuple[dict[str, Any], Base, dict[str, Tensor], torch.device]:
    """Read description, base, weights beside the base, and device of a checkpoint.

    Raises:
        InputError: the folder is missing, damaged, or holds files that are not its own.
        KeyError, TypeError, AttributeError, ValueError, OSError, SafetensorError: it is corrupt.
    """
    description = _checked_description(folder)
    parts, files = load_file(folder / WEIGHTS), description["files_blake2b"]
    for place in ("", f"{DENSE}/"):
        if f"{place}{MODULES}" in files:
            own = {name.removeprefix(place): digest for name, digest in files.items() if name.startswith(place)}
            base = _base(folder, _TextModel(folder, folder / place, own, device, cache), description["base"])
            return description, base, parts, base.settings.device
    return description, _base(folder, None, description["base"]), parts, torch.device(resolve_device(device))


def _checked_description(folder: Path) -> dict[str, Any]:
    """Return what `CONFIG` holds, after checking its checksum and those of the files."""
    if not folder.is_dir():
        raise InputError(f"no such checkpoint folder: {folder}; give the folder that holds modules.json")
    if not (folder / CONFIG).is_file():
        raise InputError(f"{folder} is not a ragcun checkpoint ({CONFIG} is missing); give a folder of ragcun train")
    description = read_json(folder / CONFIG)
    if description["format"] not in (1, FORMAT):
        raise InputError(f"{folder} has checkpoint format {description['format']}, this version reads {FORMAT}")
    signed = description["format"] == FORMAT or OWN_SUM in description
    if signed and description[OWN_SUM] != description_digest(description):
        raise InputError(f"{folder / CONFIG} does not match its own checksum; copy the checkpoint again")
    _check_files(folder, description["files_blake2b"])
    return description


@dataclass(frozen=True)
class _TextModel:
    checkpoint: Path
    folder: Path
    files: Mapping[str, str]  # digests
    device: str | None
    cache: Path | None

    def load(self) -> SentenceTransformer:
        return load_sentence_transformer(str(self.folder), str(self.checkpoint), self.device)

    def base(self, described: dict[str, Any], pieces: bool) -> TextBase:
        """Return the base that is described, which a channel of `pieces` may follow."""
        base = self._base(described, pieces)
        base.checkpoint = self.checkpoint
        return base

    def _base(self, described: dict[str, Any], pieces: bool) -> TextBase:

        def load() -> TextBase:
            model = self.load()
            if pieces:
                restore_pooling(model)
            return TextBase.from_config(model, described)

        if self.cache is None:
            return load()
        modules = read_json(self.folder / MODULES)[: described["modules"]]
        read = {"", *(module["path"].partition("/")[0] for module in modules)}
        files = {name: digest for name, digest in self.files.items() if _first_folder(name) in read}
        how = (self.cache, self.device, described["name"], described["normalize"])
        return TextBase.when_needed(load, [files, described, pieces], *how)


def _base(folder: Path, model: _TextModel | None, described: dict[str, Any], pieces: bool = False) -> Base:
    if "weight" in described:
        channel = LexicalChannel.load(folder / LEXICAL)
        dense = _base(folder, model, described["dense"], channel.analyser.pieces is not None)
        return JoinedBase(dense, channel, described["weight"], described["normalize"])
    if model is not None and "target" in described:
        whole = model.load()
        mapping: Any = whole[described["dense"]["modules"] + 1]
        dense = TextBase.from_config(whole, described["dense"])
        return TargetBase(dense, Target(**described["target"]), mapping, described["normalize"])
    return Base(**described) if model is None else model.base(described, pieces)


def _first_folder(name: str) -> str:
    return name.partition("/")[0] if "/" in name else ""


def is_checkpoint(path: str | Path) -> bool:
    """Whether a path is a folder that `seal_folder` completed, be it damaged."""
    return any((Path(path) / name).is_file() for name in (CONFIG, WEIGHTS))


def has_text_model(checkpoint: str | Path) -> bool:
    """Whether a checkpoint folder holds a text model; one of heads on vectors does not."""
    return any((Path(checkpoint) / place / MODULES).is_file() for place in ("", DENSE))


def trained_parameters(checkpoint: str | Path) -> int | None:
    """Return how many weights the training of a checkpoint changed; None where it is none, or does not say."""
    path = Path(checkpoint) / CONFIG
    count = read_json(path).get(TRAINED) if path.is_file() else None
    return count if isinstance(count, int) else None


def description_digest(description: Mapping[str, Any]) -> str:
    """Return the digest of what `CONFIG` holds, but for the digest itself, whatever its layout."""
    described = {key: value for key, value in description.items() if key != OWN_SUM}
    return hashlib.blake2b(json.dumps(described, sort_keys=True).encode(), digest_size=32).hexdigest()


def file_digests(folder: Path) -> dict[str, str]:
    """Return the digest of every file that decides what the model computes: all but the card and `CONFIG`."""
    return {name: file_digest(folder / name) for name in _files(folder) if name not in (CARD, CONFIG)}


def _files(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]


def _check_files(folder: Path, digests: Mapping[str, str]) -> None:
    require_inside(folder, digests)
    for name, digest in digests.items():
        if not (folder / name).is_file():
            raise InputError(f"checkpoint {folder} lacks {name}; {_remedy(folder, name)}")
        if file_digest(folder / name) != digest:
            raise InputError(f"{folder / name} does not match its checksum in {CONFIG}; {_remedy(folder, name)}")
    read = {"", *map(_first_folder, digests)}
    for name in _files(folder):
        path = PurePosixPath(name)
        known = name in digests or name == CONFIG or path.suffix == ".md" or path.name.startswith((".", "LICENSE"))
        if not known and _first_folder(name) in read:
            raise InputError(f"{folder / name} is not part of the checkpoint; move it away, or {_remedy(folder, name)}")


def _remedy(folder: Path, name: str) -> str:
    if name.startswith(("ragcun/", f"{LEXICAL}/")):
        return "copy the checkpoint again"
    plain = f"delete {folder / 'ragcun'} and evaluate {folder}"
    plain = f"evaluate {folder / DENSE}" if name.startswith(f"{DENSE}/") else plain
    return f"if sentence-transformers saved over it, {plain} as a plain model (--model); if not, copy it again"


def push_to_hub(folder: str | Path, name: str, private: bool = False) -> str:
    """Upload a checkpoint folder to the model hub as ``owner/name``, made where there is none; return its address.

    Raises:
        InputError: the folder is no intact checkpoint, or the hub does not take it.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    folder = Path(model_folder(str(folder)))
    http_errors: Any = HfHubHTTPError.__bases__  # those of the HTTP library that the client uses
    try:
        _checked_description(folder)
        address = str(HfApi().create_repo(name, private=private, exist_ok=True))
        HfApi().upload_folder(repo_id=name, folder_path=folder, commit_message="Upload a checkpoint of ragcun")
    except (*http_errors, HFValidationError, OSError, KeyError, TypeError) as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise InputError(f"{folder} is not uploaded to {name!r}: {why}; check the name and HF_TOKEN") from error
    return address
