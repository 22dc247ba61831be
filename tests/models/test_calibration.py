"""Calibration: the closed form against an independent one, its limits, and the encoder that computes it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import fractional_matrix_power
from sentence_transformers import SentenceTransformer

import ragcun
from ragcun.models import AsymmetricProjectionModel, IsotropicGaussianEncoder
from ragcun.models.base import TextBase
from ragcun.models.calibration import Calibration, calibrate
from ragcun.models.encoder import SYSTEMS, PairBatch, RetrievalEncoder

DIM = 16


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def anisotropic(rows: int, seed: int, mean: float = 0.5, dim: int = DIM) -> np.ndarray:
    """Vectors of any length whose spread falls from direction to direction, in a basis of their own."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(np.random.default_rng(99).standard_normal((dim, dim)))[0]
    return (rng.standard_normal((rows, dim)) * np.geomspace(1, 0.05, dim)) @ basis + mean


@pytest.fixture(scope="module")
def documents() -> np.ndarray:
    return anisotropic(400, 0)


@pytest.fixture(scope="module")
def queries() -> np.ndarray:
    return anisotropic(30, 1, mean=-0.3)


def centred(calibration: Calibration, documents: np.ndarray) -> np.ndarray:
    """Mapped documents before they are scaled to length 1."""
    return (unit(documents) - calibration.document_mean) @ calibration.weight.T


@pytest.mark.parametrize(("exponent", "eps"), [(0.15, 1e-3), (0.25, 3e-3), (0.5, 1e-6), (1.0, 0.1)])
def test_embeddings_match_the_matrix_power(
    documents: np.ndarray, queries: np.ndarray, exponent: float, eps: float
) -> None:
    """The fractional power here is scipy's, by a Schur decomposition; the covariance is a sum of outer products."""
    rows = unit(documents)
    mean = rows.mean(axis=0)
    covariance = sum(np.outer(row - mean, row - mean) for row in rows) / (len(rows) - 1)
    weight = fractional_matrix_power(covariance + eps * np.eye(DIM), -exponent)
    query_mean = (len(queries) * unit(queries).mean(axis=0) + 5 * mean) / (len(queries) + 5)
    calibration = ragcun.calibrate(documents, queries, exponent=exponent, eps=eps)
    np.testing.assert_allclose(calibration.embed_documents(documents), unit((rows - mean) @ weight), atol=1e-9)
    expected = unit((unit(queries) - query_mean) @ weight)
    np.testing.assert_allclose(calibration.embed_queries(queries), expected, atol=1e-9)
    ratio = calibration.weight / weight
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-6)


def test_full_exponent_whitens(documents: np.ndarray) -> None:
    calibration = calibrate(documents, exponent=0.5, eps=1e-12)
    covariance = np.cov(centred(calibration, documents).T)
    np.testing.assert_allclose(covariance, covariance[0, 0] * np.eye(DIM), atol=1e-6 * covariance[0, 0])


@pytest.mark.parametrize("output_dim", [None, 5])
@pytest.mark.parametrize("exponent", [0.0, 0.15, 0.5])
def test_the_variance_of_the_kept_directions_is_kept(
    documents: np.ndarray, exponent: float, output_dim: int | None
) -> None:
    calibration = calibrate(documents, exponent=exponent, output_dim=output_dim)
    variances = np.sort(np.linalg.eigvalsh(np.cov(unit(documents).T)))[::-1][:output_dim]
    assert np.trace(np.cov(centred(calibration, documents).T)) == pytest.approx(variances.sum(), rel=1e-9)


def test_exponent_zero_takes_off_means_alone(documents: np.ndarray, queries: np.ndarray) -> None:
    calibration = calibrate(documents, queries, exponent=0, shrinkage=0)
    np.testing.assert_allclose(calibration.weight, np.eye(DIM), atol=1e-12)
    rows = unit(documents)
    np.testing.assert_allclose(calibration.embed_documents(documents), unit(rows - rows.mean(axis=0)), atol=1e-9)
    rows = unit(queries)
    np.testing.assert_allclose(calibration.embed_queries(queries), unit(rows - rows.mean(axis=0)), atol=1e-9)


def test_the_mean_of_queries_goes_from_the_corpus_to_their_own(documents: np.ndarray, queries: np.ndarray) -> None:
    own = unit(queries).mean(axis=0)
    corpus = calibrate(documents).document_mean
    for none in (None, queries[:0]):
        np.testing.assert_array_equal(calibrate(documents, none).query_mean, corpus)
    np.testing.assert_array_equal(calibrate(documents, queries[:0], shrinkage=0).query_mean, corpus)
    np.testing.assert_allclose(calibrate(documents, queries, shrinkage=0).query_mean, own, atol=1e-12)
    np.testing.assert_allclose(calibrate(documents, queries, shrinkage=1e12).query_mean, corpus, atol=1e-9)
    half = calibrate(documents, queries, shrinkage=len(queries)).query_mean
    np.testing.assert_allclose(half, (own + corpus) / 2, atol=1e-12)
    many = np.tile(queries, (1000, 1))
    bound = 5 / (len(many) + 5) * np.abs(own - corpus).max()
    np.testing.assert_allclose(calibrate(documents, many).query_mean, own, atol=bound + 1e-12)


def test_fewer_dimensions_are_the_leading_directions(documents: np.ndarray, queries: np.ndarray) -> None:
    whole, cut = calibrate(documents, queries), calibrate(documents, queries, output_dim=4)
    variances, axes = np.linalg.eigh(np.cov(unit(documents).T))
    leading = axes[:, np.argsort(variances)[::-1][:4]]
    assert cut.weight.shape == (4, DIM)
    inner = centred(whole, documents) @ leading
    coordinates = centred(cut, documents)
    np.testing.assert_allclose(unit(inner) @ unit(inner).T, unit(coordinates) @ unit(coordinates).T, atol=1e-9)
    np.testing.assert_array_equal(cut.query_mean, whole.query_mean)
    full = calibrate(documents, queries, output_dim=DIM)
    np.testing.assert_array_equal(full.weight, whole.weight)


def test_lengths_of_vectors_do_not_matter(documents: np.ndarray, queries: np.ndarray) -> None:
    scales = np.random.default_rng(3).uniform(0.1, 10, (len(documents), 1))
    expected, found = calibrate(documents, queries), calibrate(documents * scales, queries * 7)
    np.testing.assert_allclose(found.weight, expected.weight, atol=1e-9)
    np.testing.assert_allclose(found.query_mean, expected.query_mean, atol=1e-12)


def test_embeddings_do_not_depend_on_the_basis(documents: np.ndarray, queries: np.ndarray) -> None:
    rotation = np.linalg.qr(np.random.default_rng(4).standard_normal((DIM, DIM)))[0]
    plain, turned = calibrate(documents, queries), calibrate(documents @ rotation, queries @ rotation)
    found = turned.embed_queries(queries @ rotation)
    np.testing.assert_allclose(found, plain.embed_queries(queries) @ rotation, atol=1e-9)


def test_fewer_documents_than_dimensions_give_finite_maps() -> None:
    calibration = calibrate(anisotropic(3, 0))
    assert np.isfinite(calibration.weight).all()
    np.testing.assert_allclose(np.linalg.norm(calibration.embed_documents(anisotropic(3, 0)), axis=1), 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"exponent": -0.1}, "exponent must be 0 to 1, got -0.1"),
        ({"exponent": float("nan")}, "exponent must be"),
        ({"eps": 0.0}, "eps must be at least"),
        ({"eps": float("inf")}, "eps must be at least"),
        ({"shrinkage": -1.0}, "shrinkage must be at least 0 and finite, got -1.0"),
        ({"shrinkage": float("nan")}, "shrinkage must be"),
        ({"output_dim": 17}, "output_dim must be 1 to 16"),
        ({"output_dim": 0}, "output_dim must be 1 to 16"),
        ({"query_vectors": np.ones((3, 15))}, "query_vectors have length 15, document_vectors have 16"),
        ({"query_vectors": np.full((3, 16), np.inf)}, "query_vectors must be finite, row 0 is not"),
        ({"query_vectors": np.ones(16)}, r"query_vectors must have the shape \(n, dim\)"),
        ({"document_vectors": np.ones((1, 16))}, "at least 2 vectors, got 1"),
        ({"document_vectors": np.ones((4, 16))}, "all the same"),
        ({"document_vectors": np.ones(16)}, r"document_vectors must have the shape \(n, dim\)"),
        ({"document_vectors": np.diag([1.0, 1.0, np.nan, 1.0])}, "document_vectors must be finite, row 2 is not"),
    ],
)
def test_impossible_calibrations(documents: np.ndarray, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        calibrate(**({"document_vectors": documents} | arguments))  # type: ignore[arg-type]


@pytest.mark.parametrize("output_dim", [None, 6])
def test_the_encoder_is_the_calibration_in_and_out_of_ragcun(
    tiny_bert: str, texts: list[str], tmp_path: object, output_dim: int | None
) -> None:
    base = TextBase.load(tiny_bert, device="cpu")
    documents, queries = base.encode(texts[:200], "document"), base.encode(texts[200:230], "query")
    calibration = calibrate(documents, queries, output_dim=output_dim)
    encoder = calibration.encoder(base)
    assert isinstance(encoder, AsymmetricProjectionModel)
    expected = calibration.embed_queries(queries), calibration.embed_documents(queries)
    assert np.abs(expected[0] - expected[1]).max() > 1e-2
    encoder.save_pretrained(f"{tmp_path}/model")
    again = RetrievalEncoder.from_pretrained(f"{tmp_path}/model", device="cpu")
    assert again.to_config() == encoder.to_config()
    for model in (encoder, again, SentenceTransformer(f"{tmp_path}/model", device="cpu")):
        np.testing.assert_allclose(model.encode_query(texts[200:230]), expected[0], atol=2e-5)
        np.testing.assert_allclose(model.encode_document(texts[200:230]), expected[1], atol=2e-5)


def test_an_encoder_needs_the_base_that_was_calibrated(tiny_bert: str) -> None:
    base = TextBase.load(tiny_bert, normalize=False, device="cpu")
    with pytest.raises(ValueError, match="normalize=True"):
        calibrate(anisotropic(20, 0)).encoder(base)
    with pytest.raises(ValueError, match="of length 8, the base gives 16"):
        calibrate(anisotropic(20, 0, dim=8)).encoder(base)


@pytest.mark.parametrize("system", ["isotropic_gaussian", "asymmetric"])
def test_normalised_output_has_length_one_everywhere(tiny_bert: str, system: str, tmp_path: object) -> None:
    base = TextBase.load(tiny_bert, device="cpu")
    encoder = SYSTEMS[system](base, output_dim=7, head="mlp", normalize_output=True).eval()  # type: ignore[call-arg]
    vectors = [torch.from_numpy(anisotropic(6, seed)).float() for seed in range(3)]
    views = encoder(PairBatch(*vectors))
    torch.testing.assert_close(views.query, encoder.embed_query(base(vectors[0])))
    torch.testing.assert_close(views.positive, encoder.embed_document(base(vectors[1])))
    torch.testing.assert_close(views.negative, encoder.embed_document(base(vectors[2])))
    for shown in (views.query, views.positive, views.negative):
        torch.testing.assert_close(shown.norm(dim=1), torch.ones(6))
    encoder.save_pretrained(f"{tmp_path}/model")
    plain = SentenceTransformer(f"{tmp_path}/model", device="cpu")
    np.testing.assert_allclose(plain.encode_query(["word1 word2"]), encoder.encode_query(["word1 word2"]), atol=1e-5)


@pytest.mark.parametrize("system", SYSTEMS)
def test_normalised_output_and_a_predictor_do_not_go_together(tiny_bert: str, system: str) -> None:
    with pytest.raises(ValueError, match="does not go with a predictor"):
        SYSTEMS[system](tiny_bert, use_predictor=True, normalize_output=True)  # type: ignore[call-arg, arg-type]


def test_embeddings_stay_unnormalised_by_default(tiny_bert: str) -> None:
    encoder = IsotropicGaussianEncoder(TextBase.load(tiny_bert, device="cpu"), head="mlp")
    assert not np.allclose(np.linalg.norm(encoder.encode_query(["word1", "word2 word3"]), axis=1), 1, atol=1e-3)
