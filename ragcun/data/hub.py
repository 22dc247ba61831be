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


def hub_errors() -> tuple[type[Exception], ...]:
    """Return what `datasets` and the hub's client raise for data that is absent, damaged or out of reach."""
    import httpx2
    from datasets.exceptions import DatasetsError
    from pyarrow import ArrowException  # type: ignore[import-untyped]

    return OSError, ValueError, ArrowException, DatasetsError, httpx2.HTTPError


def open_rows(
    name: str, subset: str | None, split: str, revision: str | None = None, seed: int | None = None
) -> RowStream:
    """Open a split of a data set of the hub (owner/name) or a folder for streaming; none of its code is run.

    `subset` is the configuration or a folder in the folder, None where there is only one. The revision (commit, branch
    or tag; None takes the newest) is pinned to its commit. A seed shuffles the order of the split's files.

    Raises:
        InputError: the data set, subset or split does not exist, or the hub cannot be reached.
    """
    from datasets import load_dataset
    from huggingface_hub import HfApi

    folder = Path(name)
    source = {"name": name, "subset": subset, "split": split, "revision": revision}
    if not folder.is_dir() and (name.startswith((".", "/", "~")) or name.count("/") != 1):
        raise InputError(f"no such folder: {name}; give owner/name on the hub, or a folder of .parquet or .jsonl files")
    try:
        if not folder.is_dir():
            source["revision"] = HfApi().dataset_info(name, revision=revision, timeout=10).sha
            place = {"name": subset, "revision": source["revision"]}
        else:
            place = {"data_dir": subset} if subset and (folder / subset).is_dir() else {"name": subset}
        rows = load_dataset(name, split=split, streaming=True, **place)  # nosec B615
    except hub_errors() as error:
        advice = "check the name, --subset, --split, --revision and the connection"
        raise InputError(f"cannot open {_label(source)}: {_reason(error)}; {advice}") from error
    # a buffer of one row of one file: files are shuffled, the rows of a file are not
    return RowStream(rows if seed is None else rows.shuffle(seed, buffer_size=1, max_buffer_input_shards=1), source)


@dataclass(frozen=True)
class RowStream:
    """The rows of a split; `source` is its name, subset, split and revision."""

    stream: IterableDataset
    source: Mapping[str, Any]

    def __str__(self) -> str:
        return _label(self.source)

    @property
    def columns(self) -> list[str]:
        """The fields of a row."""
        return list(self.stream.column_names or next(self._read(self.stream.take(1)), {}))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self._read(self.stream)

    def _read(self, rows: IterableDataset) -> Iterator[dict[str, Any]]:
        try:
            yield from rows
        except hub_errors() as error:
            advice = "check the connection and give the same command again"
            raise InputError(f"{self} cannot be read on ({_reason(error)}); {advice}") from error

    def wrong_columns(self, expected: str) -> InputError:
        """Return the error that the columns are others than those expected."""
        there = ", ".join(self.columns)
        return InputError(f"{self} has the columns {there}; expected: {expected}; name another --subset or --source")


def _label(source: Mapping[str, Any]) -> str:
    return " ".join(filter(None, source.values()))


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


@dataclass(frozen=True)
class Download:
    """The output files of a download; it is complete when its manifest, which is written last, is there."""

    manifest: Path
    files: Sequence[Path]  # the others, some of which may stay absent
    settings: Mapping[str, Any]  # what the files follow from

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
            other = before["settings"].get(name)
            if other != value:
                problem = f"{self.manifest} is of a download with {name} {other!r}, now it is {value!r}"
                raise InputError(f"{problem}; give the same settings, another output, or --overwrite")
        for name, facts in before["files"].items():
            path = self.manifest.parent / name
            if not path.exists() or path.stat().st_size != facts["bytes"]:
                raise InputError(f"{path} has not the size that {self.manifest.name} says; give --overwrite")
        return True

    def write_manifest(self, source: Mapping[str, Any], counts: Mapping[str, int], written: Sequence[Path]) -> None:
        """Write where the rows come from and what each written file holds."""
        facts = {path.name: {"bytes": path.stat().st_size, "blake2b": file_digest(path)} for path in written}
        about = {"format": FORMAT, "source": dict(source), "settings": self.settings, "counts": dict(counts)}
        write_json(self.manifest, {**about, "files": facts})
