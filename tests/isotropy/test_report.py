import json
import math

import numpy as np
import pytest
from numpy.testing import assert_allclose

from ragcun.isotropy import IsotropyReport, MeasureSettings, measure_space, measure_system, measures
from ragcun.isotropy.moments import grouped_moments, random_groups
from ragcun.isotropy.pairs import principal_plane
from ragcun.isotropy.report import NAMES
from ragcun.isotropy.spectrum import interval

SMALL = MeasureSettings(sample=60, k=5)


def rows(n, dim=8, seed=0, shift=0.2):
    return np.random.default_rng(seed).standard_normal((n, dim)) * np.geomspace(1, 0.2, dim) + shift


def judged(n=40, documents=150, seed=5):
    return np.random.default_rng(seed).integers(0, (n, documents), (90, 2))


X, Y, PAIRS = rows(150), rows(40, seed=1, shift=0.5), judged()
ONCE = np.repeat(np.arange(100)[:, None], 2, axis=1)


@pytest.fixture(scope="module")
def system():
    return measure_system("toy", X, Y, PAIRS, settings=SMALL)


def test_report_has_the_format_that_is_read_from_disk(system):
    report = IsotropyReport("toy", 150, 40, [system], SMALL, {"commit": "x"}).to_dict()
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["data"] == {"name": "toy", "n_documents": 150, "n_queries": 40}
    assert report["settings"] == {"seed": 0, "groups": 50, "k": 5, "sample": 60}
    assert (report["format"], report["manifest"]) == (1, {"commit": "x"})
    (only,) = report["systems"]
    assert list(only) == ["model", "untouched", "distance", "spaces", "pairs"]
    assert list(only["spaces"]) == ["documents", "queries", "together"]
    for space, n in zip(only["spaces"].values(), (150, 40, 190), strict=True):
        assert list(space) == ["n", "dim", "measures", "spectrum", "norms", "distances", "k_occurrence"]
        assert (space["n"], space["dim"], len(space["spectrum"])) == (n, 8, 8)
        assert tuple(space["measures"]) == NAMES
        occurrence = space["k_occurrence"]
        assert occurrence["n"] == sum(occurrence["counts"].values()) == min(n, 60)
        assert sum(int(c) * m for c, m in occurrence["counts"].items()) == 5 * occurrence["n"]
    assert list(only["pairs"]) == ["measures", "distances", "pca"]
    alone = measure_system("toy", X, settings=SMALL).to_dict()
    assert alone == {name: only[name] for name in alone} | {"spaces": {"documents": only["spaces"]["documents"]}}


def test_values_are_those_of_the_functions_of_a_matrix_and_intervals_leave_out_random_groups():
    found = measure_space(X).measures
    for name in NAMES:
        assert found[name].value == pytest.approx(getattr(measures, name)(X), rel=1e-6), name
        assert found[name].low < found[name].value < found[name].high
        assert found[name].n == 150
    group_of, found = random_groups(150, 50, seed=0), measure_space(X).measures
    axes = np.linalg.eigh(X.T @ X)[1]
    kept = [X[group_of != group] for group in range(50)]
    sums = [np.exp(np.hstack([each @ axes, -each @ axes])).sum(axis=0) for each in kept]
    left = {"uniformity": [measures.uniformity(each) for each in kept], "partition": [s.min() / s.max() for s in sums]}
    left["robin_hood"] = [measures.robin_hood(each) for each in kept]
    for name, values in left.items():
        assert (found[name].low, found[name].high) == pytest.approx(interval(found[name].value, values)), name


def test_spaces_are_those_of_their_rows(system):
    stacked = np.vstack([Y, X])
    expected, together = measure_space(stacked, SMALL), system.spaces["together"]
    for name in NAMES:
        assert together.measures[name].value == pytest.approx(expected.measures[name].value, rel=1e-6), name
    assert_allclose(together.spectrum, np.linalg.eigvalsh(np.cov(stacked.T))[::-1], rtol=1e-9)
    assert together.norms.mean == pytest.approx(np.linalg.norm(stacked, axis=1).mean())


def test_gaussian_rows_are_as_isotropic_rows():
    """Value and reference are draws of one law, each within about 1/5 of the interval's half of the mean."""
    found = measure_space(np.random.default_rng(7).standard_normal((1500, 16))).measures
    for name, measure in found.items():
        if name != "partition":
            half = (measure.high - measure.low) / 2
            assert abs(measure.value - measure.isotropic) < 2.5 * half, name
    assert found["partition"].isotropic is None


def test_gap_and_its_interval():
    x, y, pairs = rows(500), rows(300, seed=1, shift=0.5), judged(300, 500)
    found = measure_system("toy", x, y, pairs, settings=SMALL).pairs.measures
    between = np.linalg.norm(y.mean(axis=0) - x.mean(axis=0))
    assert found["gap"].value == pytest.approx(between)
    within = x.var(axis=0, ddof=1).sum() + y.var(axis=0, ddof=1).sum()
    assert found["relative_gap"].value == pytest.approx(between**2 / within)
    # by the delta method the variance of the gap is uᵀ(Cx/n + Cy/m)u, u its direction; the jackknife's own spread over
    # 50 groups is a tenth of the standard error, √2 less for two sides
    u = (y.mean(axis=0) - x.mean(axis=0)) / between
    error = math.sqrt(u @ (np.cov(x.T) / 500 + np.cov(y.T) / 300) @ u)
    assert (found["gap"].high - found["gap"].low) / 2 == pytest.approx(2.01 * error, rel=0.4)


def test_alignment_and_distances_of_relevant_pairs(system):
    queries, documents = Y[PAIRS[:, 0]], X[PAIRS[:, 1]]
    assert system.pairs.measures["alignment"].value == pytest.approx(measures.alignment(queries, documents))
    assert system.pairs.measures["alignment"].n == system.pairs.distances["relevant"].n == 90
    expected = np.linalg.norm(queries - documents, axis=1)
    assert system.pairs.distances["relevant"].mean == pytest.approx(expected.mean())
    assert system.pairs.distances["random"].n == 60


def test_interval_of_alignment_leaves_out_queries_not_pairs():
    """Pairs of one query repeated 20 times are no more evidence than one."""
    systems = [measure_system("toy", X, rows(100, seed=1), ONCE.repeat(n, 0), settings=SMALL) for n in (1, 20)]
    few, many = (system.pairs.measures["alignment"] for system in systems)
    assert (many.value, many.high) == pytest.approx((few.value, few.high))


def test_plane_holds_projections_on_the_documents_axes(system):
    values, vectors = np.linalg.eigh(np.cov(X.T))
    pca = system.pairs.pca
    assert_allclose(pca.explained, values[::-1][:2] / values.sum(), rtol=1e-9)
    projected = [np.abs((each - X.mean(axis=0)) @ vectors[:, ::-1][:, :2]) for each in (Y, X)]
    queries, documents = np.unique(PAIRS[:, 0]), {tuple(pair) for pair in PAIRS.tolist()}
    assert_allclose(np.abs(pca.queries), projected[0][queries], rtol=1e-7, atol=1e-9)
    place_of = {tuple(np.round(row, 9)): i for i, row in enumerate(projected[1])}
    for query, document in pca.links:
        shown = place_of[tuple(np.round(np.abs(pca.documents[document]), 9))]
        assert (queries[query], shown) in documents
    counts = np.bincount([query for query, _ in pca.links])
    expected = [min(3, len(np.unique(PAIRS[PAIRS[:, 0] == query, 1]))) for query in queries]
    assert counts.tolist() == expected
    pca = measure_system("toy", X, rows(100, seed=1), ONCE, settings=SMALL).pairs.pca
    assert len(pca.queries) == len(pca.documents) == len(pca.links) == 60
    axes = principal_plane(grouped_moments(X).total)[0]
    assert (axes[np.abs(axes).argmax(axis=0), [0, 1]] > 0).all()
    assert_allclose(principal_plane(grouped_moments(np.ones((5, 1))).total)[0], [[1, 0]])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [0.0, 0.7])
def test_constant_rows_have_nulls_and_no_warning(value):
    point = np.full((30, 4), value)
    report = measure_system("toy", point, point[:20], [[0, 1]], settings=SMALL).to_dict()
    json.dumps(report, allow_nan=False)
    found = report["spaces"]["documents"]["measures"]
    for name in ("isotropy_score", "isoscore", "condition_number", "alpha_req", "sigreg"):
        assert found[name]["value"] is found[name]["low"] is None, name
    assert found["participation_ratio"]["value"] == found["effective_rank"]["value"] == 0
    gaps = report["pairs"]["measures"]
    assert (gaps["gap"]["value"], gaps["relative_gap"]["value"]) == (0, None)


RANK_ONE = np.outer(np.arange(1.0, 80), np.ones(6))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("x", [rows(2, 3), rows(3, 1), rows(5, 400), rows(12, 2), RANK_ONE], ids=np.shape)
def test_few_rows_odd_shapes_and_rank_one_are_measured(x):
    report = measure_system("toy", x, rows(2, x.shape[1], seed=2), [[1, 1]], settings=SMALL).to_dict()
    json.dumps(report, allow_nan=False)
    found = report["spaces"]["documents"]["measures"]
    assert found["mean_cosine"]["value"] is not None
    assert (found["condition_number"]["value"] is None) == (len(x) <= x.shape[1] or x is RANK_ONE)
    if x is RANK_ONE:
        assert found["isoscore"]["value"] == pytest.approx(0, abs=1e-12)
        assert found["effective_rank"]["value"] == found["stable_rank"]["value"] == 1
        assert 0 <= found["partition"]["value"] < 1e-30


def test_rows_of_one_length_are_compared_with_directions():
    """Lengths that differ make hubs, so N(0, I) as it is has twice the Robin Hood index of its directions here."""
    x = np.random.default_rng(0).standard_normal((400, 64))
    free, unit = measure_space(x).measures, measure_space(x / np.linalg.norm(x, axis=1)[:, None]).measures
    assert free["robin_hood"].isotropic > 2 * unit["robin_hood"].isotropic
    assert unit["robin_hood"].value == pytest.approx(unit["robin_hood"].isotropic, rel=0.2)


@pytest.mark.parametrize(
    ("queries", "pairs", "message"),
    [
        (None, [[0, 0]], "without queries"),
        (rows(20), [[0, 0], [1, 20]], r"pairs must index 20 queries and 20 documents, pair 1 is \[1, 20\]"),
        (rows(20), [[-1, 0]], r"pair 0 is \[-1, 0\]"),
        (rows(20), [], "pairs of integers"),
    ],
)
def test_pairs_that_cannot_be_measured_are_refused(queries, pairs, message):
    with pytest.raises(ValueError, match=message):
        measure_system("toy", rows(20), queries, pairs, settings=SMALL)
