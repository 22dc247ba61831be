from dataclasses import replace

import numpy as np
import pytest
import torch

from ragcun import AsymmetricProjectionModel, EmbeddingCache, InputError, load_collection
from ragcun.embeddings.base import Base
from ragcun.embeddings.precomputed import VectorStore, check_vectors, read_vectors

DIM = 6


def vectors(seed, rows):
    return np.random.default_rng(seed).normal(size=(rows, DIM)).astype(np.float32)


@pytest.fixture
def store():
    return VectorStore([(["a", "b"], vectors(0, 2)), (["c", "a"], vectors(1, 2))], [(["a"], vectors(2, 1))])


@pytest.fixture
def folder(tmp_path, collection_folder):
    """Vectors of the toy collection, whose ids are in the reverse order of the collection's."""
    collection = load_collection(collection_folder, "test")
    for name, ids in (("documents", collection.documents), ("queries", collection.queries)):
        (tmp_path / f"{name}.txt").write_text("".join(f"{each}\n" for each in reversed(list(ids))))
        np.save(tmp_path / f"{name}.npy", vectors(len(ids), len(ids)))
    return tmp_path


def test_a_store_gathers_rows_as_of_one_matrix_and_knows_texts_by_role_and_the_first_of_a_name(store):
    parts = [vectors(0, 3), vectors(1, 5).astype(np.float64), vectors(2, 1)]
    whole = np.concatenate(parts).astype(np.float32)
    parted = VectorStore([("abc", parts[0]), ("defgh", parts[1])], [("a", parts[2])])
    for rows in (np.arange(9), np.array([8, 0, 3, 3, 7]), np.array([4, 5]), np.empty(0, dtype=np.int64)):
        assert parted[rows].dtype == np.float32
        np.testing.assert_array_equal(parted[rows], whole[rows])
    np.testing.assert_array_equal(store.encode(["c", "a"], "document"), [vectors(1, 2)[0], vectors(0, 2)[0]])
    np.testing.assert_array_equal(store.encode(["a"], "query"), vectors(2, 1))
    assert store.dimension == DIM
    with pytest.raises(InputError, match="no vector for 2 query texts, first 'b'"):
        store.rows(["a", "b", "c"], "query")


def test_the_fingerprint_follows_every_number_and_no_storage():
    def fingerprint(array):
        return VectorStore([(["a", "b"], array)], []).fingerprint

    changed = vectors(0, 2)
    changed[1, -1] = np.nextafter(changed[1, -1], np.float32(9))
    assert fingerprint(vectors(0, 2)) == fingerprint(np.asfortranarray(vectors(0, 2)).astype(np.float64))
    assert len({fingerprint(array) for array in (vectors(0, 2), changed, vectors(0, 2)[::-1])}) == 3


@pytest.mark.parametrize("normalize", [True, False])
def test_a_vector_base_passes_vectors_on(normalize):
    rows = torch.from_numpy(vectors(0, 4))
    base = Base(DIM, normalize)
    expected = rows / rows.norm(dim=1, keepdim=True) if normalize else rows
    torch.testing.assert_close(base(rows), expected)
    np.testing.assert_array_equal(base.untouched_array(rows.numpy()), rows)
    again = Base(**base.to_config())
    assert (again.dimension, again.normalize, again.fingerprint()) == (DIM, normalize, base.fingerprint())


def test_without_a_text_model_texts_are_refused(tmp_path):
    encoder = AsymmetricProjectionModel(Base(DIM), head="linear")
    for use in (
        lambda: encoder.encode_query("a text"),
        lambda: encoder.base.features(["a text"], "query"),
        lambda: encoder.base.checkpoint_activations(),
        lambda: encoder.to_sentence_transformer(),
        lambda: EmbeddingCache(encoder.base, tmp_path),
    ):
        with pytest.raises(InputError, match="no text model"):
            use()
    assert not list(tmp_path.iterdir())
    assert encoder.base.frozen
    with pytest.raises(InputError, match="cannot be trained"):
        encoder.freeze_base(False)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, 2.0], "shape"),
        (np.empty((0, 3)), "shape"),
        ([["a", "b"]], "real numbers"),
        ([[1 + 2j]], "real numbers"),
        ([[0.0], [np.nan]], "row 1 is not"),
        ([[1e300]], "row 0 is not"),
        ([[1.0, 2.0]], "length 1, got 2"),
    ],
)
def test_impossible_vectors_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        check_vectors(values, "v", 1 if "length" in message else None)


def test_all_kinds_of_numbers_become_float32():
    expected = np.array([[1, 2]], dtype=np.float32)
    for values in ([[1, 2]], expected.astype(np.float16), torch.tensor([[1, 2]], dtype=torch.bfloat16)):
        found = check_vectors(values, "v")
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("below", [False, True])
def test_a_folder_gives_the_vector_of_each_text_by_its_id(folder, collection_folder, tmp_path, below):
    collection = load_collection(collection_folder, "test")
    if below:
        (folder / "toy").mkdir()
        for path in [path for path in folder.iterdir() if path.is_file()]:
            path.rename(folder / "toy" / path.name)
    store = read_vectors(folder, [collection])
    texts = [document.content for document in collection.documents.values()]
    np.testing.assert_array_equal(store.encode(texts, "document"), vectors(len(texts), len(texts))[::-1])
    count = len(collection.queries)
    np.testing.assert_array_equal(store.encode(list(collection.queries.values()), "query"), vectors(count, count)[::-1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ids, numbers: (ids[1:], numbers), "119 ids, .*120 rows"),
        (lambda ids, numbers: (ids[1:], numbers[1:]), "lacks 1 of the 120 documents of toy, first 'd119'"),
        (lambda ids, numbers: ([*ids[:3], ids[1], *ids[4:]], numbers), "line 4: id 'd118' is also in line 2"),
        (lambda ids, numbers: ([*ids[:3], "", *ids[4:]], numbers), "line 4: there is no id"),
        (lambda ids, numbers: (ids, np.where(np.arange(120)[:, None] == 2, np.nan, numbers)), ".npy.* row 2 is not"),
        (lambda ids, numbers: (ids, np.tile(numbers, 2)), r"lengths \[6, 12\]"),
        (lambda ids, numbers: (ids, numbers.astype(object)), "documents.npy is not a .npy file of vectors"),
    ],
)
def test_wrong_ids_and_numbers_are_one_sentence(folder, collection_folder, change, message):
    ids, numbers = change((folder / "documents.txt").read_text().splitlines(), np.load(folder / "documents.npy"))
    (folder / "documents.txt").write_text("".join(f"{each}\n" for each in ids))
    np.save(folder / "documents.npy", numbers)
    with pytest.raises(InputError, match=message) as caught:
        read_vectors(folder, [load_collection(collection_folder, "test")])
    assert "\n" not in str(caught.value)


def test_damaged_and_missing_files_are_refused(folder, collection_folder):
    path, collection = folder / "documents.npy", load_collection(collection_folder, "test")
    headers = b"\r\0\n      {\n{} \n", b"\6\0\0\0\0\0\0{", b"\6\0\0\0\0'''"  # indented, with NUL, without an end
    for content in (path.read_bytes()[:-4], b"PK\3\4", *(b"\x93NUMPY\1\0" + header for header in headers)):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"documents.npy is not a .npy file of vectors"):
            read_vectors(folder, [collection])
    path.unlink()
    with pytest.raises(InputError, match=r"no such file: .*documents.npy"):
        read_vectors(folder, [collection])


def test_several_collections_need_folders_of_their_own_and_judged_queries_vectors(folder, collection_folder):
    collection = load_collection(collection_folder, "test")
    with pytest.raises(InputError, match="toy and other need a subfolder each"):
        read_vectors(folder, [collection, replace(collection, name="other")])
    with pytest.raises(InputError, match="no such folder"):
        read_vectors(folder / "nothing", [collection])
    with pytest.raises(InputError, match=r"queries.txt lacks 30 of the 30 queries of toy, first 'q0'"):
        read_vectors(folder, [load_collection(collection_folder, "train")])
