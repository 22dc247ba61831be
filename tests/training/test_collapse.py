"""Collapse: its statistics against loops and closed forms, and the monitor on simulated courses of training."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict

import pytest
import torch
from scipy.stats import entropy
from torch import Tensor

from ragcun.batch import Views
from ragcun.training.collapse import CollapseMonitor, probe_statistics

N, DIM = 128, 32
LOOKS = torch.linspace(0, 1, 13).tolist()


def normal(n: int = N, dim: int = DIM, seed: int = 0) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


def pairs(noise: float = 0.5) -> tuple[Tensor, Tensor]:
    """Positives with falling spread and a mean, and queries near them."""
    positive = normal(seed=1) * torch.linspace(2, 0.2, DIM) + 0.5
    return positive + noise * normal(seed=2), positive


def orthogonal(seed: int = 3) -> Tensor:
    return torch.linalg.qr(normal(DIM, DIM, seed))[0]


def watch(course: Callable[[float], Views]) -> dict[str, str]:
    """Show the monitor a course of training; its argument runs from 0, the start, to 1."""
    monitor = CollapseMonitor()
    named = [monitor.observe(10 * step, probe_statistics(course(t))) for step, t in enumerate(LOOKS)]
    found = {kind: message for messages in named for kind, message in messages.items()}
    assert len(found) == sum(map(len, named))  # once
    return found


def both(change: Callable[[Tensor, float], Tensor]) -> Callable[[float], Views]:
    return lambda t: Views(*(change(z, t) for z in pairs()))


def whitened(z: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(torch.cov(z.T))
    return (z - z.mean(0)) @ vectors @ torch.diag(values.rsqrt())


def turn(t: float) -> Tensor:
    return torch.matrix_exp(3 * t * (orthogonal() - orthogonal().T))


def shrunk(z: Tensor, whole: int, t: float) -> Tensor:
    """Return rows that lose all but their first dimensions."""
    return z * torch.cat([torch.ones(whole), torch.full((DIM - whole,), 1 - t)])


def towards_line(z: Tensor, t: float) -> Tensor:
    line = torch.outer(z[:, 0], torch.ones(DIM))
    return (1 - t) * z + t * line


def respred(alpha: float, wanted: float = 1.0) -> Views:
    query, positive = pairs()
    target = query + wanted * (positive - query)
    delta = 5 * (positive - query)
    return Views(query, positive, predicted=query + alpha * delta.tanh(), target=target, residual=delta)


HEALTHY: dict[str, Callable[[float], Views]] = {
    "rotation": both(lambda z, t: z @ turn(t)),
    "growth": both(lambda z, t: z * 1000**t),
    "shrinking to unit variance from lengths of 20": both(lambda z, t: z * 20 ** (1 - t)),
    "whitening": lambda t: Views(*((1 - t) * torch.cat(pairs()) + t * whitened(torch.cat(pairs()))).split(N)),
    "removal of the mean": both(lambda z, t: z - t * z.mean(0)),
    "a mean far from the origin": both(lambda z, t: z + 10 * t),
    "a narrow cone from the start": both(lambda z, t: z + 100),
    "sharpening": lambda t: Views(*pairs(noise=0.5 * (1 - 0.95 * t))),
    "loss of half the dimensions": both(lambda z, t: shrunk(z, DIM // 2, t)),
    "a gap that costs nothing": lambda t: Views(pairs()[0] + 0.5 * t, pairs()[1]),
    "one outlier": lambda t: Views(*(torch.cat([z[:1] * (1 + 2 * t), z[1:]]) for z in pairs())),
    "the correction grows": lambda t: respred(0.1 + 0.2 * t),
    "query and target become one, and with them the correction nothing": lambda t: respred(0.3 * (1 - t), 1 - t),
    "random start that learns": lambda t: Views(
        *(z @ m for z, m in zip(pairs(), (orthogonal(), (1 - t) * orthogonal(4) + t * orthogonal()), strict=True))
    ),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_courses_are_silent(name):
    assert watch(HEALTHY[name]) == {}


COLLAPSING: dict[str, tuple[str, Callable[[float], Views]]] = {
    "to the mean": ("total", both(lambda z, t: z.mean(0) + (z - z.mean(0)) * (1 - t) ** 2)),
    "to the origin": ("total", both(lambda z, t: z * 1e-6**t)),
    "queries alone": ("drift, total", lambda t: Views(pairs()[0] * (1 - t) + 3 * t, pairs()[1])),
    "documents alone": ("total", lambda t: Views(pairs()[0], pairs()[1] * (1 - t) + 3 * t)),
    "to a line": ("dimensional", both(towards_line)),
    "to a plane of documents": ("dimensional", lambda t: Views(pairs()[0], shrunk(pairs()[1], 2, t))),
    "query head drifts": ("drift", lambda t: Views(pairs()[0] + 30 * t * normal(1, seed=5), pairs()[1])),
    "query head turns": ("drift", lambda t: Views(pairs()[0] @ turn(t), pairs()[1])),
    "heads that never meet": ("drift", lambda t: Views(pairs()[0] @ orthogonal(), pairs()[1] @ orthogonal(4))),
    "alpha goes to 0": ("identity", lambda t: respred(0.3 * max(0.0, 1 - 1.5 * t))),
    "no correction from the start": ("identity", lambda t: respred(0.0)),
}


@pytest.mark.parametrize("name", COLLAPSING)
def test_each_collapse_is_named_once_and_alone(name):
    kinds, course = COLLAPSING[name]
    found = watch(course)
    assert ", ".join(found) == kinds
    for kind, message in found.items():
        assert f"{kind} collapse at step " in message
        assert "--" in message.split(";")[-1]


def test_total_collapse_beyond_doubt_is_named_at_once_and_one_odd_look_is_not():
    point = probe_statistics(Views(torch.ones(N, DIM), torch.ones(N, DIM)))
    assert [*CollapseMonitor().observe(0, point)] == ["total"]
    monitor = CollapseMonitor()
    assert monitor.observe(0, probe_statistics(Views(*pairs()))) == {}
    assert [*monitor.observe(10, point)] == ["total"]
    assert monitor.observe(20, point) == {}
    monitor, (query, positive) = CollapseMonitor(), pairs()
    sound, odd = Views(query, positive), Views(*(towards_line(z, 1.0) for z in (query, positive)))
    looks = map(probe_statistics, [sound, odd, sound, odd, sound, odd, odd])
    named = [bool(monitor.observe(step, now)) for step, now in enumerate(looks)]
    assert named == [False] * 6 + [True]


@pytest.mark.parametrize("name", COLLAPSING)
@pytest.mark.parametrize("after", [1, 9])
def test_a_resumed_run_names_what_an_uninterrupted_one_does(name, after):
    course = COLLAPSING[name][1]
    monitor, found = CollapseMonitor(), dict[str, str]()
    for step, t in enumerate(LOOKS):
        if step == after:
            monitor = CollapseMonitor(**json.loads(json.dumps(asdict(monitor), allow_nan=False)))
        found |= monitor.observe(10 * step, probe_statistics(course(t)))
    assert found == watch(course)


# Statistics of a probe


def made(n: int, dim: int) -> Views:
    positive = normal(n, dim, 1) * torch.linspace(2, 0.2, dim) + 0.5
    query, predicted = positive + normal(n, dim, 2), positive + 0.5 * normal(n, dim, 3)
    relevant = torch.rand(n, n, generator=torch.Generator().manual_seed(4)) < 0.2
    return Views(query, positive, relevant=relevant, predicted=predicted, target=positive + 0.1, residual=query)


@pytest.mark.parametrize(("n", "dim"), [(2, 3), (6, 10), (10, 10), (30, 4)])
def test_sides_match_their_definitions(n, dim):
    views = made(n, dim)
    found = probe_statistics(views)
    for side, z in (("query", views.query.double()), ("document", views.positive.double())):
        cosines = torch.cosine_similarity(z[:, None], z[None], dim=2)[~torch.eye(n, dtype=torch.bool)]
        variance, spectrum = float(z.var(0).sum()), torch.linalg.eigvalsh(torch.cov(z.T)).clamp_min(0)
        expected = {
            "variance": variance,
            "spread": variance / float(z.square().sum(1).mean()),
            "rank": math.exp(entropy(spectrum)),
            "mean_cosine": float(cosines.mean()),
        }
        assert {name: found[f"{name}_{side}"] for name in expected} == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert found["rank_bound"] == min(n - 1, dim)


@pytest.mark.parametrize("known", [False, True])
def test_pairs_match_all_distances(known):
    views = made(20, 6)
    queries, documents = views.query.double(), views.positive.double()
    distances, others = torch.cdist(queries, documents), ~torch.eye(20, dtype=torch.bool)
    if known:
        others &= ~views.relevant
    nearer = ((distances <= distances.diag()[:, None]) & others).sum(1)
    found = probe_statistics(Views(views.query, views.positive, relevant=views.relevant if known else None))
    assert found["top1"] == pytest.approx(float((nearer == 0).double().mean()))
    assert found["accuracy"] == pytest.approx(float((nearer < others.sum(1) / 2).double().mean()))
    between, within = (queries.mean(0) - documents.mean(0)).square().sum(), (queries.var(0) + documents.var(0)).sum()
    assert found["gap"] == pytest.approx(float(between / within), rel=1e-4)


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


@pytest.mark.parametrize("value", [0.0, 0.7])
def test_total_collapse_has_finite_figures_and_non_finite_embeddings_are_refused(value):
    point = torch.full((6, 4), value)
    found = probe_statistics(Views(point, point, predicted=point, target=point, residual=point))
    assert all(math.isfinite(figure) for figure in found.values())
    assert found["spread_query"] < 1e-10
    assert found["top1"] == found["accuracy"] == 0
    with pytest.raises(ValueError, match="positive embeddings are not finite"):
        probe_statistics(Views(normal(5, 4), torch.full((5, 4), torch.nan)))


def test_half_precision_inside_autocast_is_measured_in_float32():
    views = Views(made(30, 8).query.bfloat16(), made(30, 8).positive.bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = probe_statistics(views)
    assert inside == probe_statistics(Views(views.query.float(), views.positive.float()))
