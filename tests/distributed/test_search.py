"""A search in shards in one process: the same run for any number of shards, and what is not done again."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ragcun import IsotropicGaussianEncoder, TextBase
from ragcun.data.beir import Document, load_collection, write_collection
from ragcun.data.locate import CollectionFolder
from ragcun.distributed.cluster import run_here
from ragcun.distributed.pieces import read_array
from ragcun.distributed.search import search_collection
from ragcun.errors import InputError
from ragcun.retrieval.runs import read_run, write_run
from ragcun.retrieval.systems import EncodingOptions, open_system


def run_bytes(toy, search, runner=run_here):
    run, qrels = search_collection(toy, search, runner)
    assert run.keys() == qrels.keys()
    file = search.folder / "run.trec"
    write_run(file, run, "model")
    return file.read_bytes()


def vectors(folder):
    return np.concatenate([read_array(piece) for piece in sorted(folder.glob("documents-*.npy"))])


def stamps(folder, pattern):
    return {file.name: file.stat().st_mtime_ns for file in folder.glob(pattern)}


@pytest.fixture(scope="module")
def checkpoint(tiny_bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint") / "best_model"
    IsotropicGaussianEncoder(TextBase.load(tiny_bert, device="cpu"), output_dim=4, head="mlp").save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("kind", ["published", "checkpoint"])
def test_the_number_of_shards_changes_no_bit(toy, search_in, checkpoint, tmp_path, kind):
    runs, made = [], []
    for shards in (1, 3, 8):
        search = search_in(tmp_path / str(shards), shards)
        if kind == "checkpoint":
            search = replace(search, spec=replace(search.spec, name=checkpoint))
        runs.append(run_bytes(toy, search))
        made.append(vectors(search.folder))
        assert len(list(search.folder.glob("documents-*.npy"))) == shards
        assert not list(search.folder.glob("texts-*"))
    assert runs[0] == runs[1] == runs[2]
    assert made[0].shape == (120, 4 if kind == "checkpoint" else 16)
    np.testing.assert_array_equal(made[0], made[1])
    np.testing.assert_array_equal(made[0], made[2])


def test_scores_are_those_of_the_search_without_shards(toy, search_in, checkpoint, tmp_path):
    """float32 vectors of other batches are off by a few 1e-7 a dimension, so scores of 4 dimensions by far less than
    1e-5; the documents differ only where scores are that near to the last one's."""
    search = search_in(tmp_path / "work", 3)
    search = replace(search, spec=replace(search.spec, name=checkpoint))
    ours, _ = search_collection(toy, search, run_here)
    whole = open_system(checkpoint, EncodingOptions(device="cpu")).retriever.retrieve(toy.load(), 120)
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
        run, _ = search_collection(source, search_in(tmp_path / f"{shards}-{k}", shards, k=k), run_here)
        assert list(run["q"]) == copies[:k]


def test_a_document_of_the_querys_own_id_is_left_out(search_in, texts, tmp_path):
    documents = {f"d{row}": Document("", texts[row]) for row in range(40)}
    write_collection(tmp_path / "own", documents, {"d3": texts[3]}, {"test": {"d3": {"d4": 1}}})
    source = CollectionFolder("own", tmp_path / "own", "test")
    run, _ = search_collection(source, search_in(tmp_path / "work", 2, k=5), run_here)
    assert len(run["d3"]) == 5
    assert "d3" not in run["d3"]


def test_what_is_done_is_not_done_again(toy, search_in, tmp_path):
    search = search_in(tmp_path / "work", 4)
    first = run_bytes(toy, search)
    before = stamps(search.folder, "*.npy") | stamps(search.folder, "found-*")
    assert run_bytes(toy, search) == first
    assert stamps(search.folder, "*.npy") | stamps(search.folder, "found-*") == before
    (search.folder / "documents-00002-of-00004.json").unlink()
    (search.folder / "found-00003-of-00004.npz").unlink()
    assert run_bytes(toy, search) == first
    after = stamps(search.folder, "*.npy") | stamps(search.folder, "found-*.npz")
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"documents-00002-of-00004.npy", "found-00003-of-00004.npz"}


def test_a_shorter_list_searches_again_and_encodes_nothing(toy, search_in, tmp_path):
    search = search_in(tmp_path / "work", 3)
    longer = read_run_of(toy, search)
    before = stamps(search.folder, "documents-*.npy")
    shorter = read_run_of(toy, replace(search, k=4))
    assert {query: list(documents)[:4] for query, documents in longer.items()} == {
        query: list(documents) for query, documents in shorter.items()
    }
    assert read_run_of(toy, replace(search, distance="dot")) != longer
    assert stamps(search.folder, "documents-*.npy") == before


def read_run_of(toy, search):
    run_bytes(toy, search)
    return read_run(search.folder / "run.trec")


def test_other_queries_are_searched_for_with_the_same_vectors(toy, search_in, tmp_path):
    search = search_in(tmp_path / "work", 3)
    run_bytes(toy, search)
    before = stamps(search.folder, "documents-*.npy")
    dev = replace(toy, split="dev")
    there = run_bytes(dev, search)
    assert there == run_bytes(dev, search_in(tmp_path / "other", 1))
    assert stamps(search.folder, "documents-*.npy") == before


def test_vectors_of_something_else_are_refused_and_stay(toy, search_in, checkpoint, collection_folder, tmp_path):
    search = search_in(tmp_path / "work", 3)
    run_bytes(toy, search)
    before = stamps(search.folder, "documents-*")
    collection = load_collection(collection_folder)
    documents = collection.documents | {"d119": Document("", "word1 word2")}
    write_collection(tmp_path / "changed", documents, collection.queries, {"test": collection.qrels})
    with pytest.raises(InputError, match=r"documents-00003-of-00003.*texts is .*name another --work_dir"):
        search_collection(CollectionFolder("changed", tmp_path / "changed", "test"), search, run_here)
    with pytest.raises(InputError, match=r"documents-00001-of-00003.*model is"):
        search_collection(toy, replace(search, spec=replace(search.spec, name=checkpoint)), run_here)
    with pytest.raises(InputError, match="batch_size is 8 there and 4 now"):
        search_collection(toy, replace(search, spec=replace(search.spec, batch_size=4)), run_here)
    assert stamps(search.folder, "documents-*") == before


def test_more_shards_than_blocks_are_refused(toy, search_in, tmp_path):
    with pytest.raises(InputError, match="120 rows are 8 blocks of 16, which make at most 8, not 9; give fewer"):
        search_collection(toy, search_in(tmp_path / "work", 9), run_here)


KILLED = """
import os, signal, sys
from pathlib import Path
from ragcun.data.locate import CollectionFolder
from ragcun.distributed.cluster import run_here
from ragcun.distributed.model import ModelSpec
from ragcun.distributed.search import ShardedSearch, search_collection

def until_killed(chains):
    run_here(chains[:2])
    chains[2][0]()
    os.kill(os.getpid(), signal.SIGKILL)

toy, work, model = sys.argv[1:]
search = ShardedSearch(Path(work), ModelSpec(model, "cpu", block_rows=16, batch_size=8), 4, 10)
search_collection(CollectionFolder("toy", Path(toy), "test"), search, until_killed)
"""


def test_a_killed_search_goes_on_where_it_was(toy, search_in, tiny_bert, tmp_path):
    search = search_in(tmp_path / "work", 4)
    done = subprocess.run([sys.executable, "-c", KILLED, str(toy.path), str(search.folder), tiny_bert], check=False)
    assert done.returncode == -signal.SIGKILL
    before = stamps(search.folder, "*.npy") | stamps(search.folder, "found-*.npz")
    assert len([name for name in before if name.startswith("documents-")]) == 3
    assert len([name for name in before if name.startswith("found-")]) == 2
    again = run_bytes(toy, search)
    after = stamps(search.folder, "*.npy") | stamps(search.folder, "found-*.npz")
    assert {name: after[name] for name in before} == before
    assert again == run_bytes(toy, search_in(tmp_path / "whole", 1))


def test_texts_or_model_that_changed_in_between_are_refused(toy, search_in, checkpoint, tmp_path):
    def change_texts(chains):
        file = Path(chains[1][0].texts)
        file.write_text(file.read_text().replace("word", "sword"))
        run_here(chains)

    def change_model(chains):
        run_here([[replace(task, spec=replace(task.spec, name=checkpoint)) for task in chain[:1]] for chain in chains])

    with pytest.raises(InputError, match=r"texts-00002-of-00004.jsonl was changed"):
        search_collection(toy, search_in(tmp_path / "texts", 4), change_texts)
    with pytest.raises(InputError, match="is not the one that the search was started with"):
        search_collection(toy, search_in(tmp_path / "model", 4), change_model)
