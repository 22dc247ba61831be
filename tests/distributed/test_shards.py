"""Cutting a corpus into shards, pieces on disk, and merging."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragcun.distributed.merge import merge_results
from ragcun.distributed.pieces import (
    is_whole,
    owned_folder,
    read_array,
    read_found,
    require_same,
    write_found,
    write_matrix,
)
from ragcun.distributed.shards import Shard, cut_shards, texts_digest
from ragcun.errors import InputError
from ragcun.retrieval.search import top_k
from ragcun.retrieval.top_k import SearchResult

RECORD = {"model": "a", "texts": "b", "rows": 5, "dimension": 3}


@settings(deadline=None)
@given(rows=st.integers(1, 500), shards=st.integers(1, 20), block_rows=st.integers(1, 40))
def test_shards_are_whole_blocks_that_follow_each_other(rows, shards, block_rows):
    blocks = -(-rows // block_rows)
    if blocks < shards:
        with pytest.raises(ValueError, match=f"{blocks} blocks of {block_rows}.*not {shards}"):
            cut_shards(rows, shards, block_rows)
        return
    cut = cut_shards(rows, shards, block_rows)
    assert [row for shard in cut for row in range(shard.start, shard.stop)] == list(range(rows))
    assert [(shard.number, shard.of) for shard in cut] == [(n, shards) for n in range(1, shards + 1)]
    assert all(shard.start % block_rows == 0 and shard.rows > 0 for shard in cut)
    counts = [-(-shard.rows // block_rows) for shard in cut]
    assert max(counts) - min(counts) <= 1


def test_numbers_below_one_are_refused():
    for arguments in ((0, 1, 1), (1, 0, 1), (1, 1, 0)):
        with pytest.raises(ValueError, match="at least 1, got"):
            cut_shards(*arguments)


def test_the_digest_knows_order_and_bounds_of_texts():
    digests = {texts_digest(texts) for texts in (["ab", "c"], ["a", "bc"], ["c", "ab"], ["abc"], [], [""], ["", ""])}
    assert len(digests) == 7
    assert texts_digest(iter(["ab", "c"])) == texts_digest(["ab", "c"])


@settings(deadline=None)
@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    k=st.integers(1, 12),
    values=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_merged_shards_are_the_search_of_the_whole(counts, k, values, seed):
    """Few different vectors, so that most scores are equal; ties rank by a random order, also beyond a shard's end."""
    generator = np.random.default_rng(seed)
    documents = generator.integers(0, values, (sum(counts), 2)).astype(np.float32)
    queries = generator.integers(0, values, (4, 2)).astype(np.float32)
    order = generator.permutation(len(documents))
    ends = np.cumsum(counts)
    cut = [Shard(n + 1, len(counts), end - count, end) for n, (count, end) in enumerate(zip(counts, ends, strict=True))]
    parts = []
    for shard in cut:
        rows = slice(shard.start, shard.stop)
        found = top_k(queries, documents[rows], k, order=order[rows])
        parts.append(SearchResult(found.scores, found.indices + shard.start))
    merged, whole = merge_results(parts, k, order), top_k(queries, documents, k, order=order)
    np.testing.assert_array_equal(merged.indices, whole.indices)
    np.testing.assert_array_equal(merged.scores, whole.scores)


def test_results_that_do_not_fit_are_refused():
    order = np.arange(4)
    with pytest.raises(ValueError, match="at least 1 shard"):
        merge_results([], 2, order)
    with pytest.raises(ValueError, match="got 1 and 2"):
        merge_results([top_k(np.ones((n, 2)), np.ones((2, 2)), 2) for n in (1, 2)], 2, order)


def test_a_piece_is_whole_once_its_record_is_there(tmp_path):
    piece, matrix = tmp_path / "documents.npy", np.arange(15, dtype=np.float32).reshape(5, 3)
    assert not is_whole(piece, RECORD)
    write_matrix(piece, (matrix[rows] for rows in (slice(0, 4), slice(4, 5))), RECORD)
    assert is_whole(piece, RECORD)
    require_same(piece, RECORD)
    np.testing.assert_array_equal(read_array(piece), matrix)
    assert not is_whole(piece, {**RECORD, "model": "another"})
    with pytest.raises(InputError, match="model is 'a' there and 'another' now; name another --work_dir"):
        require_same(piece, {**RECORD, "model": "another"})
    piece.with_suffix(".json").unlink()
    assert not is_whole(piece, RECORD)
    require_same(piece, {**RECORD, "model": "another"})


def test_too_few_or_too_many_rows_leave_no_piece(tmp_path):
    piece = tmp_path / "documents.npy"
    for rows in (4, 6):
        with pytest.raises(ValueError, match=r"5|broadcast"):
            write_matrix(piece, [np.ones((rows, 3), dtype=np.float32)], RECORD)
    assert list(tmp_path.iterdir()) == []


def test_a_piece_that_was_cut_off_is_not_whole(tmp_path, caplog):
    piece = tmp_path / "documents.npy"
    write_matrix(piece, [np.ones((5, 3), dtype=np.float32)], RECORD)
    piece.write_bytes(piece.read_bytes()[:-4])
    assert not is_whole(piece, RECORD)
    assert "documents.npy is not whole" in caplog.text
    piece.unlink()
    assert not is_whole(piece, RECORD)


def test_what_replaces_a_piece_never_stands_beside_the_old_record(tmp_path):
    """Cut off between array and record, the array is of the new one: the old record must be gone by then."""
    piece = tmp_path / "queries.npy"
    write_matrix(piece, [np.ones((5, 3), dtype=np.float32)], RECORD)
    with pytest.raises(TypeError):
        write_matrix(piece, [np.zeros((5, 3), dtype=np.float32)], {**RECORD, "model": {"not": {1, 2}}})
    assert read_array(piece)[0, 0] == 0
    assert not is_whole(piece, RECORD)
    found = tmp_path / "found.npz"
    result = top_k(np.ones((1, 2)), np.ones((3, 2)), 2)
    write_found(found, result, RECORD)
    np.testing.assert_array_equal(read_found(found).indices, result.indices)
    with pytest.raises(TypeError):
        write_found(found, result, {"model": {1, 2}})
    assert not found.with_suffix(".json").exists()


def test_a_folder_has_one_owner_and_no_half_written_files(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / ".documents.npy.x.tmp").write_text("half")
    with owned_folder(folder):
        assert not list(folder.glob("*.tmp")) + list(folder.glob(".*.tmp"))
        with pytest.raises(InputError, match="another process works in"), owned_folder(folder):
            pass
        (folder / "kept.json").write_text(json.dumps({}))
    with owned_folder(folder):
        assert (folder / "kept.json").exists()
