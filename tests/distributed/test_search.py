"""A search in shards in one process: the same run for any number of shards, and what is not done again."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragcun import InputError, IsotropicGaussianEncoder, TextBase
from ragcun.data.beir import Document, load_collection, write_collection
from ragcun.data.beir_sets import CollectionFolder
from ragcun.distributed.search import ShardedSearch, cut_shards, run_here, search_collection
from ragcun.embeddings.joined import JoinedBase
from ragcun.embeddings.lexical import LexicalChannel
from ragcun.retrieval.systems import EncodingOptions, open_system


def run_of(toy, search, runner=run_here):
    """The run, queries and documents in order."""
    run, qrels = search_collection(toy, search, runner)
    assert run.keys() == qrels.keys()
    return [(query, list(documents.items())) for query, documents in run.items()]


def vectors(folder):
    return np.concatenate([np.load(file) for file in sorted(folder.glob("documents-*.npy"))])


def stamps(folder, pattern="*-of-*.np?"):
    return {file.name: file.stat().st_mtime_ns for file in folder.glob(pattern)}


@pytest.fixture(scope="module")
def joined(tiny_bert, texts, tmp_path_factory):
    """A checkpoint with a lexical channel."""
    folder = tmp_path_factory.mktemp("joined") / "best_model"
    base = JoinedBase(TextBase.load(tiny_bert, device="cpu"), LexicalChannel.fit(texts, 8), 0.3)
    IsotropicGaussianEncoder(base, output_dim=4).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("kind", ["untouched", "checkpoint", "joined"])
def test_the_number_of_shards_changes_no_bit(toy, search_in, checkpoint, joined, tmp_path, kind):
    runs, made = [], []
    model = {"checkpoint": {"model": str(checkpoint)}, "joined": {"model": joined}}.get(kind, {})
    for shards in (1, 3, 8):
        search = search_in(tmp_path / str(shards), shards, **model)
        runs.append(run_of(toy, search))
        made.append(vectors(search.folder))
        assert len(list(search.folder.glob("documents-*.npy"))) == shards
        assert not list(search.folder.glob("texts-*"))
    assert runs[0] == runs[1] == runs[2]
    assert made[0].shape == (120, 4 if kind == "joined" else 16)
    assert all((made[0] == other).all() for other in made)


def test_scores_are_those_of_the_search_without_shards(toy, search_in, checkpoint, tmp_path):
    """float32 vectors of other batches are off by a few 1e-7 a dimension, so scores of 16 dimensions by less than
    1e-5; the documents differ only where scores are that near to the last one's."""
    ours, _ = search_collection(toy, search_in(tmp_path / "work", 3, model=str(checkpoint)))
    whole = open_system(str(checkpoint), EncodingOptions(device="cpu")).retriever.retrieve(toy.load(), 120)
    for query, documents in ours.items():
        assert documents == pytest.approx({key: whole[query][key] for key in documents}, abs=1e-5)
        last = min(documents.values())
        assert all(key in documents for key, score in whole[query].items() if score > last + 1e-5)


def test_equal_documents_rank_by_id_across_shards(search_in, texts, tmp_path):
    """One text in every shard: its copies tie, and the first ids must win wherever their shard is."""
    ids = [f"d{number:02d}" for number in np.random.default_rng(0).permutation(64)]
    documents = {key: Document("", texts[0] if row % 8 == 0 else texts[row + 1]) for row, key in enumerate(ids)}
    write_collection(tmp_path / "same", documents, {"q": texts[0]}, {"test": {"q": {ids[0]: 1}}})
    source = CollectionFolder("same", tmp_path / "same", "test")
    copies = sorted(key for row, key in enumerate(ids) if row % 8 == 0)
    for shards, k in ((1, 5), (4, 5), (4, 1), (2, 8)):
        run, _ = search_collection(source, search_in(tmp_path / f"{shards}-{k}", shards, k=k))
        assert list(run["q"]) == copies[:k]


def test_finished_work_is_not_repeated(toy, search_in, tmp_path):
    search = search_in(tmp_path / "work", 4)
    first = run_of(toy, search)
    before = stamps(search.folder)
    assert run_of(toy, search, runner=None) == first
    (search.folder / "documents-00002-of-00004.json").unlink()
    (search.folder / "result-00003-of-00004.npz").unlink()
    assert run_of(toy, search) == first
    after = stamps(search.folder)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"documents-00002-of-00004.npy", "result-00003-of-00004.npz"}


def test_other_queries_depths_and_distances_use_the_same_vectors(toy, search_in, tmp_path):
    search = search_in(tmp_path / "work", 3)
    longer = run_of(toy, search)
    before = stamps(search.folder, "documents-*.npy")
    shorter = run_of(toy, replace(search, k=4))
    assert [(query, documents[:4]) for query, documents in longer] == shorter
    assert run_of(toy, replace(search, distance="dot")) != longer
    dev = replace(toy, split="dev")
    assert run_of(dev, search) == run_of(dev, search_in(tmp_path / "other", 1))
    assert stamps(search.folder, "documents-*.npy") == before


def test_vectors_of_something_else_are_refused_and_stay(toy, search_in, checkpoint, collection_folder, tmp_path):
    search = search_in(tmp_path / "work", 3)
    run_of(toy, search)
    before = stamps(search.folder, "documents-*")
    collection = load_collection(collection_folder)
    documents = collection.documents | {"d119": Document("", "word1 word2")}
    write_collection(tmp_path / "changed", documents, collection.queries, {"test": collection.qrels})
    with pytest.raises(InputError, match=r"documents-00003-of-00003.*texts is .*--work_dir"):
        search_collection(CollectionFolder("changed", tmp_path / "changed", "test"), search)
    with pytest.raises(InputError, match=r"documents-00001-of-00003.*model is"):
        search_collection(toy, replace(search, model=str(checkpoint)))
    with pytest.raises(InputError, match="batch_size is 8 there and 4 now"):
        search_collection(toy, replace(search, batch_size=4))
    assert stamps(search.folder, "documents-*") == before


def test_a_machine_with_another_model_is_refused(toy, search_in, checkpoint, tmp_path):
    def elsewhere(shards):
        run_here([replace(shard, search=replace(shard.search, model=str(checkpoint))) for shard in shards])

    with pytest.raises(InputError, match=f"{checkpoint}.*same files"):
        search_collection(toy, search_in(tmp_path / "model", 4), elsewhere)


def test_a_folder_has_one_owner_and_no_half_written_files(toy, search_in, tmp_path):
    search = search_in(tmp_path / "work", 2)
    search.folder.mkdir()
    (search.folder / ".documents.npy.x.tmp").write_text("half")

    def second_owner(shards):
        with pytest.raises(InputError, match="another process is using"):
            search_collection(toy, search)
        run_here(shards)

    run_of(toy, search, second_owner)
    assert not list(search.folder.glob(".*.tmp"))


@given(rows=st.integers(1, 500), shards=st.integers(1, 20), block_rows=st.integers(1, 40))
def test_shards_are_whole_blocks_that_follow_each_other(rows, shards, block_rows):
    blocks = -(-rows // block_rows)
    search = ShardedSearch(Path(), "model", shards, block_rows=block_rows)
    if blocks < shards:
        with pytest.raises(InputError, match=f"{blocks} blocks of {block_rows}.*not {shards}"):
            cut_shards(rows, search)
        return
    cut = cut_shards(rows, search)
    assert [row for start, stop in cut for row in range(start, stop)] == list(range(rows))
    assert len(cut) == shards
    assert all(start % block_rows == 0 for start, _ in cut)
    counts = [-(-(stop - start) // block_rows) for start, stop in cut]
    assert max(counts) - min(counts) <= 1
