"""A Ray of two workers, and the pieces of a small search."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ragcun.data.locate import CollectionFolder
from ragcun.distributed.cluster import RayRunner
from ragcun.distributed.model import ModelSpec
from ragcun.distributed.search import ShardedSearch

BLOCK_ROWS = 16
"""The toy collection's 120 documents are 8 blocks, the last of them half as long."""


@pytest.fixture(scope="module")
def on_ray() -> Iterator[RayRunner]:
    """Run tasks in a Ray of two workers, started once for a module."""
    pytest.importorskip("ray")
    with RayRunner(workers=2).connected():
        yield RayRunner(workers=2)


@pytest.fixture
def toy(collection_folder: Path) -> CollectionFolder:
    """The toy collection, not read yet."""
    return CollectionFolder("toy", collection_folder, "test")


@pytest.fixture
def search_in(tiny_bert: str) -> Callable[..., ShardedSearch]:
    """Describe a search of so many shards in a folder."""

    def make(folder: Path, shards: int = 1, **options: Any) -> ShardedSearch:
        spec = ModelSpec(tiny_bert, "cpu", block_rows=BLOCK_ROWS, batch_size=options.pop("batch_size", 8))
        return ShardedSearch(folder, spec, shards, **{"k": 10, **options})

    return make
