"""Statistics of a collapse probe against loops and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ragcun.batch import Views
from ragcun.training.collapse import probe_statistics


def normal(n: int, dim: int, seed: int = 0) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


def made(n: int, dim: int) -> Views:
    positive = normal(n, dim, 1) * torch.linspace(2, 0.2, dim) + 0.5
    query, predicted = positive + normal(n, dim, 2), positive + 0.5 * normal(n, dim, 3)
    relevant = torch.rand(n, n, generator=torch.Generator().manual_seed(4)) < 0.2
    return Views(query, positive, relevant=relevant, predicted=predicted, target=positive + 0.1, residual=query)


def variance_by_loop(rows: Tensor) -> float:
    return sum(float((row - rows.mean(0)).square().sum()) for row in rows) / (len(rows) - 1)


@pytest.mark.parametrize(("n", "dim"), [(2, 3), (6, 10), (10, 10), (30, 4)])
def test_sides_match_a_loop(n, dim):
    views = made(n, dim)
    found = probe_statistics(views)
    for side, z in (("query", views.query.double()), ("document", views.positive.double())):
        variance = variance_by_loop(z)
        cosines = [float(torch.cosine_similarity(z[i], z[j], dim=0)) for i in range(n) for j in range(n) if i != j]
        spectrum = torch.linalg.eigvalsh(torch.cov(z.T)).clamp_min(1e-300)
        expected = {
            "variance": variance,
            "spread": variance * n / float(z.square().sum()),
            "rank": math.exp(-sum(share * math.log(share) for share in (spectrum / spectrum.sum()).tolist())),
            "mean_cosine": sum(cosines) / len(cosines),
        }
        assert {name: found[f"{name}_{side}"] for name in expected} == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert found["rank_bound"] == min(n - 1, dim)


@pytest.mark.parametrize("known", [False, True])
def test_pairs_match_a_loop(known):
    views = made(20, 6)
    queries, documents = views.query.double(), views.positive.double()
    nearer, others = [0] * 20, [0] * 20
    for i in range(20):
        own = (queries[i] - documents[i]).square().sum()
        for j in set(range(20)) - {i}:
            if not (known and views.relevant[i, j]):
                others[i] += 1
                nearer[i] += bool((queries[i] - documents[j]).square().sum() <= own)
    shown = Views(views.query, views.positive, relevant=views.relevant if known else None)
    found = probe_statistics(shown)
    assert found["top1"] == pytest.approx(nearer.count(0) / 20)
    assert found["accuracy"] == pytest.approx(sum(n < m / 2 for n, m in zip(nearer, others, strict=True)) / 20)
    between = (queries.mean(0) - documents.mean(0)).square().sum()
    within = variance_by_loop(queries) + variance_by_loop(documents)
    assert found["gap"] == pytest.approx(float(between) / within, rel=1e-4)


def test_residual_matches_its_definition():
    views = made(10, 4)
    query, predicted, target = (z.double() for z in (views.query, views.predicted, views.target))
    found = probe_statistics(views)
    assert found["correction"] == pytest.approx(float((predicted - query).norm() / query.norm()), rel=1e-5)
    assert found["needed"] == pytest.approx(float((target - query).norm() / query.norm()), rel=1e-5)
    left = float((predicted - target).square().sum() / (query - target).square().sum())
    assert found["skill"] == pytest.approx(1 - left, rel=1e-5)
    without = Views(views.query, views.positive, predicted=views.predicted, target=views.target)
    assert "skill" not in probe_statistics(without)


def test_rank_of_known_spectra():
    even = torch.cat([torch.eye(6), -torch.eye(6)])
    found = probe_statistics(Views(even, even * torch.tensor([1.0, 1, 1, 0, 0, 0]) + 7))
    assert found["rank_query"] == pytest.approx(6)
    assert found["rank_document"] == pytest.approx(3)


def test_unrelated_sides_are_at_chance():
    n = 400
    found = probe_statistics(Views(normal(n, 16, 1), normal(n, 16, 2)))
    assert abs(found["accuracy"] - 0.5) < 5 * 0.5 / math.sqrt(n)
    assert found["top1"] < 1 / n + 5 * math.sqrt(1 / n / n)


def test_figures_ignore_rotation_and_only_variance_knows_scale():
    query, positive = made(30, 8).query, made(30, 8).positive
    turn = torch.linalg.qr(normal(8, 8, 9))[0]
    before = probe_statistics(Views(query, positive))
    variances = {name: 100 * before[name] for name in before if name.startswith("variance")}
    for views, expected in (((query @ turn, positive @ turn), {}), ((10 * query, 10 * positive), variances)):
        assert probe_statistics(Views(*views)) == pytest.approx(before | expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.7])
def test_total_collapse_has_finite_figures(value):
    point = torch.full((6, 4), value)
    found = probe_statistics(Views(point, point, predicted=point, target=point, residual=point))
    assert all(math.isfinite(figure) for figure in found.values())
    assert found["spread_query"] < 1e-10
    assert found["top1"] == found["accuracy"] == 0


def test_half_precision_inside_autocast_is_measured_in_float32():
    views = Views(made(30, 8).query.bfloat16(), made(30, 8).positive.bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = probe_statistics(views)
    assert inside == probe_statistics(Views(views.query.float(), views.positive.float()))


def test_non_finite_embeddings_are_refused():
    with pytest.raises(ValueError, match="positive embeddings are not finite"):
        probe_statistics(Views(normal(5, 4), torch.full((5, 4), torch.nan)))
