"""Interpolation with the base: squared distances lie between those of head and base, in and out of ragcun."""

import itertools

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sentence_transformers import SentenceTransformer
from torch import Tensor

from ragcun.embeddings.text_base import TextBase
from ragcun.models.encoder import SYSTEMS, RetrievalEncoder
from ragcun.models.heads import ACTIVATIONS, HeadShape
from ragcun.models.projection import ProjectionEncoder, interpolate_with_base
from tests.models.helpers import moved

DIM = 16
SHAPES = [("linear", "gelu", 2), ("residual", "gelu", 2), ("mlp", "gelu", 2)]
DEEP = itertools.product(["asymmetric"], ["residual", "mlp"], ACTIVATIONS, [3])


def encoder_of(
    tiny_bert: str, system: str, config: HeadShape, normalize: bool = True, normalize_output: bool = False
) -> ProjectionEncoder:
    """Return an encoder whose heads have moved from their start, each its own way."""
    base = TextBase.load(tiny_bert, normalize=normalize, device="cpu")
    made = SYSTEMS[system](base, head=config, normalize_output=normalize_output)  # type: ignore[call-arg]
    return moved(made, 0.2).eval()


def squared(queries: object, documents: object) -> np.ndarray:
    return cdist(np.asarray(queries, dtype=np.float64), np.asarray(documents, dtype=np.float64), "sqeuclidean")


def base_vectors(encoder: ProjectionEncoder, texts: list[str], role: str) -> Tensor:
    """Return what heads see."""
    return encoder.base(torch.from_numpy(encoder.base.encode(texts, role)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("system", "kind", "activation", "depth"),
    [*((system, *shape) for system in ("isotropic_gaussian", "asymmetric") for shape in SHAPES), *DEEP],
)
def test_squared_gaps_are_interpolated_everywhere(tiny_bert, texts, tmp_path, system, kind, activation, depth):
    queries, documents = texts[:12], texts[12:40]
    for out_dim, normalize in ((DIM, True), (7, False)):
        config = HeadShape(kind, DIM, out_dim, depth, activation=activation)
        encoder = encoder_of(tiny_bert, system, config, normalize)
        of_head = squared(encoder.encode_query(queries), encoder.encode_document(documents))
        base = squared(base_vectors(encoder, queries, "query"), base_vectors(encoder, documents, "document"))
        mixed = interpolate_with_base(encoder, 0.3)
        assert mixed.dimension == out_dim + DIM
        models = [mixed]
        if (activation, depth) == ("gelu", 2):
            mixed.save_pretrained(tmp_path / "model")
            models.append(RetrievalEncoder.from_pretrained(tmp_path / "model", device="cpu"))
            models.append(SentenceTransformer(str(tmp_path / "model"), device="cpu"))
        for model in models:
            found = squared(model.encode_query(queries), model.encode_document(documents))
            np.testing.assert_allclose(found, 0.7 * of_head + 0.3 * base, rtol=1e-5, atol=1e-5)


def test_the_encoder_given_stays_as_it_is(tiny_bert, texts):
    encoder = encoder_of(tiny_bert, "isotropic_gaussian", HeadShape("linear", DIM, DIM))
    before = encoder.encode_query(texts[:5])
    mixed = interpolate_with_base(encoder, 0.5)
    with torch.no_grad():
        for weight in mixed.head.parameters():
            weight.zero_()
    np.testing.assert_array_equal(encoder.encode_query(texts[:5]), before)
    assert mixed.base is encoder.base
    assert type(mixed) is type(encoder)
    assert interpolate_with_base(encoder, 0) is encoder


@pytest.mark.parametrize("training", [True, False])
def test_unit_length_embeddings_interpolate_by_one_scale(tiny_bert, texts, training, tmp_path):
    """The reference: both sides' mean lengths averaged, the parts put together, the whole scaled to length 1."""
    config = HeadShape("mlp", DIM, 7, dropout=0.5)
    encoder = encoder_of(tiny_bert, "asymmetric", config, normalize_output=True)
    vectors = {"query": encoder.base.encode(texts[:30], "query"), "document": encoder.base.encode(texts, "document")}
    query, document = (base_vectors(encoder, texts[:30], role) for role in ("query", "document"))
    with torch.no_grad():
        sides = encoder.head(query), encoder.document_head(base_vectors(encoder, texts, "document"))
        scale = sum(side.norm(dim=1).mean() for side in sides) / 2
        expected = {
            "query": torch.cat([0.8**0.5 * encoder.head(query) / scale, 0.2**0.5 * query], dim=1),
            "document": torch.cat([0.8**0.5 * encoder.document_head(document) / scale, 0.2**0.5 * document], dim=1),
        }
    mixed = interpolate_with_base(encoder.train(training), 0.2, vectors)  # type: ignore[arg-type]
    assert mixed.training == training
    mixed.save_pretrained(tmp_path / "model")
    for model in (mixed, SentenceTransformer(str(tmp_path / "model"), device="cpu")):
        for role, encode in (("query", model.encode_query), ("document", model.encode_document)):
            rows = torch.nn.functional.normalize(expected[role], dim=1)
            np.testing.assert_allclose(encode(texts[:30]), rows, atol=1e-5)


@pytest.mark.parametrize("system", SYSTEMS)
def test_predictors_cannot_be_interpolated(tiny_bert, system):
    encoder = SYSTEMS[system](TextBase.load(tiny_bert, device="cpu"), use_predictor=True)  # type: ignore[call-arg]
    for share in (0, 0.5):
        with pytest.raises(ValueError, match=f"a {system} encoder with a predictor"):
            interpolate_with_base(encoder, share)


def test_unit_length_needs_vectors_and_outputs(tiny_bert):
    config = HeadShape("linear", DIM, DIM)
    encoder = encoder_of(tiny_bert, "isotropic_gaussian", config, normalize_output=True)
    for none in (None, {}, {"query": np.zeros((0, DIM), dtype=np.float32)}):
        with pytest.raises(ValueError, match="give vectors"):
            interpolate_with_base(encoder, 0.5, none)  # type: ignore[arg-type]
    encoder.head.start_as(torch.zeros(DIM, DIM), torch.zeros(DIM))
    with pytest.raises(ValueError, match=r"above 0 and finite, got 0\.0"):
        interpolate_with_base(encoder, 0.5, {"query": np.ones((3, DIM), dtype=np.float32)})
    raw = encoder_of(tiny_bert, "isotropic_gaussian", config, normalize=False, normalize_output=True)
    with pytest.raises(ValueError, match="normalize=True"):
        interpolate_with_base(raw, 0.5, {"query": np.ones((3, DIM), dtype=np.float32)})
