"""Objective: the total is the weighted sum of its terms, each term is the loss of its name, and wrong settings fail."""

import dataclasses
import math

import pytest
import torch

from ragcun.batch import Views
from ragcun.losses.contrastive import in_batch_margin_loss, info_nce, margin_loss
from ragcun.losses.covariance import (
    covariance_isotropy,
    global_orthogonal_regularization,
    variance_covariance,
    variance_regularisation,
)
from ragcun.losses.objective import CONTRASTIVE, ISOTROPY, TERMS, Objective, predictive_error, residual_penalty
from ragcun.losses.sigreg import sigreg
from ragcun.losses.transforms import TRANSFORMS

MASK = torch.tensor([True, True, False, True, False])
RELEVANT = torch.eye(5, dtype=torch.bool)
RELEVANT[1, 2] = True


@pytest.fixture
def views():
    generator = torch.Generator().manual_seed(0)
    query, positive, negative, predicted, target, residual = torch.randn(6, 5, 8, generator=generator)
    return Views(query, positive, negative, MASK, RELEVANT, predicted, target, residual)


def everything(**options) -> Objective:
    weights = {
        "lambda_contrastive": 0.5,
        "lambda_isotropy": 1.5,
        "lambda_reg": 0.1,
        "lambda_predictive": 1.2,
        "lambda_residual": 0.01,
    }
    return Objective(**{**weights, **options})


def test_total_is_the_weighted_sum_of_the_terms(views):
    objective = everything()
    total, terms = objective(views)
    assert list(terms) == ["contrastive", "isotropy", "reg", "predictive", "residual"]
    expected = 0.5 * terms["contrastive"] + 1.5 * terms["isotropy"] + 0.1 * terms["reg"]
    expected = expected + 1.2 * terms["predictive"] + 0.01 * terms["residual"]
    torch.testing.assert_close(total, expected)
    assert objective.weights == dict(zip(terms, (0.5, 1.5, 0.1, 1.2, 0.01), strict=True))


def test_each_term_is_the_loss_of_its_name(views):
    z = torch.cat([views.query, views.positive])
    assert everything()(views).terms == {
        "contrastive": info_nce(views.query, views.positive, views.negative, MASK, RELEVANT),
        "isotropy": covariance_isotropy(z),
        "reg": variance_regularisation(z),
        "predictive": predictive_error(views.predicted, views.target),
        "residual": residual_penalty(views.residual),
    }


def test_settings_reach_the_losses(views):
    q, p, n = views.query, views.positive, views.negative
    cases = {
        margin_loss(q, p, n, MASK, RELEVANT, 0.3): {"contrastive": "margin", "margin": 0.3},
        in_batch_margin_loss(q, p, RELEVANT, 0.3): {"contrastive": "in_batch_margin", "margin": 0.3},
        info_nce(q, p, n, MASK, RELEVANT, 0.2, "dot", True): {"temperature": 0.2, "distance": "dot", "symmetric": True},
    }
    for expected, options in cases.items():
        assert torch.equal(Objective(**options)(views).terms["contrastive"], expected)
    absolute = Objective(lambda_isotropy=1.0, isotropy_form="absolute")(views).terms["isotropy"]
    assert torch.equal(absolute, covariance_isotropy(torch.cat([q, p]), "absolute"))


@pytest.mark.parametrize("stop_gradient", [True, False])
def test_stop_gradient_reaches_the_target(views, stop_gradient):
    target = views.target.clone().requires_grad_()
    predicted = views.predicted.clone().requires_grad_()
    objective = Objective(lambda_contrastive=0, lambda_predictive=1, stopgrad=stop_gradient)
    objective(dataclasses.replace(views, predicted=predicted, target=target)).total.backward()
    assert predicted.grad.abs().sum() > 0
    assert (target.grad is None) == stop_gradient


@pytest.mark.parametrize("term", TERMS)
def test_one_active_term_is_computed_alone(views, term):
    objective = Objective(**{"lambda_contrastive": 0, f"lambda_{term}": 2.0})
    total, terms = objective(views)
    assert list(terms) == list(objective.weights) == [term]
    torch.testing.assert_close(total, 2 * terms[term])


def test_terms_without_weight_need_no_views(views):
    bare = Views(views.query, views.positive)
    assert Objective(lambda_isotropy=1.0)(bare).total.isfinite()


def test_gradient_of_the_total_is_the_weighted_sum_of_gradients(views):
    query = views.query.double().requires_grad_()
    total, terms = Objective(lambda_isotropy=1.5, lambda_reg=0.1)(
        Views(query, views.positive.double(), relevant=RELEVANT)
    )
    parts = [torch.autograd.grad(term, query, retain_graph=True)[0] for term in terms.values()]
    expected = parts[0] + 1.5 * parts[1] + 0.1 * parts[2]
    torch.testing.assert_close(torch.autograd.grad(total, query)[0], expected)


def test_isotropy_none_leaves_the_term_out(views):
    objective = Objective(lambda_isotropy=1.0, isotropy="none")
    assert objective.weights == {"contrastive": 1.0}
    assert list(objective(views).terms) == ["contrastive"]


def test_autocast_leaves_the_total_unchanged(views):
    objective = everything()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = objective(views).total
    assert inside.dtype == torch.float32
    assert torch.equal(inside, objective(views).total)


@pytest.mark.parametrize(
    ("term", "missing"), [("predictive", "predicted"), ("predictive", "target"), ("residual", "residual")]
)
def test_a_term_without_its_view_is_refused(views, term, missing):
    objective = Objective(**{f"lambda_{term}": 1.0})
    remedy = {"predictive": "use_predictor", "residual": "residual predictor"}[term]
    with pytest.raises(ValueError, match=f"lambda_{term}.*{remedy}"):
        objective(dataclasses.replace(views, **{missing: None}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lambda_contrastive": 0.0}, "no loss is active.*lambda_isotropy"),
        ({"lambda_contrastive": 0.0, "lambda_isotropy": 1.0, "isotropy": "none"}, "no loss is active"),
        ({"lambda_reg": -0.1}, "lambda_reg must be at least 0, got -0.1"),
        ({"lambda_reg": math.nan}, "lambda_reg must be at least 0, got nan"),
        ({"lambda_predictive": math.inf}, "lambda_predictive must be finite"),
        ({"temperature": 0.0}, "temperature must be above 0, got 0.0"),
        ({"nested_dims": (4, 0)}, "at least 1, got 0"),
        ({"margin": -1.0}, "margin must be at least 0, got -1.0"),
        ({"contrastive": "triplet"}, "contrastive must be one of infonce, .*got 'triplet'"),
        ({"isotropy": "covarience"}, "isotropy must be one of .*covariance, .*got 'covarience'"),
        ({"isotropy_form": "seeds"}, "isotropy_form must be one of scale_free, absolute, got 'seeds'"),
        ({"distance": "manhattan"}, "distance must be one of euclidean, cosine, dot, got 'manhattan'"),
    ],
)
def test_wrong_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Objective(**options)


@pytest.mark.parametrize("contrastive", CONTRASTIVE)
@pytest.mark.parametrize("isotropy", ISOTROPY)
def test_every_registered_name_trains(views, contrastive, isotropy):
    query = views.query.clone().requires_grad_()
    objective = Objective(lambda_isotropy=1.0, contrastive=contrastive, isotropy=isotropy)
    objective(dataclasses.replace(views, query=query)).total.backward()
    assert query.grad.isfinite().all()
    assert query.grad.abs().sum() > 0


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("rows", ["together", "each"])
def test_isotropy_is_the_named_loss_of_the_transformed_rows(views, transform, rows):
    z = torch.cat([views.query, views.positive])
    sides = [z] if rows == "together" else [views.query, views.positive]
    apply = TRANSFORMS[transform]
    expected = {
        "covariance": [covariance_isotropy(apply(side)) for side in sides],
        "sigreg": [sigreg(apply(side), step=7, num_slices=32, knots="paper", n_free=True) for side in sides],
        "gor": [global_orthogonal_regularization(apply(side)) for side in sides],
        "vicreg": [variance_covariance(apply(side)) for side in sides],
    }
    options = {"isotropy_transform": transform, "isotropy_rows": rows, "num_slices": 32, "knots": "paper"}
    for name, values in expected.items():
        objective = Objective(lambda_contrastive=0, lambda_isotropy=1, isotropy=name, **options)
        torch.testing.assert_close(objective(views, step=7).total, torch.stack(values).mean())


def test_only_what_is_random_depends_on_the_step(views):
    for name, changes in {"sigreg": True, "covariance": False, "gor": False, "vicreg": False}.items():
        objective = everything(isotropy=name)
        first, same, other = (objective(views, step).total for step in (1, 1, 2))
        assert torch.equal(first, same)
        assert torch.equal(first, other) != changes


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    predicted, target = torch.randn(2, 6, 4, generator=generator, dtype=torch.float64)
    return predicted.requires_grad_(), target.requires_grad_()


def test_predictive_error_matches_a_loop(pair):
    rows = zip(*(tensor.tolist() for tensor in pair), strict=True)
    expected = sum((a - b) ** 2 for x, y in rows for a, b in zip(x, y, strict=True)) / 24
    assert predictive_error(*pair).item() == pytest.approx(expected)


def test_residual_penalty_matches_a_loop(pair):
    expected = sum(sum(a * a for a in row) for row in pair[0].tolist()) / 6
    assert residual_penalty(pair[0]).item() == pytest.approx(expected)


def test_gradients_of_predictive_losses(pair):
    predicted, target = pair
    assert torch.autograd.gradcheck(lambda p, t: predictive_error(p, t, stop_gradient=False), pair)
    assert torch.autograd.gradcheck(lambda p: predictive_error(p, target), predicted)
    assert torch.autograd.gradcheck(residual_penalty, predicted)


def test_the_target_is_held_constant_by_default(pair):
    predicted, target = pair
    predictive_error(predicted, target).backward()
    assert target.grad is None
    assert predicted.grad.abs().sum() > 0


def test_without_stop_gradient_both_sides_move_towards_each_other(pair):
    predicted, target = pair
    predictive_error(predicted, target, stop_gradient=False).backward()
    assert target.grad.abs().sum() > 0
    torch.testing.assert_close(target.grad, -predicted.grad)


def test_shapes_that_would_broadcast_are_refused(pair):
    with pytest.raises(ValueError, match=r"\(6, 4\).*\(1, 4\)"):
        predictive_error(pair[0], pair[1][:1])


def test_half_precision_is_averaged_in_float32():
    predicted, target = torch.full((64, 8), 300.0).half(), torch.zeros(64, 8).half()
    assert predictive_error(predicted, target).item() == 90000.0
    assert residual_penalty(predicted).item() == 720000.0
