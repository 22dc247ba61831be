"""Figures of a probe against loops and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ragcun.batch import Views
from ragcun.distance import DISTANCES
from ragcun.training.collapse import probe_statistics


def normal(n: int, dim: int, seed: int = 0) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


def made(n: int, dim: int) -> Views:
    positive = normal(n, dim, 1) * torch.linspace(2, 0.2, dim) + 0.5
    query, predicted = positive + normal(n, dim, 2), positive + 0.5 * normal(n, dim, 3)
    relevant = torch.rand(n, n, generator=torch.Generator().manual_seed(4)) < 0.2
    return Views(query, positive, relevant=relevant, predicted=predicted, target=positive + 0.1, residual=query)


def dot(x: list[float], y: list[float]) -> float:
    return sum(a * b for a, b in zip(x, y, strict=True))


def difference(x: list[float], y: list[float]) -> list[float]:
    return [a - b for a, b in zip(x, y, strict=True)]


SIMILARITY = {
    "euclidean": lambda q, d: -dot(difference(q, d), difference(q, d)),
    "cosine": lambda q, d: dot(q, d) / math.sqrt(dot(q, q) * dot(d, d)),
    "dot": dot,
}


def side_by_loop(z: Tensor) -> dict[str, float]:
    rows = z.double().tolist()
    n, dim = len(rows), len(rows[0])
    mean = [sum(row[d] for row in rows) / n for d in range(dim)]
    variance = sum(dot(difference(row, mean), difference(row, mean)) for row in rows) / (n - 1)
    cosines = [SIMILARITY["cosine"](rows[i], rows[j]) for i in range(n) for j in range(n) if i != j]
    shares = torch.linalg.eigvalsh(torch.cov(z.double().T).reshape(dim, dim)).clamp_min(0)
    shares = [share for share in (shares / shares.sum()).tolist() if share > 0]
    return {
        "variance": variance,
        "spread": variance * n / sum(dot(row, row) for row in rows),
        "rank": math.exp(-sum(share * math.log(share) for share in shares)),
        "mean_cosine": sum(cosines) / len(cosines),
    }


@pytest.mark.parametrize(("n", "dim"), [(2, 3), (6, 10), (10, 10), (30, 4)])
def test_sides_match_a_loop(n, dim):
    views = made(n, dim)
    found = probe_statistics(views)
    for side, z in (("query", views.query), ("document", views.positive)):
        for name, expected in side_by_loop(z).items():
            assert found[f"{name}_{side}"] == pytest.approx(expected, rel=1e-4, abs=1e-6), name
    assert found["rank_bound"] == min(n - 1, dim)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("known", [False, True])
def test_pairs_match_a_loop(distance, known):
    views = made(20, 6)
    queries, documents = views.query.double().tolist(), views.positive.double().tolist()
    exact = median = 0
    for i, query in enumerate(queries):
        others = [j for j in range(20) if j != i and not (known and views.relevant[i, j])]
        own = SIMILARITY[distance](query, documents[i])
        nearer = sum(SIMILARITY[distance](query, documents[j]) >= own for j in others)
        exact, median = exact + (nearer == 0), median + (nearer < len(others) / 2)
    shown = Views(views.query, views.positive, relevant=views.relevant if known else None)
    found = probe_statistics(shown, distance)
    assert found["top1"] == pytest.approx(exact / 20)
    assert found["accuracy"] == pytest.approx(median / 20)
    between = [sum(q[d] for q in queries) / 20 - sum(p[d] for p in documents) / 20 for d in range(6)]
    within = side_by_loop(views.query)["variance"] + side_by_loop(views.positive)["variance"]
    assert found["gap"] == pytest.approx(dot(between, between) / within, rel=1e-4)


def test_residual_matches_a_loop():
    views = made(10, 4)
    query, predicted, target = (z.double().tolist() for z in (views.query, views.predicted, views.target))

    def total(x: list[list[float]], y: list[list[float]]) -> float:
        return sum(dot(difference(a, b), difference(a, b)) for a, b in zip(x, y, strict=True))

    length = sum(dot(q, q) for q in query)
    found = probe_statistics(views)
    assert found["correction"] == pytest.approx(math.sqrt(total(predicted, query) / length), rel=1e-5)
    assert found["needed"] == pytest.approx(math.sqrt(total(target, query) / length), rel=1e-5)
    assert found["skill"] == pytest.approx(1 - total(predicted, target) / total(query, target), rel=1e-5)


def test_a_predictor_without_a_residual_has_no_residual_figures():
    views = made(10, 4)
    assert "skill" not in probe_statistics(
        Views(views.query, views.positive, predicted=views.predicted, target=views.target)
    )


def test_rank_of_known_spectra():
    even = torch.cat([torch.eye(6), -torch.eye(6)])
    found = probe_statistics(Views(even, even * torch.tensor([1.0, 1, 1, 0, 0, 0]) + 7))
    assert found["rank_query"] == pytest.approx(6)
    assert found["rank_document"] == pytest.approx(3)


def test_unrelated_sides_are_at_chance():
    n = 400
    found = probe_statistics(Views(normal(n, 16, 1), normal(n, 16, 2)), "cosine")
    assert abs(found["accuracy"] - 0.5) < 5 * 0.5 / math.sqrt(n)
    assert found["top1"] < 1 / n + 5 * math.sqrt(1 / n / n)


def test_figures_ignore_rotation_and_only_variance_knows_scale():
    views = made(30, 8)
    turn = torch.linalg.qr(normal(8, 8, 9))[0]
    before = probe_statistics(Views(views.query, views.positive))
    assert probe_statistics(Views(views.query @ turn, views.positive @ turn)) == pytest.approx(
        before, rel=1e-4, abs=1e-5
    )
    grown = probe_statistics(Views(10 * views.query, 10 * views.positive))
    variances = {name: 100 * before[name] for name in before if name.startswith("variance")}
    assert grown == pytest.approx(before | variances, rel=1e-4, abs=1e-5)


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


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match="at least 2 pairs, got 1"):
        probe_statistics(Views(torch.ones(1, 4), torch.ones(1, 4)))
    broken = normal(5, 4)
    broken[2, 1] = torch.nan
    with pytest.raises(ValueError, match="positive embeddings are not finite"):
        probe_statistics(Views(normal(5, 4), broken))
