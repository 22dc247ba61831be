"""The encoder systems: what each shows of a batch, what its targets follow, and what a prediction is."""

import pytest
import torch
from torch import Tensor

from ragcun import HeadShape, TextBase
from ragcun.batch import PairBatch
from ragcun.models.encoder import SYSTEMS, RetrievalEncoder
from ragcun.models.projection import ProjectionEncoder
from ragcun.models.systems import (
    ALPHA_AT_START,
    AsymmetricProjectionModel,
    MPNetLeJEPAIG,
    ResidualPredictor,
    ResidualPredictorEncoder,
)

DIM = 16


def base(tiny_bert: str, frozen: bool = True) -> TextBase:
    loaded = TextBase.load(tiny_bert, device="cpu")
    loaded.freeze(frozen)
    return loaded


def vectors(rows: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, DIM, generator=torch.Generator().manual_seed(seed))


def a_batch(negatives: bool = True) -> PairBatch:
    negative, mask = (vectors(6, 3), torch.tensor([1, 0, 1, 1, 0, 1]).bool()) if negatives else (None, None)
    return PairBatch(vectors(6, 1), vectors(6, 2), negative, mask, torch.eye(6).bool())


def move(encoder: RetrievalEncoder, seed: int = 0) -> None:
    """Change every trained weight, as a step would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for group in encoder.parameter_groups({"base": 1.0, "head": 1.0, "predictor": 1.0}):
            for parameter in group["params"]:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("negatives", [True, False])
@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("system", SYSTEMS)
def test_views_are_the_embeddings_that_retrieval_compares(tiny_bert, system, unit, negatives):
    unit = unit and not SYSTEMS[system].always_predicts
    encoder = SYSTEMS[system](base(tiny_bert), output_dim=10, head="mlp", normalize_output=unit).eval()
    move(encoder)
    batch = a_batch(negatives)
    views = encoder(batch)
    torch.testing.assert_close(views.query, encoder.embed_query(encoder.base(batch.query)))
    torch.testing.assert_close(views.positive, encoder.embed_document(encoder.base(batch.positive)))
    assert (views.negative is not None) == negatives
    if negatives:
        torch.testing.assert_close(views.negative, encoder.embed_document(encoder.base(batch.negative)))
    for rows in (views.query, views.positive):
        assert torch.allclose(rows.norm(dim=1), torch.ones(6)) == unit
    assert views.relevant is batch.relevant
    assert views.negative_mask is batch.negative_mask
    assert {name for name in ("predicted", "residual") if getattr(views, name) is not None} == encoder.shows


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_prediction_can_be_the_query_embedding(tiny_bert, system):
    settings = {"use_predictor": True, "query_embedding": "prediction"}
    encoder = SYSTEMS[system](base(tiny_bert), **settings).eval()
    move(encoder)
    batch = a_batch()
    torch.testing.assert_close(encoder.embed_query(encoder.base(batch.query)), encoder(batch).predicted)
    assert not torch.allclose(encoder(batch).predicted, encoder(batch).query)


@pytest.mark.parametrize(
    ("system", "settings", "message"),
    [
        ("isotropic_gaussian", {"query_embedding": "prediction"}, "needs a predictor"),
        ("asymmetric", {"query_embedding": "guess"}, "must be one of projection, prediction"),
        ("jepa", {"use_predictor": False}, "always has a predictor"),
        ("respred", {"use_predictor": False}, "always has a predictor"),
        ("asymmetric", {"use_predictor": True, "normalize_output": True}, "cannot be combined with a predictor"),
        ("respred", {"predictor": "residual"}, "not 'residual'"),
        ("jepa", {"head": HeadShape("linear", 5, 5)}, "length 5, the base gives 16"),
        ("asymmetric", {"output_dim": 2.5}, r"head output_dim must be a whole number, got 2\.5"),
        ("asymmetric", {"output_dim": float("nan")}, "must be a whole number, got nan"),
        ("jepa", {"output_dim": "8"}, "must be a whole number, got '8'"),
        ("asymmetric", {"use_predictor": "no"}, "use_predictor='no'"),
    ],
)
def test_impossible_settings(tiny_bert, system, settings, message):
    with pytest.raises(ValueError, match=message):
        SYSTEMS[system](base(tiny_bert), **settings)


@pytest.mark.parametrize("system", SYSTEMS)
def test_cut_heads_start_alike_for_queries_and_documents(tiny_bert, system):
    encoder: ProjectionEncoder = SYSTEMS[system](base(tiny_bert), output_dim=5).eval()  # type: ignore[assignment]
    encoder.start_from(vectors(50))
    torch.testing.assert_close(encoder.head(vectors(4, 7)), encoder.document_head(vectors(4, 7)))
    if isinstance(encoder, MPNetLeJEPAIG):
        torch.testing.assert_close(encoder.head(vectors(4, 7)), encoder.target_head(vectors(4, 7)))


def flat(module: torch.nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()]).double()


def test_the_target_is_the_moving_average_of_the_online_weights(tiny_bert):
    encoder = MPNetLeJEPAIG(base(tiny_bert))
    expected = flat(encoder.target_head)
    for step in range(5):
        move(encoder, step)
        encoder.after_step(0.9)
        expected = 0.9 * expected + 0.1 * flat(encoder.head)
    torch.testing.assert_close(flat(encoder.target_head), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("frozen", [True, False])
def test_the_target_is_never_trained_and_always_evaluating(tiny_bert, frozen, texts):
    shape = HeadShape("mlp", DIM, DIM, dropout=0.5)
    encoder = MPNetLeJEPAIG(base(tiny_bert), head=shape)
    encoder.freeze_base(frozen)
    encoder.train()
    assert (encoder.target_base is None) == frozen
    features = [encoder.base.features(texts[i : i + 4], "query") for i in (0, 4)]
    batch = a_batch() if frozen else PairBatch(*features)
    views = encoder(batch)
    again = encoder(batch)
    assert not views.target.requires_grad
    assert torch.equal(views.target, again.target)  # dropout off
    assert not torch.equal(views.query, again.query)  # dropout on
    (views.predicted - views.target).square().sum().backward()
    trained = {id(p) for g in encoder.parameter_groups({"base": 1, "head": 1, "predictor": 1}) for p in g["params"]}
    targets = [encoder.target_head, *([] if frozen else [encoder.target_base])]
    for parameter in (parameter for target in targets for parameter in target.parameters()):
        assert parameter.grad is None
        assert id(parameter) not in trained


def test_a_trained_base_has_a_target_of_its_own_that_follows_and_is_saved(tiny_bert, texts, tmp_path):
    encoder = MPNetLeJEPAIG(base(tiny_bert))
    encoder.freeze_base(False)
    start = flat(encoder.base)
    move(encoder)
    encoder.after_step(0.75)
    torch.testing.assert_close(
        flat(encoder.target_base), 0.75 * start + 0.25 * flat(encoder.base), rtol=1e-6, atol=1e-7
    )
    features = encoder.base.features(texts[:3], "document")
    expected = encoder.target_head(encoder.target_base(features))
    torch.testing.assert_close(encoder(PairBatch(features, features)).target, expected)
    encoder.save_pretrained(tmp_path / "model")
    loaded = RetrievalEncoder.from_pretrained(tmp_path / "model", "cpu")
    assert torch.equal(flat(loaded.target_base), flat(encoder.target_base))
    assert not torch.equal(flat(loaded.target_base), flat(loaded.base))
    encoder.freeze_base(True)
    assert encoder.target_base is None


def a_predictor() -> ResidualPredictor:
    torch.manual_seed(0)
    return ResidualPredictor(HeadShape("mlp", DIM, DIM, dropout=0.0))


def test_the_residual_predictor_follows_its_formula():
    predictor = a_predictor()
    assert predictor.alpha.item() == pytest.approx(ALPHA_AT_START)
    first, last = predictor.delta.layers[0], predictor.delta.layers[-1]
    query = vectors(3)
    hidden = torch.nn.functional.gelu(query @ first.weight.T + first.bias)
    delta = hidden @ last.weight.T + last.bias
    torch.testing.assert_close(predictor(query), query + 0.1 * torch.tanh(delta))
    predictor(query).sum().backward()
    assert predictor.alpha.grad.abs() > 0


def test_what_the_residual_predictor_logs(tiny_bert):
    encoder = ResidualPredictorEncoder(base(tiny_bert))
    views = encoder(a_batch())
    figures = encoder.diagnostics(views)
    norms = views.residual.norm(dim=1)
    assert figures["delta_mean"] == pytest.approx(norms.mean().item())
    assert figures["delta_max"] == pytest.approx(norms.max().item())
    assert figures["alpha"] == pytest.approx(0.1)
    assert figures["correction_max"] == pytest.approx((views.predicted - views.query).norm(dim=1).max().item())


def test_each_side_trains_its_own_head(tiny_bert):
    encoder = AsymmetricProjectionModel(base(tiny_bert), head="mlp")
    encoder(a_batch()).query.sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.head.parameters())
    assert all(parameter.grad is None for parameter in encoder.document_head.parameters())
    groups = encoder.parameter_groups({"head": 1.0})
    count = sum(parameter.numel() for group in groups for parameter in group["params"])
    assert count == 2 * sum(parameter.numel() for parameter in encoder.head.parameters())
