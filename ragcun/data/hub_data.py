"""Splits of data sets read row by row, from any place in them."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ragcun.data.hub_split import BUILDERS, HubSplit
from ragcun.errors import InputError

if TYPE_CHECKING:
    from datasets import IterableDataset


class BrokenStreamError(InputError):
    """The source stopped before its end; the rows before that are good."""


def open_rows(source: HubSplit, shuffle_files: int | None = None) -> RowStream:
    """Open a split for reading; no code of the data set is run.

    Args:
        source: the split.
        shuffle_files: seed of the order of its files; None keeps theirs.

    Raises:
        InputError: the subset or split does not exist, or its files cannot be read.
    """
    import httpx2
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:  # bandit asks for a revision: files have none, and of the hub it is in `where`
        if source.files:
            files = {source.split: [glob.escape(file) for file in source.files]}
            builder = BUILDERS[Path(source.files[0]).suffix]
            dataset = load_dataset(builder, data_files=files, split=source.split, streaming=True)  # nosec B615
        else:
            where = {"revision": source.revision, "split": source.split}
            dataset = load_dataset(source.name, source.subset, streaming=True, **where)  # nosec B615
    except (OSError, ValueError, DatasetsError, httpx2.HTTPError) as error:
        raise InputError(f"cannot open {source}: {_reason(error)}; check --subset and --split") from error
    return RowStream(dataset, source, shuffle_files)


class RowStream:
    """The rows of a split, from its beginning or from a place that `state_dict` returned.

    Attributes:
        source: the split.
        columns: the fields of a row.
    """

    def __init__(self, dataset: IterableDataset, source: HubSplit, shuffle_files: int | None = None) -> None:
        self.source = source
        n_files = dataset.num_shards
        order = range(n_files) if shuffle_files is None else np.random.default_rng(shuffle_files).permutation(n_files)
        self._files = [dataset.shard(n_files, int(place), contiguous=True) for place in order]
        self._place = 0
        self.columns: list[str] = list(dataset.column_names or self._first_row(dataset))

    def _first_row(self, dataset: IterableDataset) -> Mapping[str, Any]:
        for row in self._guarded(dataset.take(1)):
            return row
        raise InputError(f"{self.source} has no rows")

    def state_dict(self) -> dict[str, Any]:
        """Return the place after the last row that was given out, as JSON can hold it."""
        return {"file": self._place, "stream": self._files[self._place].state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a place; what lies before it in its file may be transferred again."""
        self._place = state["file"]
        self._files[self._place].load_state_dict(state["stream"])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the rows after the place.

        Raises:
            BrokenStreamError: the source fails.
        """
        while True:
            yield from self._guarded(self._files[self._place])
            if self._place == len(self._files) - 1:
                return
            self._place += 1

    def _guarded(self, rows: IterableDataset) -> Iterator[dict[str, Any]]:
        import httpx2
        from datasets.exceptions import DatasetsError
        from pyarrow import ArrowException  # type: ignore[import-untyped]

        try:
            yield from rows
        except (OSError, ValueError, ArrowException, DatasetsError, httpx2.HTTPError) as error:
            raise BrokenStreamError(
                f"{self.source} cannot be read on ({_reason(error)}); give the same command again to go on from there"
            ) from error


def wrong_columns(stream: RowStream, needed: str) -> InputError:
    """Return the error that a split has not the columns that are needed; those that it has are named."""
    there = ", ".join(stream.columns)
    return InputError(f"{stream.source} has the columns {there}; expected: {needed}; name another --subset or --source")


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
