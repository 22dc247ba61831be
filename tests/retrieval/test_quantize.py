"""Truncated and quantised vectors, against references written by hand and by sentence-transformers."""

from __future__ import annotations

import numpy as np
import pytest
from sentence_transformers.util import quantize_embeddings

from ragcun.errors import InputError
from ragcun.retrieval.quantization import PRECISIONS, VectorFormat, restored, truncate


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


def test_int8_matches_a_reference_and_errs_by_half_a_step_at_most():
    documents = drawn(200, 9) * np.logspace(-3, 3, 9, dtype=np.float32)
    found = restored(documents, "int8")
    for column in range(9):
        values = [float(value) for value in documents[:, column]]
        low, step = min(values), (max(values) - min(values)) / 255
        assert np.abs(found[:, column] - values).max() <= 0.5 * step * (1 + 1e-3)
        exact = [low + (min(255, int((value - low) / step)) + 0.5) * step for value in values]
        assert np.mean(np.isclose(found[:, column], exact, atol=1e-3 * step)) > 0.97


def test_int8_restores_a_constant_dimension_and_a_single_document_exactly():
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
def test_rows_are_cut_and_normalised_where_all_had_length_one(dim):
    embeddings, other = drawn(40, 16, unit=True), drawn(40, 16)
    lengths = np.linalg.norm(embeddings[:, :dim], axis=1, keepdims=True)
    assert np.allclose(truncate(embeddings, dim), embeddings[:, :dim] / lengths, atol=1e-6)
    assert np.array_equal(truncate(other, dim), other[:, :dim])
    embeddings[7] *= 1.1
    assert np.array_equal(truncate(embeddings, dim), embeddings[:, :dim])
    assert truncate(embeddings, 16) is embeddings


def test_rows_of_zeros_stay_zeros():
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
