"""Objective: the total is the weighted sum of its terms, each term is the loss of its name, and wrong settings fail."""

import dataclasses
import math

import pytest
import torch

from ragcun.batch import Views
from ragcun.losses.contrastive import info_nce, margin_loss
from ragcun.losses.covariance import covariance_isotropy, global_orthogonal_regularization, variance_covariance
from ragcun.losses.objective import (
    TERMS,
    TRANSFORMS,
    Objective,
    cut_views,
    predictive_error,
    residual_penalty,
    variance_regularisation,
)
from ragcun.losses.sigreg import sigreg

DIM = 12
MASK = torch.tensor([True, True, False, True, False])
RELEVANT = torch.eye(5, dtype=torch.bool)
RELEVANT[1, 2] = True


@pytest.fixture
def views():
    generator = torch.Generator().manual_seed(0)
    query, positive, negative, predicted, target, residual = torch.randn(6, 5, 8, generator=generator)
    return Views(query, positive, negative, MASK, RELEVANT, predicted, target, residual)


def everything(**options) -> Objective:
    weights = {"contrastive": 0.5, "isotropy": 1.5, "reg": 0.1, "predictive": 1.2, "residual": 0.01}
    return Objective(**{f"lambda_{name}": weight for name, weight in weights.items()}, **options)


def test_total_is_the_weighted_sum_of_the_terms_and_each_is_the_loss_of_its_name(views):
    objective = everything()
    total, terms = objective(views)
    expected = 0.5 * terms["contrastive"] + 1.5 * terms["isotropy"] + 0.1 * terms["reg"]
    expected = expected + 1.2 * terms["predictive"] + 0.01 * terms["residual"]
    torch.testing.assert_close(total, expected)
    assert objective.weights == dict(zip(terms, (0.5, 1.5, 0.1, 1.2, 0.01), strict=True))
    z = torch.cat([views.query, views.positive])
    assert terms == {
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
        margin_loss(q, p, relevant=RELEVANT, margin=0.3): {"contrastive": "in_batch_margin", "margin": 0.3},
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
        ({"lambda_reg": -0.1}, "lambda_reg = -0.1 .* must be at least 0"),
        ({"lambda_reg": math.nan}, "lambda_reg = nan .* must be at least 0"),
        ({"lambda_predictive": math.inf}, "lambda_predictive = inf .* must be below inf"),
        ({"temperature": 0.0}, "temperature = 0.0 .* must be above 0"),
        ({"nested_dims": (4, 0)}, r"nested_dims = \(4, 0\) .* must be at least 1"),
        ({"margin": -1.0}, "margin = -1.0 .* must be at least 0"),
        ({"contrastive": "triplet"}, "contrastive = 'triplet' .*must be one of infonce, "),
    ],
)
def test_wrong_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Objective(**options)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("rows", ["together", "each"])
def test_isotropy_is_the_named_loss_of_the_transformed_rows(views, transform, rows):
    z = torch.cat([views.query, views.positive])
    sides = [z] if rows == "together" else [views.query, views.positive]
    apply = TRANSFORMS[transform]
    expected = {
        "covariance": [covariance_isotropy(apply(side)) for side in sides],
        "sigreg": [sigreg(apply(side), step=7, num_slices=32, knots="paper") for side in sides],
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


def test_predictive_losses_match_loops():
    generator = torch.Generator().manual_seed(0)
    pair = torch.randn(2, 6, 4, generator=generator, dtype=torch.float64)
    rows = [tensor.tolist() for tensor in pair]
    expected = sum((a - b) ** 2 for x, y in zip(*rows, strict=True) for a, b in zip(x, y, strict=True)) / 24
    assert predictive_error(*pair).item() == pytest.approx(expected)
    assert residual_penalty(pair[0]).item() == pytest.approx(sum(sum(a * a for a in row) for row in rows[0]) / 6)
    assert predictive_error(torch.full((64, 8), 300.0).half(), torch.zeros(64, 8).half()).item() == 90000.0
    with pytest.raises(ValueError, match=r"\(6, 4\).*\(1, 4\)"):
        predictive_error(pair[0], pair[1][:1])


@pytest.fixture(params=[True, False], ids=["length 1", "free length"])
def nested(request):
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(n, DIM, generator=generator, dtype=torch.float64) for n in (6, 6, 6, 9)]
    if request.param:
        rows = [z / z.norm(dim=1, keepdim=True) for z in rows]
    known = torch.zeros(6, 9, dtype=torch.bool)
    known[0, 3] = True
    return Views(*rows[:3], pool=rows[3], pool_relevant=known)


@pytest.mark.parametrize("dim", [1, 5, DIM - 1])
def test_cut_rows_are_the_first_dimensions_and_keep_length_1(nested, dim):
    unit = bool((nested.query.norm(dim=1) - 1).abs().max() < 1e-9)
    cut = cut_views(nested, dim)
    for name in ("query", "positive", "negative", "pool"):
        whole, part = getattr(nested, name), getattr(cut, name)
        expected = whole[:, :dim]
        if unit:
            expected = expected / expected.norm(dim=1, keepdim=True)
        torch.testing.assert_close(part, expected)
    assert cut.pool_relevant is nested.pool_relevant


def test_the_loss_is_the_mean_over_sizes(nested):
    objective = Objective(contrastive="infonce", nested_dims=(3, 7), temperature=0.3)
    plain = Objective(contrastive="infonce", temperature=0.3)
    values = [plain(each).terms["contrastive"] for each in (nested, cut_views(nested, 3), cut_views(nested, 7))]
    torch.testing.assert_close(objective(nested).terms["contrastive"], torch.stack(values).mean())


@pytest.mark.parametrize("dim", [DIM, DIM + 1, 0])
def test_a_size_has_to_be_below_the_full_one_and_a_row_of_which_nothing_is_left_is_cut_to_zeros(nested, dim):
    with pytest.raises(ValueError, match="nested_dims must be below 12"):
        cut_views(nested, dim)
    last = torch.tensor([[0.0, 0.0, 1.0]])
    assert cut_views(Views(last, last), 2).query.tolist() == [[0.0, 0.0]]
