"""Small document vectors, against references by hand and by sentence-transformers, and the systems that search them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sentence_transformers.util import quantize_embeddings

from ragcun import InputError, IsotropicGaussianEncoder, TextBase, load_collection
from ragcun.config import DISTANCES
from ragcun.results import CollectionFacts, Results, Scores, SystemScores
from ragcun.retrieval.quantization import PRECISIONS, VectorFormat, restored, truncate
from ragcun.retrieval.search import id_order
from ragcun.retrieval.systems import EncodingOptions, open_system
from tests.retrieval.test_search import brute_force


def drawn(n, dim, seed=0, unit=False):
    rows = np.random.default_rng(seed).normal(0.1, 1.0, size=(n, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True) if unit else rows


@pytest.mark.parametrize("dim", [1, 7, 8, 9, 384])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_stored_vector_takes_the_bytes_that_are_said(dim, precision):
    """And what is searched has the codes that sentence-transformers gives the documents."""
    pytest.importorskip("sentence_transformers", "6", reason="its older codes are rounded otherwise")
    documents = drawn(120, dim)
    codes, found = quantize_embeddings(documents, precision), restored(documents, precision)
    assert codes.nbytes == 120 * VectorFormat(dim, precision).record()["bytes_per_vector"]
    assert (found.shape, found.dtype) == ((120, dim), np.float32)
    again = quantize_embeddings(found, precision, calibration_embeddings=documents)
    assert np.array_equal(again, codes)
    assert precision != "binary" or set(np.unique(found)) <= {-1, 1}


def test_int8_errs_by_half_a_step_at_most_and_not_for_a_constant_dimension_or_a_single_document():
    documents = drawn(200, 9) * np.logspace(-3, 3, 9, dtype=np.float32)
    found = restored(documents, "int8")
    for column in range(9):
        values = [float(value) for value in documents[:, column]]
        low, step = min(values), (max(values) - min(values)) / 255
        assert np.abs(found[:, column] - values).max() <= 0.5 * step * (1 + 1e-3)
        exact = [low + (min(255, int((value - low) / step)) + 0.5) * step for value in values]
        assert np.mean(np.isclose(found[:, column], exact, atol=1e-3 * step)) > 0.97
    documents = drawn(30, 4)
    documents[:, 2] = -0.37
    assert np.array_equal(restored(documents, "int8")[:, 2], documents[:, 2])
    assert np.array_equal(restored(documents[:1], "int8"), documents[:1])


@pytest.mark.parametrize("precision", ["int8", "binary"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_documents_that_cannot_be_quantised_are_refused(precision, value):
    documents = drawn(40, 10)
    before = documents.copy()
    restored(documents, precision)
    assert np.array_equal(documents, before), "quantising changes its argument"
    documents[3, 4] = value
    for wrong in (documents, documents[:0]):
        with pytest.raises(ValueError, match="finite and at least 1"):
            restored(wrong, precision)


@pytest.mark.parametrize("dim", [1, 5, 15])
def test_rows_are_cut_and_normalised_where_all_had_length_one_and_rows_of_zeros_stay_zeros(dim):
    embeddings, other = drawn(40, 16, unit=True), drawn(40, 16)
    lengths = np.linalg.norm(embeddings[:, :dim], axis=1, keepdims=True)
    assert np.allclose(truncate(embeddings, dim), embeddings[:, :dim] / lengths, atol=1e-6)
    assert np.array_equal(truncate(other, dim), other[:, :dim])
    embeddings[7] *= 1.1
    assert np.array_equal(truncate(embeddings, dim), embeddings[:, :dim])
    assert truncate(embeddings, 16) is embeddings
    embeddings = drawn(4, 6, unit=True)
    embeddings[1:3] = [[0] * 6, [0, 0, 1, 0, 0, 0]]
    assert np.allclose(np.linalg.norm(truncate(embeddings, 2), axis=1), [1, 0, 0, 1])
    assert not truncate(np.zeros((3, 6), dtype=np.float32), 2).any()


@pytest.mark.parametrize("dim", [0, -1, 7])
def test_impossible_cuts_are_refused(dim):
    with pytest.raises(InputError, match=f"--truncate_dim {dim} .* 6 dimensions"):
        VectorFormat(6, truncate_dim=dim)


def test_every_distance_ranks_signs_alike():
    queries, documents = drawn(20, 32), restored(drawn(60, 32, seed=1), "binary")
    euclidean = -np.linalg.norm(queries[:, None] - documents[None], axis=2)
    assert np.array_equal(np.argsort(-(queries @ documents.T), axis=1), np.argsort(-euclidean, axis=1))
    assert {VectorFormat(32, "binary").compared(distance) for distance in ("cosine", "euclidean", "dot")} == {"dot"}
    assert VectorFormat(32, "int8", 8).compared("euclidean") == "euclidean"


def test_a_format_says_what_is_stored():
    assert VectorFormat(384).record() == {"precision": "float32", "truncate_dim": None, "bytes_per_vector": 1536}
    cut = VectorFormat(384, "binary", 100)
    assert cut.record() == {"precision": "binary", "truncate_dim": 100, "bytes_per_vector": 13}
    assert VectorFormat(384, "int8", 384).record() == VectorFormat(384, "int8").record()
    assert VectorFormat(8).is_full
    assert VectorFormat(8, "float32", 8).is_full
    assert not any(form.is_full for form in (cut, VectorFormat(8, "int8"), VectorFormat(8, "float32", 7)))


@pytest.fixture(scope="module")
def checkpoint(tiny_bert, tmp_path_factory):
    """Folder of an encoder of 24 dimensions, over a base of 16."""
    folder = tmp_path_factory.mktemp("small") / "model"
    IsotropicGaussianEncoder(TextBase.load(tiny_bert, device="cpu"), output_dim=24, head="mlp").save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def collection(collection_folder):
    return load_collection(collection_folder)


@pytest.fixture
def options(cache_dir):
    return EncodingOptions(str(cache_dir), device="cpu")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("dim", [4, 3])
def test_search_equals_brute_force_on_the_restored_vectors(dense, collection, precision, distance, dim):
    retriever = replace(dense("x", 1), distance=distance, vectors=VectorFormat(4, precision, dim))
    run = retriever.retrieve(collection, 10)
    queries = truncate(retriever.encoder.encode_query(list(collection.queries.values())), dim)
    texts = [document.content for document in collection.documents.values()]
    documents = restored(truncate(retriever.encoder.encode_document(texts), dim), precision)
    compared = "dot" if precision == "binary" else distance
    order = id_order(list(collection.documents))
    scores, rows = brute_force(queries, documents, 10, compared, order)
    names = list(collection.documents)
    for query, expected, places in zip(run, scores, rows, strict=True):
        assert list(run[query]) == [names[place] for place in places]
        assert list(run[query].values()) == pytest.approx(expected.tolist(), rel=1e-6)


@pytest.mark.parametrize(("precision", "cut"), [("int8", None), ("binary", 5), ("float32", 9)])
def test_a_checkpoints_base_stays_untouched_and_is_made_small_beside(checkpoint, options, collection, precision, cut):
    before = open_system(checkpoint, options)
    small = open_system(checkpoint, replace(options, precision=precision, truncate_dim=cut))
    assert small.untouched_base.retrieve(collection, 20) == before.untouched_base.retrieve(collection, 20)
    assert small.untouched_base.size == {"precision": "float32", "truncate_dim": None, "bytes_per_vector": 64}
    assert small.retriever.size == VectorFormat(24, precision, cut).record()
    assert small.retriever.retrieve(collection, 20) != before.retriever.retrieve(collection, 20)
    (beside,) = small.companions
    assert beside.retriever.name == small.untouched_base.name
    assert beside.retriever.size == VectorFormat(16, precision, cut).record()
    assert beside.retriever.retrieve(collection, 20) != before.untouched_base.retrieve(collection, 20)
    assert (before.companions, before.trained, small.trained) == ((), True, True)


def test_a_base_with_fewer_dimensions_keeps_all_it_has_and_its_distance(checkpoint, options):
    assert open_system(checkpoint, replace(options, truncate_dim=20)).companions == ()
    (beside,) = open_system(checkpoint, replace(options, precision="int8", truncate_dim=20)).companions
    assert beside.retriever.size == {"precision": "int8", "truncate_dim": None, "bytes_per_vector": 16}
    system = open_system(checkpoint, replace(options, precision="int8"), "dot")
    assert system.distance == system.retriever.distance == "dot"
    assert system.untouched_base.distance == system.companions[0].retriever.distance == "cosine"


def test_a_published_model_made_small_stands_beside_itself(tiny_bert, options, collection):
    before = open_system(tiny_bert, options)
    small = open_system(tiny_bert, replace(options, precision="binary"))
    assert before.untouched_base is None
    assert small.untouched_base.retrieve(collection, 20) == before.retriever.retrieve(collection, 20)
    assert (small.companions, small.distance, small.trained) == ((), "dot", False)


@pytest.mark.parametrize("small", [{"precision": "int8"}, {"truncate_dim": 4}])
@pytest.mark.parametrize("spec", ["bm25", "earlier.json"])
def test_what_has_no_vectors_cannot_be_made_small(options, spec, small):
    with pytest.raises(InputError, match=f"--precision and --truncate_dim .*{spec}"):
        open_system(spec, replace(options, **small))


def test_an_earlier_result_keeps_its_size(tmp_path, options):
    scores, path = {"toy": Scores({"NDCG@10": 0.5})}, tmp_path / "earlier.json"
    size = {"precision": "int8", "truncate_dim": 8, "bytes_per_vector": 8}
    for given in (size, {}):
        model = SystemScores("m", scores, {"NDCG@10": 0.5}, **given)
        Results(model, "cosine", None, {}, {"toy": CollectionFacts(1, 1)}, {}).write(path)
        assert open_system(str(path), options).retriever.size == given


def test_a_trained_base_is_shown_as_it_was_before(tiny_bert, tmp_path, options):
    encoder = IsotropicGaussianEncoder(TextBase.load(tiny_bert, device="cpu"))
    encoder.base.trained = True
    with torch.no_grad():
        for parameter in encoder.base.text_model.parameters():
            parameter.add_(0.05)
    encoder.save_pretrained(tmp_path / "trained")
    system = open_system(str(tmp_path / "trained"), options)
    texts = ["word1 word2 word3", "word9 word7"]
    shown = system.untouched_base.encoder.encode_document(texts)
    before = TextBase.load(tiny_bert, device="cpu")
    np.testing.assert_allclose(shown, before.untouched_array(before.encode(texts, "document")), atol=1e-6)
    trained = system.retriever.encoder.encoder.base
    assert abs(shown - trained.untouched_array(trained.encode(texts, "document"))).max() > 1e-3
