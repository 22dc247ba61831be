"""Splits of the hub's data sets, or of a folder with the hub's layout, streamed by `datasets`; and their outputs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragcun.errors import InputError
from ragcun.io import file_digest, read_json, write_json

if TYPE_CHECKING:
    from datasets import IterableDataset

FORMAT = 2
HINT = "give a name on the hub (owner/name), or a folder with .parquet or .jsonl files"


def open_rows(
    name: str, subset: str | None, split: str, revision: str | None = None, seed: int | None = None
) -> RowStream:
    """Open a split for streaming; no code of the data set is run.

    Args:
        name: owner/name on the hub, or a folder.
        subset: the configuration, or a folder in the folder; None where there is only one.
        split: train, validation and so on.
        revision: commit, branch or tag on the hub; None takes the newest. It is pinned to its commit.
        seed: shuffles the order of the split's files; None keeps it.

    Raises:
        InputError: the data set, subset or split does not exist, or the hub cannot be reached.
    """
    folder = Path(name)
    if folder.is_dir():
        place = {"data_dir": subset} if subset and (folder / subset).is_dir() else {"name": subset}
    elif name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise InputError(f"no such folder: {name}; {HINT}")
    else:
        revision = hub_revision(name, revision)
        place = {"name": subset, "revision": revision}
    source = {"name": name, "subset": subset, "split": split, "revision": revision}
    rows = _loaded(source, place)
    # a buffer of one row of one file: files are shuffled, the rows of a file are not
    return RowStream(rows if seed is None else rows.shuffle(seed, buffer_size=1, max_buffer_input_shards=1), source)


def hub_revision(name: str, revision: str | None = None) -> str:
    """Return the commit of a data set's revision.

    Raises:
        InputError: there is no such data set or revision, or the hub cannot be reached.
    """
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        return str(HfApi().dataset_info(name, revision=revision, timeout=10).sha)
    except HFValidationError as error:
        raise InputError(f"{name!r} is neither a folder nor a hub name; {HINT}") from error
    except OfflineModeIsEnabled as error:
        raise InputError(f"{name!r} is on the hub and HF_HUB_OFFLINE is set; unset it, or name a folder") from error
    except HfHubHTTPError as error:
        at = f" at revision {revision}" if revision else ""
        status = error.response.status_code
        raise InputError(f"the hub does not give the data set {name!r}{at} ({status}); {HINT}") from error
    except (OSError, httpx2.HTTPError) as error:
        raise InputError(f"the hub cannot be reached for the data set {name!r}; check the connection") from error


def _loaded(source: Mapping[str, Any], place: Mapping[str, Any]) -> IterableDataset:
    from datasets import load_dataset

    try:
        return load_dataset(source["name"], split=source["split"], streaming=True, **place)  # nosec B615
    except hub_errors() as error:
        raise InputError(f"cannot open {_label(source)}: {_reason(error)}; check --subset and --split") from error


def hub_errors() -> tuple[type[Exception], ...]:
    """Return what `datasets` raises for data that is absent, damaged or out of reach."""
    import httpx2
    from datasets.exceptions import DatasetsError
    from pyarrow import ArrowException  # type: ignore[import-untyped]

    return OSError, ValueError, ArrowException, DatasetsError, httpx2.HTTPError


class RowStream:
    """The rows of a split.

    Attributes:
        source: name, subset, split and revision.
        columns: the fields of a row.
    """

    def __init__(self, rows: IterableDataset, source: Mapping[str, Any]) -> None:
        self.source = source
        self._rows = rows

    def __str__(self) -> str:
        return _label(self.source)

    @property
    def columns(self) -> list[str]:
        """The fields of a row."""
        return list(self._rows.column_names or next(self._read(self._rows.take(1)), {}))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self._read(self._rows)

    def _read(self, rows: IterableDataset) -> Iterator[dict[str, Any]]:
        try:
            yield from rows
        except hub_errors() as error:
            raise InputError(
                f"{self} cannot be read on ({_reason(error)}); check the connection and give the same command again"
            ) from error

    def wrong_columns(self, expected: str) -> InputError:
        """Return the error that the columns are others than those expected."""
        there = ", ".join(self.columns)
        return InputError(f"{self} has the columns {there}; expected: {expected}; name another --subset or --source")


def _label(source: Mapping[str, Any]) -> str:
    return " ".join(filter(None, (source["name"], source["subset"], source["split"])))


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


@dataclass(frozen=True)
class Download:
    """The output files of a download, each whole or absent; it is complete when its manifest is there.

    Attributes:
        manifest: the file that says what the others are; it is written last.
        files: the others, some of which may stay absent.
        settings: what the files follow from.
    """

    manifest: Path
    files: Sequence[Path]
    settings: Mapping[str, Any]

    def is_complete(self, resume: bool, overwrite: bool) -> bool:
        """Return whether there is nothing to do: `resume` is set and the download is complete.

        Raises:
            InputError: files are in the way, or the complete download was made with other settings.
        """
        there = [file for file in (*self.files, self.manifest) if file.exists()]
        if overwrite or not there:
            return False
        before = read_json(self.manifest) if resume and self.manifest.exists() else None
        if not isinstance(before, dict) or not {"settings", "files"} <= before.keys():
            raise InputError(f"{there[0]} is there already; name another output, or give --overwrite (--resume)")
        for name, value in json.loads(json.dumps(self.settings)).items():
            if before["settings"].get(name) != value:
                raise InputError(
                    f"{self.manifest} is of a download with {name} {before['settings'].get(name)!r}, now it is "
                    f"{value!r}; give the same settings, another output, or --overwrite"
                )
        sizes = {self.manifest.parent / name: facts["bytes"] for name, facts in before["files"].items()}
        if not all(path.exists() and path.stat().st_size == size for path, size in sizes.items()):
            names = ", ".join(path.name for path in sizes)
            raise InputError(f"{self.manifest}: not all of {names} have the sizes that it says; give --overwrite")
        return True

    def write_manifest(self, source: Mapping[str, Any], counts: Mapping[str, int], written: Sequence[Path]) -> None:
        """Write where the rows come from and what each written file holds."""
        facts = {path.name: {"bytes": path.stat().st_size, "blake2b": file_digest(path)} for path in written}
        about = {"format": FORMAT, "source": dict(source), "settings": self.settings, "counts": dict(counts)}
        write_json(self.manifest, {**about, "files": facts})
