"""Finding a split of a data set, on the hub or in a folder with the hub's layout, and pinning its revision."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ragcun.errors import InputError

HINT = "give a name on the hub (owner/name), or a folder with .parquet or .jsonl files"
BUILDERS = {".parquet": "parquet", ".jsonl": "json"}
SPLIT_NAMES = ("train", "validation", "dev", "test")


@dataclass(frozen=True)
class HubSplit:
    """One split of a data set at one revision.

    Attributes:
        name: on the hub (owner/name), or a folder.
        subset: one of the sets that go by the same name, None where there is one only.
        split: train, validation and so on.
        revision: the commit on the hub; of a folder, a digest of its files' names and sizes.
        files: of a folder, in order; empty on the hub.
    """

    name: str
    subset: str | None
    split: str
    revision: str
    files: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes by name, files without their folder."""
        return {**asdict(self), "files": [Path(file).name for file in self.files]}

    def __str__(self) -> str:
        return " ".join(filter(None, (self.name, self.subset, self.split)))


def resolve_split(name: str, subset: str | None, split: str, revision: str | None = None) -> HubSplit:
    """Find a split and pin its revision, without reading any row.

    Raises:
        InputError: there is no such folder, data set or file, the hub cannot be reached, or `revision` is given and a
            folder's is another.
    """
    folder = Path(name)
    if folder.is_dir():
        return _local_split(folder, subset, split, revision)
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise InputError(f"no such folder: {name}; {HINT}")
    return HubSplit(name, subset, split, _hub_revision(name, revision))


def _hub_revision(name: str, revision: str | None) -> str:
    """Ask the hub for the commit, which says at once that a name is unknown or the hub out of reach."""
    import httpx2
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if constants.HF_HUB_OFFLINE:
        raise InputError(f"data set {name!r} is on the hub and HF_HUB_OFFLINE is set; unset it, or name a folder")
    try:
        sha = HfApi().dataset_info(name, revision=revision, timeout=10).sha
    except HFValidationError as error:
        raise InputError(f"{name!r} is neither a folder nor a hub name; {HINT}") from error
    except HfHubHTTPError as error:
        at = f" at revision {revision}" if revision else ""
        code = error.response.status_code
        raise InputError(f"the hub does not give the data set {name!r}{at} ({code}); {HINT}") from error
    except (OSError, httpx2.HTTPError) as error:
        raise InputError(f"the hub cannot be reached for the data set {name!r}; check the connection") from error
    return str(sha)


def _local_split(folder: Path, subset: str | None, split: str, revision: str | None) -> HubSplit:
    files = _local_files(folder / subset if subset else folder, split)
    facts = "".join(f"{file.name} {file.stat().st_size}\n" for file in files)
    found = hashlib.sha256(facts.encode()).hexdigest()
    if revision not in (None, found):
        raise InputError(f"{folder} holds other files than when the download began; start again with --overwrite")
    return HubSplit(str(folder), subset, split, found, tuple(str(file.resolve()) for file in files))


def _local_files(folder: Path, split: str) -> list[Path]:
    """Return the files of a split: ``<split>.parquet`` or ``<split>-*.parquet``, also of ``data/``, or .jsonl.

    Where no file is named after a split, all of them are the training split.
    """
    for place in (folder, folder / "data"):
        for suffix in BUILDERS:
            files = sorted(place.glob(f"*{suffix}"))
            named = [file for file in files if file.stem.split("-")[0] == split]
            unnamed = split == "train" and not any(file.stem.split("-")[0] in SPLIT_NAMES for file in files)
            if named or (files and unnamed):
                return named or files
    there = sorted(path.name for path in folder.glob("*"))[:10]
    raise InputError(
        f"{folder} has no {split}*.parquet or {split}*.jsonl; there is {', '.join(there) or 'nothing'}; name a folder "
        "in it with --subset, or another --split"
    )
