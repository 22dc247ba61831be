"""A small search in shards."""

import pytest

from ragcun.data.beir_sets import CollectionFolder
from ragcun.distributed.search import ShardedSearch

BLOCK_ROWS = 16
"""The toy collection's 120 documents are 8 blocks, the last of them half as long."""


@pytest.fixture
def toy(collection_folder):
    """The toy collection, not read yet."""
    return CollectionFolder("toy", collection_folder, "test")


@pytest.fixture
def search_in(tiny_bert):
    """Describe a search of so many shards in a folder."""

    def make(folder, shards=1, **options):
        small = {"k": 10, "device": "cpu", "block_rows": BLOCK_ROWS, "batch_size": 8}
        return ShardedSearch(folder, **{"model": tiny_bert, "shards": shards, **small, **options})

    return make
