"""Soft whitening: the closed form against an independent one, its limits, and the encoder that computes it."""

import numpy as np
import pytest
from scipy.linalg import fractional_matrix_power
from sentence_transformers import SentenceTransformer

import ragcun
from ragcun import AsymmetricProjectionModel, Calibration, RetrievalEncoder, TextBase, calibrate
from tests.models.helpers import unit

DIM = 16


def anisotropic(rows: int, seed: int, mean: float = 0.5, dim: int = DIM) -> np.ndarray:
    """Vectors of any length whose spread falls from direction to direction, in a basis of their own."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(np.random.default_rng(99).standard_normal((dim, dim)))[0]
    return (rng.standard_normal((rows, dim)) * np.geomspace(1, 0.05, dim)) @ basis + mean


@pytest.fixture(scope="module")
def documents():
    return anisotropic(400, 0)


@pytest.fixture(scope="module")
def queries():
    return anisotropic(30, 1, mean=-0.3)


def mapped(whitening: Calibration, documents: np.ndarray) -> np.ndarray:
    """Mapped documents before they are scaled to length 1."""
    return unit(documents) @ whitening.weight.T


@pytest.mark.parametrize(
    ("exponent", "eps", "shrinkage"), [(0.15, 1e-3, 5), (0.25, 3e-3, 30), (0.5, 1e-6, 0), (1.0, 0.1, 1e12)]
)
def test_embeddings_match_the_matrix_power(documents, queries, exponent, eps, shrinkage):
    """The fractional power here is scipy's, by a Schur decomposition; covariances are sums of outer products."""
    rows, asked = unit(documents), unit(queries)
    mean, query_mean = rows.mean(axis=0), asked.mean(axis=0)
    covariance = sum(np.outer(row - mean, row - mean) for row in rows) / (len(rows) - 1)
    weight = fractional_matrix_power(covariance + eps * np.eye(DIM), -exponent)
    query_covariance = sum(np.outer(row - query_mean, row - query_mean) for row in asked) / (len(asked) - 1)
    gap = query_mean - mean
    factor = 1 - np.trace(query_covariance) / len(asked) / np.linalg.norm(gap) ** 2
    assert 0.1 < factor < 1
    shift = factor * len(asked) / (len(asked) + shrinkage) * gap
    whitening = ragcun.calibrate(documents, queries, exponent=exponent, eps=eps, shrinkage=shrinkage)
    np.testing.assert_allclose(whitening.query_shift, shift, atol=1e-12)
    np.testing.assert_allclose(whitening.embed_documents(documents), unit(rows @ weight), atol=1e-9)
    np.testing.assert_allclose(whitening.embed_queries(queries), unit((asked - shift) @ weight), atol=1e-9)
    ratio = whitening.weight / weight
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-6)


@pytest.mark.parametrize("output_dim", [None, 5])
@pytest.mark.parametrize("exponent", [0.0, 0.15, 0.5])
def test_the_variance_of_the_kept_directions_is_kept(documents, exponent, output_dim):
    whitening = calibrate(documents, exponent=exponent, output_dim=output_dim)
    variances = np.sort(np.linalg.eigvalsh(np.cov(unit(documents).T)))[::-1][:output_dim]
    assert np.trace(np.cov(mapped(whitening, documents).T)) == pytest.approx(variances.sum(), rel=1e-9)


def test_no_queries_are_moved_without_queries_and_exponent_zero_is_the_base(documents, queries):
    whitening = calibrate(documents, exponent=0)
    np.testing.assert_allclose(whitening.weight, np.eye(DIM), atol=1e-12)
    np.testing.assert_allclose(whitening.embed_documents(documents), unit(documents), atol=1e-12)
    np.testing.assert_allclose(whitening.embed_queries(queries), unit(queries), atol=1e-12)
    for shrinkage, none in ((0, None), (5, None), (0, queries[:0]), (5, queries[:0])):
        assert not calibrate(documents, none, shrinkage=shrinkage).query_shift.any()


def gap_of(documents: np.ndarray, queries: np.ndarray) -> np.ndarray:
    return unit(queries).mean(axis=0) - unit(documents).mean(axis=0)


def test_one_query_varies_as_the_documents_do(documents):
    far = -unit(documents).mean(axis=0, keepdims=True)
    gap = gap_of(documents, far)
    variance = np.trace(np.cov(unit(documents).T))
    expected = (1 - variance / (gap @ gap)) / 6 * gap
    np.testing.assert_allclose(calibrate(documents, far).query_shift, expected, atol=1e-12)
    near = unit(documents).mean(axis=0, keepdims=True)
    np.testing.assert_array_equal(calibrate(documents, near).query_shift, np.zeros(DIM))


def test_fewer_dimensions_are_the_leading_directions_and_ordered_ones_can_be_cut(documents, queries):
    whole, cut = calibrate(documents, queries), calibrate(documents, queries, output_dim=4)
    variances, axes = np.linalg.eigh(np.cov(unit(documents).T))
    inner, coordinates = mapped(whole, documents) @ axes[:, np.argsort(variances)[:-5:-1]], mapped(cut, documents)
    np.testing.assert_allclose(unit(inner) @ unit(inner).T, unit(coordinates) @ unit(coordinates).T, atol=1e-9)
    np.testing.assert_array_equal(cut.query_shift, whole.query_shift)
    np.testing.assert_array_equal(calibrate(documents, queries, output_dim=DIM).weight, whole.weight)
    plain, ordered, fewer = (
        calibrate(documents, queries, **options) for options in ({}, {"ordered": True}, {"output_dim": 4})
    )
    for name in ("embed_queries", "embed_documents"):
        whole, turned, small = (getattr(each, name)(documents[:20]) for each in (plain, ordered, fewer))
        np.testing.assert_allclose(whole @ whole.T, turned @ turned.T, atol=1e-12)
        np.testing.assert_allclose(unit(turned[:, :4]), small, atol=1e-12)


def test_fewer_documents_than_dimensions_give_finite_maps():
    whitening = calibrate(anisotropic(3, 0))
    assert np.isfinite(whitening.weight).all()
    np.testing.assert_allclose(np.linalg.norm(whitening.embed_documents(anisotropic(3, 0)), axis=1), 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"exponent": -0.1}, "exponent must be 0 to 1, got -0.1"),
        ({"eps": 0.0}, "eps must be at least"),
        ({"shrinkage": -1.0}, "shrinkage must be at least 0 and finite, got -1.0"),
        ({"shrinkage": float("nan")}, "shrinkage must be"),
        ({"output_dim": 17}, "output_dim must be 1 to 16"),
        ({"query_vectors": np.ones((3, 15))}, "query_vectors have length 15, document_vectors have 16"),
        ({"query_vectors": np.full((3, 16), np.inf)}, "query_vectors must be finite, row 0 is not"),
        ({"document_vectors": np.ones((1, 16))}, "at least 2 vectors, got 1"),
        ({"document_vectors": np.ones((4, 16))}, "all the same"),
        ({"document_vectors": np.diag([1.0, 1.0, np.nan, 1.0])}, "document_vectors must be finite, row 2 is not"),
    ],
)
def test_impossible_settings_and_vectors(documents, arguments, message):
    with pytest.raises(ValueError, match=message):
        calibrate(**({"document_vectors": documents} | arguments))  # type: ignore[arg-type]


@pytest.mark.parametrize("output_dim", [None, 6])
def test_the_encoder_is_the_whitening_in_and_out_of_ragcun(base, texts, tmp_path, output_dim):
    documents, queries = base.encode(texts[:200], "document"), base.encode(texts[200:230], "query")
    whitening = calibrate(documents, queries + 3 * documents[:1], output_dim=output_dim)
    encoder = whitening.encoder(base)
    assert isinstance(encoder, AsymmetricProjectionModel)
    expected = whitening.embed_queries(queries), whitening.embed_documents(queries)
    assert np.abs(expected[0] - expected[1]).max() > 1e-2
    encoder.save_pretrained(f"{tmp_path}/model")
    again = RetrievalEncoder.from_pretrained(f"{tmp_path}/model", device="cpu")
    assert again.to_config() == encoder.to_config()
    for model in (encoder, again, SentenceTransformer(f"{tmp_path}/model", device="cpu")):
        np.testing.assert_allclose(model.encode_query(texts[200:230]), expected[0], atol=2e-5)
        np.testing.assert_allclose(model.encode_document(texts[200:230]), expected[1], atol=2e-5)


def test_an_encoder_needs_the_base_that_was_whitened(tiny_bert):
    base = TextBase.load(tiny_bert, normalize=False, device="cpu")
    with pytest.raises(ValueError, match="normalize=True"):
        calibrate(anisotropic(20, 0)).encoder(base)
    with pytest.raises(ValueError, match=r"\(8, 16\) .* got \(8, 8\)"):
        calibrate(anisotropic(20, 0, dim=8)).encoder(TextBase.load(tiny_bert, device="cpu"))
