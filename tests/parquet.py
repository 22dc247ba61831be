"""Files as the hub's data sets have them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def write_split(folder: Path, rows: Sequence[dict[str, Any]], n_files: int = 1, split: str = "train") -> Path:
    """Write rows into parquet files named as the hub names them, in small row groups; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    schema = pa.Table.from_pylist(rows).schema
    for place in range(n_files):
        part = rows[len(rows) * place // n_files : len(rows) * (place + 1) // n_files]
        path = folder / f"{split}-{place:05d}-of-{n_files:05d}.parquet"
        pq.write_table(pa.Table.from_pylist(part, schema), path, row_group_size=4)
    return folder
