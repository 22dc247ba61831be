"""Systems of which document vectors are made small: what is searched, and what stays as it was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ragcun import IsotropicGaussianEncoder, TextBase, load_collection
from ragcun.config import DISTANCES
from ragcun.errors import InputError
from ragcun.results import CollectionFacts, Results, Scores, SystemScores
from ragcun.retrieval.quantization import PRECISIONS, VectorFormat, restored, truncate
from ragcun.retrieval.search import id_order
from ragcun.retrieval.systems import EncodingOptions, open_system
from tests.retrieval.test_search import brute_force


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


def test_a_base_with_fewer_dimensions_keeps_all_it_has(checkpoint, options):
    assert open_system(checkpoint, replace(options, truncate_dim=20)).companions == ()
    (beside,) = open_system(checkpoint, replace(options, precision="int8", truncate_dim=20)).companions
    assert beside.retriever.size == {"precision": "int8", "truncate_dim": None, "bytes_per_vector": 16}


def test_a_published_model_made_small_stands_beside_itself(tiny_bert, options, collection):
    before = open_system(tiny_bert, options)
    small = open_system(tiny_bert, replace(options, precision="binary"))
    assert before.untouched_base is None
    assert small.untouched_base.retrieve(collection, 20) == before.retriever.retrieve(collection, 20)
    assert (small.companions, small.distance, small.trained) == ((), "dot", False)


def test_the_distance_given_is_the_models_alone(checkpoint, options):
    system = open_system(checkpoint, replace(options, precision="int8"), "dot")
    assert system.distance == system.retriever.distance == "dot"
    assert system.untouched_base.distance == system.companions[0].retriever.distance == "cosine"


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
